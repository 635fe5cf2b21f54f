"""What is refused before anything is trained, and students of tuples, classes and grades."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from transformers import BertConfig, BertModel

from dipair_index.data.dataset import Dataset
from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DiPairError, FormatError, SettingsError
from dipair_index.formats.tables import write_table
from dipair_index.training.cross_encoder_student import distil_cross_encoder
from dipair_index.training.data import TrainingData, quality
from dipair_index.training.distil import complete_settings, distil
from dipair_index.training.run import TrainingRun
from dipair_index.training.settings import TrainingSettings
from dipair_index.training.teacher import train_teacher
from dipair_index.training.trainer import Schedule

WORDS = ["bees", "lava", "tea", "moon"]


@contextmanager
def quiet(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def write_dataset(
    folder: Path, columns: Mapping[str, Sequence[object]], splits: Sequence[str] = ("valid", "test")
) -> Path:
    """A dataset whose texts are its ids; `columns` are by side, and "label"."""
    folder.mkdir()
    sides = [name for name in columns if name != "label"]
    for side in sides:
        names = sorted({str(name) for name in columns[side]})
        file = {"query": "queries", "passage": "passages"}.get(side, side)
        write_table(pa.table({f"{side}_id": names, "text": names}), folder / f"{file}.parquet")
    table = {f"{side}_id": columns[side] for side in sides} | {"label": columns["label"]}
    for split in ("train", *splits):
        write_table(pa.table(table), folder / f"{split}.parquet")
    record = {"sides": sides, "fingerprint": "f00d"}
    (folder / "dataset.json").write_text(json.dumps(record))
    return folder


def write_labels(folder: Path, columns: Mapping[str, object]) -> Path:
    """A teacher's labels; `columns` are ids by side, and "logit"."""
    folder.mkdir()
    named = {name if name == "logit" else f"{name}_id": each for name, each in columns.items()}
    write_table(pa.table(named), folder / "part-00000.parquet")
    (folder / "labels.json").write_text(json.dumps({"teacher": "made here"}))
    return folder


PAIRS = {"query": ["bees", "bees", "lava"], "passage": ["tea", "moon", "tea"]}


def several(logits: list[list[float]]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array([each for row in logits for each in row], pa.float32()), len(logits[0])
    )


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({**PAIRS, "logit": [1.0, float("inf"), 0.0]}, {}, "hold a logit that is not a finite"),
        ({**PAIRS, "logit": [1.0, 1.0, 1.0]}, {}, "all labels are 1: there is nothing to learn"),
        ({**PAIRS, "logit": [1.0, None, 0.0]}, {}, "hold a logit that is not a finite"),
        ({"query": [], "passage": [], "logit": pa.array([], pa.float32())}, {}, "are empty or"),
        (
            {**PAIRS, "logit": several([[1, 2], [1, 2], [1, 2]])},
            {"loss": "multi-class"},
            "all labels are 1, 2: there is nothing to learn",
        ),
        (
            {**PAIRS, "logit": several([[1, 2], [0, 2], [1, 2]])},
            {},
            "the labels have 2 outputs per pair, and a both loss learns one: pass",
        ),
        (
            {**PAIRS, "logit": [1.0, 2.0, 3.0]},
            {"loss": "multi-class"},
            "needs a teacher with several outputs, and the labels have one per pair: choose binary",
        ),
        (
            {"query": ["bees", "lava"], "passage": ["tea", "tea"], "logit": [1.0, 2.0]},
            {"loss": "margin-mse"},
            "no query has two labels, and a margin-mse loss compares",
        ),
        ({**PAIRS, "logit": [1.0, 2.0, 3.0]}, {"group": 1}, "both loss needs --group 2 or more"),
        ({**PAIRS, "logit": [1.0, 2.0, 3.0]}, {"loss": "hinge"}, "no loss hinge: choose binary"),
        ({**PAIRS, "logit": [1.0, 2.0, 3.0]}, {"temperature": 0}, "--temperature must be above 0"),
        (
            {**PAIRS, "logit": [1.0, 2.0, 3.0]},
            {"stage_two_layers": 1, "train_embeddings": True},
            "--train-embeddings trains the token embeddings below them: drop one of the two",
        ),
        (
            {**PAIRS, "passage": ["tea", "sun", "tea"], "logit": [1.0, 2.0, 3.0]},
            {},
            r"name passage sun, and .*dataset has no such passage \(missing: 1 of 2\)",
        ),
        (
            {**PAIRS, "title": ["x", "y", "z"], "logit": [1.0, 2.0, 3.0]},
            {},
            "of tuples of query, passage, title, and the dataset's are of query, passage: label",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, columns: Mapping[str, object], settings: dict[str, object], message: str
) -> None:
    dataset = write_dataset(tmp_path / "dataset", {**PAIRS, "label": [1.0, 0.0, 0.0]})
    labels = write_labels(tmp_path / "labels", columns)
    with pytest.raises(DiPairError, match=message):
        TrainingData.read(Dataset.open(dataset), labels, TrainingSettings(**settings))  # type: ignore[arg-type]


