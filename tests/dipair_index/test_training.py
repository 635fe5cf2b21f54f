"""Training on the bundled sample, with models so small that seconds are enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from dipair_index.distillation import distil, score_pairs
from dipair_index.dual_encoder import DualEncoder
from dipair_index.errors import FormatError, IndexDirectoryError, SettingsError
from dipair_index.labels import label_pairs
from dipair_index.model import DiPairModel
from dipair_index.tables import write_table
from dipair_index.teacher import open_teacher
from dipair_index.teacher_training import train_teacher
from dipair_index.trainer import Schedule
from dipair_index.training import (
    GroupDataset,
    LabelledGroups,
    TrainingSettings,
    initialise_projections,
)

QUERIES = {
    f"q{number}": f"{word} why" for number, word in enumerate(("bees", "lava", "tea", "moon"))
}
SUBJECTS = ["the honey bees dance", "lava ash volcano", "green tea leaves", "moon tide gravity"]


@contextmanager
def quiet(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four queries, each with one subject of four whose passages are the right ones."""
    folder = tmp_path_factory.mktemp("dataset")
    passages = {
        f"p{subject}{number}": f"{text} {'in the winter ' * number}"
        for subject, text in enumerate(SUBJECTS)
        for number in range(3)
    }
    pairs = [(query, passage) for query in QUERIES for passage in passages]
    columns = {
        "query_id": [query for query, _ in pairs],
        "passage_id": [passage for _, passage in pairs],
        "label": [float(query[1] == passage[1]) for query, passage in pairs],
    }
    for split in ("train", "valid", "test", "transfer"):
        write_table(pa.table(columns), folder / f"{split}.parquet")
    texts = {"query_id": list(QUERIES), "text": list(QUERIES.values())}
    write_table(pa.table(texts), folder / "queries.parquet")
    texts = {"passage_id": list(passages), "text": list(passages.values())}
    write_table(pa.table(texts), folder / "passages.parquet")
    (folder / "dataset.json").write_text(json.dumps({"embedder": {"passages_digest": "made here"}}))
    return folder


