"""bert-tiny: a cross-encoder that learns a teacher's labels, and what reads its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dipair_index.data.dataset import Dataset
from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.encoders.scorers import scores_of_model
from dipair_index.errors import SettingsError
from dipair_index.formats.tables import write_table
from dipair_index.models.pretrained import load_classifier
from dipair_index.training.cross_encoder_student import distil_cross_encoder
from dipair_index.training.run import TrainingRun
from dipair_index.training.settings import TrainingSettings

WORDS = ("bees", "lava", "tea", "moon")
PAIRS = [(query, passage) for query in WORDS for passage in WORDS]


@contextmanager
def quiet(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A passage is right where it is one of two words, whatever is asked."""
    folder = tmp_path_factory.mktemp("dataset")
    query, passage = (list(column) for column in zip(*PAIRS, strict=True))
    ids = {"query_id": query, "passage_id": passage}
    right = np.isin(passage, ["bees", "tea"]).astype(np.float64)
    for side, file in (("query", "queries"), ("passage", "passages")):
        texts = {f"{side}_id": list(WORDS), "text": [f"the {word}" for word in WORDS]}
        write_table(pa.table(texts), folder / f"{file}.parquet")
    for split in ("valid", "test"):
        write_table(pa.table({**ids, "label": right}), folder / f"{split}.parquet")
    (folder / "dataset.json").write_text(json.dumps({"fingerprint": "f00d"}))
    (folder / "labels").mkdir()
    logits = pa.array(6 * right - 3, pa.float32())
    write_table(pa.table({**ids, "logit": logits}), folder / "labels" / "part-00000.parquet")
    (folder / "labels" / "labels.json").write_text(json.dumps({"teacher": "made here"}))
    return folder


def student(
    dataset: Path, encoder: Path, out: Path, *, random_start: bool, **changes: object
) -> dict[str, object]:
    settings = {
        "stage_two_epochs": 25, "stage_two_learning_rate": 3e-3, "batch_queries": 4, "group": 4,
    } | changes  # fmt: skip
    return distil_cross_encoder(
        Dataset.open(dataset),
        dataset / "labels",
        TrainingRun(out, progress=quiet),
        encoder=str(encoder),
        layers=None,
        settings=TrainingSettings(**settings),  # type: ignore[arg-type]
        random_start=random_start,
        query_length=16,
        passage_length=32,
    )


@pytest.mark.parametrize("random_start", [True, False])
def test_it_learns_its_labels_and_is_read_as_any_cross_encoder(
    dataset: Path, tiny_encoder_dir: Path, tmp_path: Path, random_start: bool
) -> None:
    out = tmp_path / "tiny"
    record = student(dataset, tiny_encoder_dir, out, random_start=random_start)
    assert json.loads((out / "training.json").read_text())["sides"] == ["query", "passage"]
    assert record["quality"] == {"valid": {"AUC": 1.0}, "test": {"AUC": 1.0}}
    config = json.loads((out / "config.json").read_text())
    sizes = [config[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")]
    assert sizes == ([128, 2, 2] if random_start else [32, 2, 2])
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 48
    texts = {"query": ["the lava"] * 2, "passage": ["the tea", "the moon"]}
    right, wrong = scores_of_model(str(out), texts, report=lambda count: None)
    assert right > wrong + 1
    again = open_teacher(str(out)).logits(*texts.values())
    np.testing.assert_array_equal(again, [right, wrong])


def test_two_runs_agree_bit_for_bit(dataset: Path, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        student(dataset, tiny_encoder_dir, tmp_path / name, random_start=True, stage_two_epochs=3)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_more_layers_than_the_encoder_has_are_refused(tiny_encoder_dir: Path) -> None:
    with pytest.raises(SettingsError, match="--layers 3 is more than the encoder's 2: pass 2 or"):
        load_classifier(str(tiny_encoder_dir), layers=3, outputs=1)


def test_it_learns_classes_by_the_same_call(
    dataset: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    logits = np.float32([[4 * (word == passage) for word in WORDS] for _, passage in PAIRS])
    query, passage = (list(column) for column in zip(*PAIRS, strict=True))
    columns = {"query_id": query, "passage_id": passage}
    lists = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 4)
    write_table(pa.table({**columns, "logit": lists}), labels / "part-00000.parquet")
    (labels / "labels.json").write_text(json.dumps({"teacher": "made here"}))
    distil_cross_encoder(
        Dataset.open(dataset),
        labels,
        TrainingRun(tmp_path / "classes", progress=quiet),
        encoder=str(tiny_encoder_dir),
        layers=1,
        settings=TrainingSettings(
            loss="multi-class", stage_two_epochs=25, stage_two_learning_rate=1e-2, batch_queries=4
        ),
    )
    teacher = open_teacher(str(tmp_path / "classes"))
    assert teacher.outputs == 4
    found = teacher.logits(["the bees"] * 4, [f"the {word}" for word in WORDS])
    assert found.argmax(1).tolist() == [0, 1, 2, 3]