def test_pairs_without_a_text_or_a_label_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {**PAIRS, "label": [1.0, 0.0, 0.0]})
    labels = write_labels(tmp_path / "labels", {**PAIRS, "logit": [1.0, 2.0, 3.0]})
    names = {"query_id": ["bees"], "passage_id": ["sun"], "label": [1.0]}
    write_table(pa.table(names), dataset / "valid.parquet")
    message = "valid.parquet names passage sun, and the dataset has no such passage: run"
    with pytest.raises(FormatError, match=message):
        TrainingData.read(Dataset.open(dataset), labels, TrainingSettings())
    with pytest.raises(FormatError, match=message):
        Dataset.open(dataset).judged("valid")
    names = {"query_id": ["bees"], "passage_id": ["tea"], "label": [float("nan")]}
    write_table(pa.table(names), dataset / "valid.parquet")
    with pytest.raises(FormatError, match="holds a label that is not a finite number"):
        TrainingData.read(Dataset.open(dataset), labels, TrainingSettings())


def test_labels_of_held_out_queries_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {**PAIRS, "label": [1.0, 0.0, 0.0]})
    labels = write_labels(tmp_path / "labels", {**PAIRS, "logit": [1.0, 2.0, 3.0]})
    queries = {"query_id": ["bees", "lava"], "text": ["bees", "lava"]}
    message = r"are of query lava, and .*dataset holds it out .*\(held out: 1 of 2\): label this"
    for split in ("valid", "test"):
        splits = pa.table({**queries, "split": ["train", split]})
        write_table(splits, dataset / "queries.parquet")
        with pytest.raises(FormatError, match=message):
            TrainingData.read(Dataset.open(dataset), labels, TrainingSettings())
    splits = pa.table({**queries, "split": ["train", "unlabelled"]})
    write_table(splits, dataset / "queries.parquet")
    assert (
        TrainingData.read(Dataset.open(dataset), labels, TrainingSettings()).groups.ids["query"]
        == WORDS[:2]
    )


def test_only_the_splits_that_hold_something_are_measured(tmp_path: Path) -> None:
    dataset = write_dataset(
        tmp_path / "dataset", {**PAIRS, "label": [1.0, 0.0, 0.0]}, splits=["test"]
    )
    labels = write_labels(tmp_path / "labels", {**PAIRS, "logit": [1.0, 2.0, 3.0]})
    data = TrainingData.read(Dataset.open(dataset), labels, TrainingSettings())
    assert list(data.held_out) == ["test"]
    empty = {"query_id": pa.array([], pa.string()), "passage_id": pa.array([], pa.string())}
    write_table(pa.table({**empty, "label": pa.array([], pa.float64())}), dataset / "test.parquet")
    assert TrainingData.read(Dataset.open(dataset), labels, TrainingSettings()).held_out == {}


def test_digests_follow_texts_and_labels_and_nothing_else(tmp_path: Path) -> None:
    def digests(name: str, logits: object, words: list[str]) -> tuple[str, str]:
        pairs = {"query": ["bees", "bees", "lava"], "passage": words}
        dataset = write_dataset(tmp_path / name, {**pairs, "label": [1.0, 0.0, 0.0]})
        labels = write_labels(tmp_path / f"{name}.labels", {**pairs, "logit": logits})
        record = TrainingData.read(Dataset.open(dataset), labels, TrainingSettings()).record
        return record["texts"], record["labels"]["digest"]

    first = digests("a", [1.0, 2.0, 3.0], ["tea", "moon", "tea"])
    assert digests("b", pa.array([1, 2, 3], pa.float32()), ["tea", "moon", "tea"]) == first
    other = digests("c", [1.0, 2.0, 3.5], ["tea", "moon", "tea"])
    assert (other[0] == first[0], other[1] == first[1]) == (True, False)
    assert digests("d", [1.0, 2.0, 3.0], ["tea", "sun", "tea"])[0] != first[0]