@pytest.fixture(scope="module")
def teacher_dir(
    dataset: Path, tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    schedule = Schedule(epochs=100, learning_rate=2e-3, batch_size=16)
    record = train_teacher(
        dataset, out, encoder=str(tiny_encoder_dir), schedule=schedule, progress=quiet
    )
    assert record["auc"]["test"] > 0.95
    return out


@pytest.fixture(scope="module")
def labels(dataset: Path, teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    teacher = open_teacher(str(teacher_dir))
    assert list(label_pairs(dataset, folder, teacher, per_query=12, shard_size=16, seed=0))
    return folder


def student(dataset: Path, labels: Path, encoder: Path, out: Path, **changes: object) -> float:
    resume = bool(changes.pop("resume", False))
    settings = {
        "stage_one_epochs": 60,
        "stage_one_learning_rate": 3e-3,
        "stage_two_epochs": 100,
        "stage_two_learning_rate": 2e-3,
        "batch_queries": 4,
        "group": 6,
        "save_steps": 10,
    } | changes
    record = distil(
        dataset,
        labels,
        out,
        encoder=str(encoder),
        layers=None,
        model_settings={
            "dim": 16,
            "head_intermediate": 32,
            "head_dropout": 0.0,
            "pooling": "mean",
            "similarity_residual": True,
        },
        settings=TrainingSettings(**settings),  # type: ignore[arg-type]
        progress=quiet,
        resume=resume,
    )
    return float(record["auc"]["test"])


def test_a_student_learns_from_its_teacher_in_two_stages(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    assert student(dataset, labels, tiny_encoder_dir, out) > 0.95
    record = json.loads((out / "training.json").read_text())
    assert record["labels"]["pairs"] == 48
    assert record["training"]["seed"] == 0
    assert record["dataset"] == "made here"
    assert not (tmp_path / "student.training").exists()
    loaded = DualEncoder.load(out)
    right, wrong = score_pairs(loaded, ["bees why"] * 2, ["the honey bees dance", "moon tide"])
    assert right > wrong


class Stopped(Exception):
    """What ends the run below where a person would press Ctrl-C."""


@pytest.mark.parametrize(("stage", "step"), [("stage-1", 30), ("stage-2", 25)])
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    dataset: Path,
    labels: Path,
    tiny_encoder_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
) -> None:
    from transformers import Trainer

    epochs = {"stage_one_epochs": 40, "stage_two_epochs": 40}
    student(dataset, labels, tiny_encoder_dir, tmp_path / "whole", **epochs)
    training_step = Trainer.training_step

    def stopping(self: Trainer, *arguments: object, **named: object) -> torch.Tensor:
        if stage in self.args.output_dir and self.state.global_step == step:
            raise Stopped
        return training_step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", stopping)
        with pytest.raises(Stopped):
            student(dataset, labels, tiny_encoder_dir, tmp_path / "cut", **epochs)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(IndexDirectoryError, match="holds an interrupted run: pass --resume"):
        student(dataset, labels, tiny_encoder_dir, tmp_path / "cut", **epochs)
    with pytest.raises(SettingsError, match="was begun with other settings \\(training\\)"):
        student(dataset, labels, tiny_encoder_dir, tmp_path / "cut", resume=True)
    student(dataset, labels, tiny_encoder_dir, tmp_path / "cut", resume=True, **epochs)
    whole, cut = (DualEncoder.load(tmp_path / name).model.state_dict() for name in ("whole", "cut"))
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, msg=name)


def test_stage_one_leaves_the_encoder_alone_and_stage_two_the_word_embeddings(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    before = DiPairModel.from_encoder(str(tiny_encoder_dir)).encoder.half().float().state_dict()
    student(dataset, labels, tiny_encoder_dir, tmp_path / "one", stage_two_epochs=0)
    one = DualEncoder.load(tmp_path / "one").model.encoder.state_dict()
    assert [name for name in before if not torch.equal(before[name], one[name])] == []
    student(dataset, labels, tiny_encoder_dir, tmp_path / "two", stage_two_epochs=5)
    two = DualEncoder.load(tmp_path / "two").model.encoder.state_dict()
    same = {name for name in before if torch.equal(before[name], two[name])}
    assert {name for name in before if name.startswith("embeddings.")} <= same
    assert "encoder.layer.0.output.dense.weight" not in same


def test_a_model_that_exists_is_not_replaced(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(IndexDirectoryError, match="there exists: pass --overwrite"):
        student(dataset, labels, tiny_encoder_dir, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_projections_begin_where_cosines_survive(tiny_encoder_dir: Path) -> None:
    """Vectors that fill 16 of 32 dimensions lose nothing in a projection to 16."""
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), dim=16)
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(50, 16)) @ random.normal(size=(16, 32))).astype(np.float32)
    initialise_projections(model, vectors)
    with torch.inference_mode():
        projected = model.projections["query"](torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(projected @ projected.T, vectors @ vectors.T, rtol=1e-3, atol=1e-2)


def groups_of(rows: list[tuple[str, str, float]]) -> LabelledGroups:
    names = ("query_id", "passage_id", "logit")
    columns = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
    return LabelledGroups.from_table(pa.table(columns))


def test_labels_are_grouped_by_query() -> None:
    groups = groups_of([("b", "y", 1.0), ("a", "x", 2.0), ("b", "x", 3.0)])
    assert (groups.query_ids, groups.passage_ids) == (["a", "b"], ["x", "y"])
    assert [rows.tolist() for rows in groups.rows] == [[0], [1, 0]]
    assert [logits.tolist() for logits in groups.logits] == [[2.0], [1.0, 3.0]]


def test_a_query_with_few_labels_is_filled_with_pairs_that_have_no_say() -> None:
    dataset = GroupDataset(groups_of([("b", "y", 1.0), ("a", "x", 2.0)]), group=3, seed=0)
    item = dataset[0]
    assert item["passages"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(item["labels"], [2.0, np.nan, np.nan])


def test_each_epoch_draws_its_own_passages_and_the_same_ones_again() -> None:
    rows = [("a", f"p{number:02}", float(number)) for number in range(20)]
    dataset = GroupDataset(groups_of(rows), group=5, seed=0)
    first = dataset[0]["passages"].tolist()
    dataset.begin_epoch(1)
    assert dataset[0]["passages"].tolist() != first
    dataset.begin_epoch(0)
    assert dataset[0]["passages"].tolist() == first


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([1.0, float("nan")], "hold a logit that is not a finite number"),
        ([1.0, 1.0], "all labels are 1: there is nothing to learn"),
    ],
)
def test_labels_that_teach_nothing_are_refused(logits: list[float], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        groups_of([("a", f"p{row}", logit) for row, logit in enumerate(logits)])


def test_a_teacher_needs_both_kinds_of_pairs(dataset: Path, tiny_encoder_dir: Path) -> None:
    folder = dataset.parent / "positives"
    folder.mkdir()
    for name in ("queries", "passages"):
        (folder / f"{name}.parquet").write_bytes((dataset / f"{name}.parquet").read_bytes())
    (folder / "dataset.json").write_bytes((dataset / "dataset.json").read_bytes())
    columns = {"query_id": ["q0"], "passage_id": ["p00"], "label": [1.0]}
    write_table(pa.table(columns), folder / "train.parquet")
    with pytest.raises(FormatError, match="holds pairs of one label only"):
        train_teacher(
            folder,
            folder.parent / "none",
            encoder=str(tiny_encoder_dir),
            schedule=Schedule(1, 1e-3, 16),
            progress=quiet,
        )
