"""Training on the bundled sample, with models so small that seconds are enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dipair_index.data.dataset import Dataset
from dipair_index.data.labels import label_pairs
from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.scorers import score_tuples
from dipair_index.errors import DirectoryError, FormatError, SettingsError
from dipair_index.formats.tables import write_table
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.systems import SYSTEMS
from dipair_index.records import FloatArray
from dipair_index.training.distil import distil
from dipair_index.training.groups import GroupDataset, LabelledGroups
from dipair_index.training.run import TrainingRun, check_out
from dipair_index.training.settings import TrainingSettings
from dipair_index.training.stages import initialise_projections, train
from dipair_index.training.teacher import train_teacher
from dipair_index.training.trainer import Schedule

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
        Dataset.open(dataset),
        TrainingRun(out, progress=quiet),
        encoder=str(tiny_encoder_dir),
        schedule=schedule,
    )
    assert record["quality"]["test"]["AUC"] > 0.95
    return out


@pytest.fixture(scope="module")
def labels(dataset: Path, teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    teacher = open_teacher(str(teacher_dir))
    steps = label_pairs(Dataset.open(dataset), folder, teacher, per_query=12, shard_size=16, seed=0)
    assert list(steps)
    return folder


def student(
    dataset: Path,
    labels: Path,
    encoder: Path,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    **changes: object,
) -> dict[str, float]:
    """Trains a student and returns its quality on the test split."""
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
        Dataset.open(dataset),
        labels,
        TrainingRun(out, progress=quiet, resume=resume, overwrite=overwrite),
        encoder=str(encoder),
        layers=None,
        model_settings={
            "dim": 16,
            "head_intermediate": 32,
            "head_dropout": 0.0,
            "pooling": "mean",
            "similarity_residual": "cosine",
        },
        settings=TrainingSettings(**settings),  # type: ignore[arg-type]
    )
    quality: dict[str, float] = record["quality"]["test"]
    return quality


def test_a_student_learns_from_its_teacher_in_two_stages(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    assert student(dataset, labels, tiny_encoder_dir, out, save_steps=1000)["AUC"] > 0.95
    record = json.loads((out / "training.json").read_text())
    assert record["labels"]["pairs"] == 48
    assert record["training"]["seed"] == 0
    assert record["dataset"] == "made here"
    assert not (tmp_path / "student.training").exists()
    loaded = DualEncoder.load(out)
    texts = {"query": ["bees why"] * 2, "passage": ["the honey bees dance", "moon tide"]}
    right, wrong = score_tuples(loaded, texts)
    assert right > wrong


class Stopped(Exception):
    """What ends the run below where a person would press Ctrl-C."""


EPOCHS = {"stage_one_epochs": 25, "stage_two_epochs": 25}


@pytest.fixture(scope="module")
def undisturbed(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "student"
    student(dataset, labels, tiny_encoder_dir, out, **EPOCHS)
    return out


def assert_same_files(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    different = [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]
    assert different == []


def test_two_runs_agree_bit_for_bit(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path, undisturbed: Path
) -> None:
    student(dataset, labels, tiny_encoder_dir, tmp_path / "student", **EPOCHS)
    assert_same_files(undisturbed, tmp_path / "student")


@pytest.mark.parametrize(("stage", "step"), [("stage-1", 20), ("stage-2", 0), ("stage-2", 15)])
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    dataset: Path,
    labels: Path,
    tiny_encoder_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Path,
    stage: str,
    step: int,
) -> None:
    from transformers import Trainer

    training_step = Trainer.training_step

    def stopping(self: Trainer, *arguments: object, **named: object) -> torch.Tensor:
        if stage in self.args.output_dir and self.state.global_step == step:
            raise Stopped
        return training_step(self, *arguments, **named)

    out = tmp_path / "student"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", stopping)
        with pytest.raises(Stopped):
            student(dataset, labels, tiny_encoder_dir, out, **EPOCHS)
    assert not out.exists()
    with pytest.raises(DirectoryError, match="holds an interrupted run: pass --resume"):
        student(dataset, labels, tiny_encoder_dir, out, **EPOCHS)
    with pytest.raises(SettingsError, match="was begun with other settings \\(training\\)"):
        student(dataset, labels, tiny_encoder_dir, out, resume=True)
    student(dataset, labels, tiny_encoder_dir, out, resume=True, **EPOCHS)
    assert_same_files(undisturbed, out)


def test_stage_one_leaves_the_encoder_alone_and_stage_two_the_word_embeddings(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    before = DiPairModel.from_encoder(str(tiny_encoder_dir)).encoder.half().float().state_dict()
    epochs = {"stage_one_epochs": 3}
    student(dataset, labels, tiny_encoder_dir, tmp_path / "one", stage_two_epochs=0, **epochs)
    one = DualEncoder.load(tmp_path / "one").model.encoder.state_dict()
    assert [name for name in before if not torch.equal(before[name], one[name])] == []
    student(dataset, labels, tiny_encoder_dir, tmp_path / "two", stage_two_epochs=3, **epochs)
    two = DualEncoder.load(tmp_path / "two").model.encoder.state_dict()
    same = {name for name in before if torch.equal(before[name], two[name])}
    assert {name for name in before if name.startswith("embeddings.")} <= same
    assert "encoder.layer.0.output.dense.weight" not in same


def test_stage_two_can_train_the_top_layers_alone(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    before = DiPairModel.from_encoder(str(tiny_encoder_dir)).encoder.half().float().state_dict()
    settings = {"stages": "one", "stage_two_epochs": 3}
    student(dataset, labels, tiny_encoder_dir, tmp_path / "top", stage_two_layers=1, **settings)
    after = DualEncoder.load(tmp_path / "top").model.encoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[2] for name in moved} == {"1"}
    assert "encoder.layer.1.output.dense.weight" in moved
    with pytest.raises(SettingsError, match="--stage-two-layers 3 is more than the encoder's 2"):
        student(dataset, labels, tiny_encoder_dir, tmp_path / "no", stage_two_layers=3, **settings)


def test_one_stage_encodes_nothing_beforehand_and_trains_separate_encoders_apart(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    stages: list[str] = []

    @contextmanager
    def listening(what: str, unit: str) -> Iterator[Callable[[int], None]]:
        stages.append(what)
        yield lambda count: None

    distil(
        Dataset.open(dataset),
        labels,
        TrainingRun(tmp_path / "one", progress=listening),
        encoder=str(tiny_encoder_dir),
        layers=1,
        model_settings={"dim": 16, "head_intermediate": 32, "shared_encoder": False},
        settings=TrainingSettings(
            stages="one", stage_two_epochs=5, stage_two_learning_rate=1e-3, batch_queries=4
        ),
    )
    assert stages == ["training, stage 2"]
    model = DualEncoder.load(tmp_path / "one").model
    query, passage = (model.encoder_of(side).state_dict() for side in ("query", "passage"))
    assert not torch.equal(*(e["encoder.layer.0.output.dense.weight"] for e in (query, passage)))
    assert not any(name.startswith("encoder.layer.1") for name in query)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_learns_by_the_same_call(
    tiny_encoder_dir: Path, tiny_tokenizer: Any, tmp_path: Path, system: str
) -> None:
    """One of two passages is right, whatever is asked."""
    groups = groups_of([("a", "x", 3.0), ("a", "y", -3.0), ("b", "x", 3.0), ("b", "y", -3.0)])
    texts = {"query": {"a": "lava", "b": "tea"}, "passage": {"x": "lava ash", "y": "green tea"}}
    torch.manual_seed(0)
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir),
        dim=16,
        system=system,
        head_layers=1,
        head_hidden=[32],
        head_intermediate=32,
    )

    def scores() -> FloatArray:
        pairs = {"query": ["lava", "tea"] * 2, "passage": ["lava ash"] * 2 + ["green tea"] * 2}
        return score_tuples(DualEncoder(model, tiny_tokenizer, name=system), pairs)

    before = scores()
    settings = TrainingSettings(
        loss="regression",
        vector_weight=0,
        group=2,
        batch_queries=2,
        stages="one",
        stage_two_epochs=20,
        stage_two_learning_rate=1e-2,
    )
    train(model, tiny_tokenizer, groups, texts, tmp_path, settings, progress=quiet)
    after, right = scores(), np.float32([3, 3, -3, -3])
    assert np.square(after - right).mean() < np.square(before - right).mean()
    assert after[:2].min() > after[2:].max()


def test_a_model_that_exists_is_not_replaced(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DirectoryError, match="there exists: pass --overwrite"):
        student(dataset, labels, tiny_encoder_dir, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_overwrite_replaces_a_model_and_nothing_else(
    dataset: Path, labels: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    model = tmp_path / "models" / "mine"
    model.mkdir(parents=True)
    for name in ("config.json", "training.json"):
        (model / name).write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    for other in (tmp_path / "models", tmp_path / "notes.txt", dataset):
        with pytest.raises(DirectoryError, match="is not a model that .* pass another --out"):
            student(dataset, labels, tiny_encoder_dir, other, overwrite=True)
    assert (model / "config.json").read_text() == "{}"
    check_out(model, overwrite=True)
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty", overwrite=True)


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
    assert groups.ids == {"query": ["a", "b"], "passage": ["x", "y"]}
    assert [rows.tolist() for rows in groups.rows["passage"]] == [[0], [1, 0]]
    assert [logits.tolist() for logits in groups.logits] == [[2.0], [1.0, 3.0]]


def test_a_query_with_few_labels_is_filled_with_pairs_that_have_no_say() -> None:
    dataset = GroupDataset(groups_of([("b", "y", 1.0), ("a", "x", 2.0)]), group=3, seed=0)
    item = dataset[0]
    assert item["passage"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(item["labels"], [2.0, np.nan, np.nan])


def test_each_epoch_draws_its_own_passages_and_the_same_ones_again() -> None:
    rows = [("a", f"p{number:02}", float(number)) for number in range(20)]
    dataset = GroupDataset(groups_of(rows), group=5, seed=0)
    first = dataset[0]["passage"].tolist()
    dataset.begin_epoch(1)
    assert dataset[0]["passage"].tolist() != first
    dataset.begin_epoch(0)
    assert dataset[0]["passage"].tolist() == first


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


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0], "holds pairs of one label only"),
        (
            [0.5, 3.0],
            "row 2 of .*train.parquet has the label 3, and a teacher learns labels from 0",
        ),
        ([], "train.parquet is empty: make a dataset with train pairs"),
    ],
)
def test_a_teacher_needs_different_labels_from_nought_to_one(
    dataset: Path, tiny_encoder_dir: Path, tmp_path: Path, labels: list[float], message: str
) -> None:
    folder = tmp_path / "positives"
    folder.mkdir()
    for name in ("queries", "passages"):
        (folder / f"{name}.parquet").write_bytes((dataset / f"{name}.parquet").read_bytes())
    (folder / "dataset.json").write_bytes((dataset / "dataset.json").read_bytes())
    names = {"query_id": "q0", "passage_id": "p00"}
    columns = {name: pa.array([value] * len(labels)) for name, value in names.items()}
    columns["label"] = pa.array(labels, pa.float64())
    write_table(pa.table(columns), folder / "train.parquet")
    with pytest.raises(FormatError, match=message):
        train_teacher(
            Dataset.open(folder),
            TrainingRun(tmp_path / "none", progress=quiet),
            encoder=str(tiny_encoder_dir),
            schedule=Schedule(1, 1e-3, 16),
        )
    assert not (tmp_path / "none.training").exists()