def test_sides_and_classes_come_from_the_data() -> None:
    asked = {"max_passage_tokens": 6, "passage_length": 64, "extra_sides": {"title": [2, 16]}}
    completed = complete_settings(asked, ("query", "passage", "title", "brand"), 3)
    assert completed["extra_sides"] == {"title": [2, 16], "brand": [6, 64]}
    assert completed["classes"] == 3
    with pytest.raises(SettingsError, match="has no side title: it has query and passage only"):
        complete_settings(asked, ("query", "passage"), 1)


def test_quality_is_auc_of_two_labels_and_pearson_of_grades() -> None:
    scores = np.float32([0.1, 0.9, 0.4, 0.4])
    assert quality(np.array([0, 1, 0, 1]), scores) == {"AUC": 3.5 / 4}
    assert quality(np.array([1, 1, 1, 1]), scores) == {"AUC": None}
    graded = np.array([0.0, 1.0, 0.5, 0.2])
    expected = round(float(np.corrcoef(graded, scores)[0, 1]), 4)
    assert quality(graded, scores) == {"Pearson": expected}
    assert quality(graded, np.ones(4, np.float32)) == {"Pearson": None}
    classes = np.float32([[3, 0, 0], [0, 3, 0], [0, 3, 0], [0, 0, 3]])
    found = quality(np.float32([0, 0.5, 1, 1]), classes)
    assert found["Accuracy"] == 0.75
    assert found["Pearson"] == pytest.approx(0.85, abs=0.05)


def test_accuracy_is_of_grades_that_the_dataset_has_scaled() -> None:
    # the highest of three classes, though 1 is also the number of the one in the middle
    highest = np.float32([[0, 0, 3], [3, 0, 0], [0, 3, 0]])
    assert quality(np.array([1, 0, 1]), highest)["Accuracy"] == round(2 / 3, 4)
    four = np.eye(4, dtype=np.float32)
    assert quality(np.float32([0, 1, 2, 3]) / np.float32(3), four)["Accuracy"] == 1
    assert "Accuracy" not in quality(np.array([0, 0.3, 1]), highest)


SETTINGS = {
    "stages": "one", "stage_two_epochs": 30.0, "stage_two_learning_rate": 1e-2,
    "batch_queries": 4, "group": 4, "vector_weight": 0.0, "save_steps": 1000,
}  # fmt: skip


def test_a_student_of_tuples_reads_the_third_side(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    """Only the title tells; queries and passages are the same in good and bad tuples."""
    tuples = [(q, p, t) for q in WORDS for p in ("ice", "sun") for t in ("honey", "yeast")]
    query, passage, title = (list(column) for column in zip(*tuples, strict=True))
    right = [float(each == "honey") for each in title]
    sides = {"query": query, "passage": passage, "title": title}
    dataset = write_dataset(tmp_path / "dataset", {**sides, "label": right})
    labels = write_labels(tmp_path / "labels", {**sides, "logit": [6 * x - 3 for x in right]})
    record = distil(
        Dataset.open(dataset),
        labels,
        TrainingRun(tmp_path / "student", progress=quiet),
        encoder=str(tiny_encoder_dir),
        layers=1,
        model_settings={"system": "ffnn", "dim": 16, "head_hidden": [32], "max_passage_tokens": 2},
        settings=TrainingSettings(loss="binary", **SETTINGS),  # type: ignore[arg-type]
    )
    assert record["quality"]["test"]["AUC"] == 1
    config = DualEncoder.load(tmp_path / "student").model.config
    assert config.extra_sides == {"title": [2, 128]}


def test_a_student_of_classes_learns_which(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    pairs = [(q, p) for q in WORDS for p in ("honey", "yeast", "ice")]
    query, passage = (list(column) for column in zip(*pairs, strict=True))
    grades = [["honey", "yeast", "ice"].index(name) for name in passage]
    sides = {"query": query, "passage": passage}
    dataset = write_dataset(tmp_path / "dataset", {**sides, "label": np.float64(grades) / 2})
    logits = several([[4.0 * (place == grade) for place in range(3)] for grade in grades])
    record = distil(
        Dataset.open(dataset),
        write_labels(tmp_path / "labels", {**sides, "logit": logits}),
        TrainingRun(tmp_path / "student", progress=quiet),
        encoder=str(tiny_encoder_dir),
        layers=1,
        model_settings={"system": "ffnn", "dim": 16, "head_hidden": [32]},
        settings=TrainingSettings(loss="multi-class", **SETTINGS),  # type: ignore[arg-type]
    )
    assert record["model"]["classes"] == 3
    assert record["quality"]["test"]["Accuracy"] == 1


def test_a_teacher_learns_grades_of_tuples(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    tuples = [(q, "ice", t) for q in WORDS for t in ("honey", "yeast", "sun")]
    query, passage, title = (list(column) for column in zip(*tuples, strict=True))
    grades = [{"honey": 1.0, "yeast": 0.5, "sun": 0.1}[name] for name in title]
    sides = {"query": query, "passage": passage, "title": title}
    record = train_teacher(
        Dataset.open(write_dataset(tmp_path / "dataset", {**sides, "label": grades})),
        TrainingRun(tmp_path / "teacher", progress=quiet),
        encoder=str(tiny_encoder_dir),
        layers=1,
        schedule=Schedule(epochs=30, learning_rate=5e-3, batch_size=12),
    )
    assert record["quality"]["test"]["Pearson"] > 0.8
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    assert record["sides"] == ["query", "passage", "title"]


@pytest.mark.parametrize("kind", ["student", "cross-encoder", "teacher"])
def test_the_commit_is_taken_before_training(
    tmp_path: Path, tiny_encoder_dir: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dipair_index.training.run.source_commit",
        lambda: "late" if list(tmp_path.glob("*.training")) else "early",
    )
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", {**PAIRS, "label": [1.0, 0.0, 0.0]}))
    labels = write_labels(tmp_path / "labels", {**PAIRS, "logit": [1.0, 2.0, 3.0]})
    run, encoder = TrainingRun(tmp_path / "out", progress=quiet), str(tiny_encoder_dir)
    settings = TrainingSettings(loss="binary", stages="one", max_steps=1)
    if kind == "student":
        record = distil(
            dataset, labels, run, encoder=encoder, layers=1, model_settings={"dim": 16},
            settings=settings,
        )  # fmt: skip
    elif kind == "cross-encoder":
        record = distil_cross_encoder(
            dataset, labels, run, encoder=encoder, layers=1, settings=settings
        )
    else:
        schedule = Schedule(epochs=1, learning_rate=1e-3, batch_size=2, max_steps=1)
        record = train_teacher(dataset, run, encoder=encoder, schedule=schedule)
    assert record["commit"] == "early"


def test_a_cross_encoder_of_tuples_reads_a_passage_s_length_of_each_further_side(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    tuples = {"query": WORDS[:2], "passage": ["ice", "sun"], "title": ["honey", "yeast"]}
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", {**tuples, "label": [1.0, 0.0]}))
    config = BertConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer.save_pretrained(tmp_path / "encoder")
    of_student = distil_cross_encoder(
        dataset,
        write_labels(tmp_path / "labels", {**tuples, "logit": [1.0, 2.0]}),
        TrainingRun(tmp_path / "student", progress=quiet),
        encoder=str(tmp_path / "encoder"),
        layers=None,
        settings=TrainingSettings(loss="binary", group=1, max_steps=1),
        query_length=64,
        passage_length=128,
    )
    of_teacher = train_teacher(
        dataset,
        TrainingRun(tmp_path / "teacher", progress=quiet),
        encoder=str(tmp_path / "encoder"),
        schedule=Schedule(epochs=1, learning_rate=1e-3, batch_size=2, max_steps=1),
    )
    for name, record, tokens in (("student", of_student, 320), ("teacher", of_teacher, 288)):
        assert record["max_tokens"] == tokens
        texts = ["tea " * (tokens - 10) + end for end in ("moon", "ice")]
        one, other = open_teacher(str(tmp_path / name)).logits(["lava"] * 2, texts)
        assert one != other
