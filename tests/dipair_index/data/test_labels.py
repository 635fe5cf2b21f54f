"""Labels come in shards that survive an interruption and know their teacher."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dipair_index.data.dataset import Dataset
from dipair_index.data.labels import label_pairs, pairs_to_label, read_labels
from dipair_index.errors import DirectoryError, FormatError, SettingsError
from dipair_index.formats.tables import write_table
from dipair_index.records import FloatArray


class WordTeacher:
    """Counts shared words: a teacher whose every logit can be checked."""

    name = "words"
    fingerprint = "1"
    outputs = 1

    def __init__(self) -> None:
        self.scored = 0

    def logits(self, queries: Sequence[str], passages: Sequence[str]) -> FloatArray:
        self.scored += len(queries)
        pairs = zip(queries, passages, strict=True)
        return np.array([len(set(q.split()) & set(p.split())) for q, p in pairs], np.float32)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    ids = [f"p{number}" for number in range(9)]
    texts = [f"w{number} w{number + 1} w{number + 2}" for number in range(9)]
    write_table(pa.table({"passage_id": ids, "text": texts}), folder / "passages.parquet")
    queries = {"query_id": ["a", "b", "c"], "text": ["w1 w2", "w4 w5 w6", "w8"]}
    write_table(pa.table(queries), folder / "queries.parquet")
    transfer = [(query, f"p{row}") for query in "abc" for row in range(6)]
    columns = {
        "query_id": [query for query, _ in transfer],
        "passage_id": [passage for _, passage in transfer],
    }
    write_table(pa.table(columns), folder / "transfer.parquet")
    train = {
        "query_id": ["a", "a", "b"],
        "passage_id": ["p1", "p8", "p0"],
        "label": [1.0, 1.0, 0.0],
    }
    write_table(pa.table(train), folder / "train.parquet")
    return folder


def run(dataset: Path, teacher: WordTeacher, **settings: int | None) -> list[tuple[int, int]]:
    asked = {"per_query": 3, "shard_size": 4, "seed": 0} | settings
    return list(label_pairs(Dataset.open(dataset), dataset / "labels", teacher, **asked))


def test_each_query_has_its_positives_and_so_many_others(dataset: Path) -> None:
    pairs = pairs_to_label(Dataset.open(dataset), per_query=3, seed=0).to_pylist()
    assert len({(pair["query_id"], pair["passage_id"]) for pair in pairs}) == len(pairs) == 11
    by_query = {name: [p["passage_id"] for p in pairs if p["query_id"] == name] for name in "abc"}
    assert by_query["a"][:2] == ["p1", "p8"]  # judged, though p8 was not retrieved
    assert [len(by_query[name]) for name in "abc"] == [5, 3, 3]
    # whole groups behind each other
    order = [pair["query_id"] for pair in pairs]
    assert len([name for name, _ in itertools.groupby(order)]) == 3


def test_every_logit_is_that_of_its_own_pair(dataset: Path) -> None:
    assert run(dataset, WordTeacher()) == [(4, 11), (8, 11), (11, 11)]
    queries = {"a": "w1 w2", "b": "w4 w5 w6", "c": "w8"}
    for row in read_labels(dataset / "labels").to_pylist():
        number = int(row["passage_id"][1:])
        words = {f"w{number}", f"w{number + 1}", f"w{number + 2}"}
        assert row["logit"] == len(words & set(queries[row["query_id"]].split()))


def test_an_interrupted_run_goes_on_and_ends_as_an_undisturbed_one(
    dataset: Path, tmp_path: Path
) -> None:
    opened = Dataset.open(dataset)
    whole = list(
        label_pairs(opened, tmp_path / "whole", WordTeacher(), per_query=3, shard_size=4, seed=0)
    )
    assert whole[-1] == (11, 11)
    steps = label_pairs(
        opened, dataset / "labels", WordTeacher(), per_query=3, shard_size=4, seed=0
    )
    next(steps)
    steps.close()
    teacher = WordTeacher()
    run(dataset, teacher)
    assert teacher.scored == 7
    for shard in sorted((tmp_path / "whole").iterdir()):
        assert (dataset / "labels" / shard.name).read_bytes() == shard.read_bytes()


def test_a_larger_limit_adds_to_what_is_there(dataset: Path) -> None:
    teacher = WordTeacher()
    run(dataset, teacher, limit=5)
    assert (teacher.scored, read_labels(dataset / "labels").num_rows) == (8, 8)
    run(dataset, teacher, limit=9)
    assert (teacher.scored, read_labels(dataset / "labels").num_rows) == (11, 11)


def test_labels_of_another_teacher_are_not_mixed_in(dataset: Path) -> None:
    run(dataset, WordTeacher())
    other = WordTeacher()
    other.fingerprint = "2"
    before = {path.name: path.read_bytes() for path in (dataset / "labels").iterdir()}
    with pytest.raises(DirectoryError, match="holds labels made with other settings"):
        run(dataset, other)
    assert {path.name: path.read_bytes() for path in (dataset / "labels").iterdir()} == before


def test_labels_of_another_dataset_are_not_mixed_in(dataset: Path) -> None:
    (dataset / "dataset.json").write_text('{"fingerprint": "f00d"}')
    run(dataset, WordTeacher(), limit=4)
    note = dataset / "labels" / "labels.json"
    assert json.loads(note.read_text())["dataset"] == "f00d"
    (dataset / "dataset.json").write_text('{"fingerprint": "beef"}')
    with pytest.raises(DirectoryError, match="or of another dataset .*'dataset': 'f00d'"):
        run(dataset, WordTeacher())
    # a note of an older version, which does not name its dataset
    without = {name: value for name, value in json.loads(note.read_text()).items()
               if name != "dataset"}  # fmt: skip
    note.write_text(json.dumps(without))
    assert run(dataset, WordTeacher())[-1] == (11, 11)


def test_a_run_that_has_labelled_nothing_is_in_nobody_s_way(dataset: Path) -> None:
    class Broken(WordTeacher):
        fingerprint = "2"

        def logits(self, queries: Sequence[str], passages: Sequence[str]) -> FloatArray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(dataset, Broken())
    assert (
        json.loads((dataset / "labels" / "labels.json").read_text())["teacher_fingerprint"] == "2"
    )
    assert run(dataset, WordTeacher())[-1] == (11, 11)
    assert (
        json.loads((dataset / "labels" / "labels.json").read_text())["teacher_fingerprint"] == "1"
    )


def test_a_damaged_shard_is_named(dataset: Path) -> None:
    run(dataset, WordTeacher())
    shard = dataset / "labels" / "part-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[40] ^= 255
    shard.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="part-00001.parquet is damaged: delete it"):
        read_labels(dataset / "labels")


def test_a_folder_without_labels_is_refused(dataset: Path) -> None:
    with pytest.raises(FormatError, match="holds no labels: run `dipair-index label` first"):
        read_labels(dataset)


def test_a_teacher_that_gives_no_number_stops_the_run(dataset: Path) -> None:
    class Broken(WordTeacher):
        def logits(self, queries: Sequence[str], passages: Sequence[str]) -> FloatArray:
            return np.full(len(queries), np.nan, np.float32)

    with pytest.raises(FormatError, match="words gave a logit that is not a number"):
        run(dataset, Broken())


def test_a_tuple_is_labelled_by_all_its_sides_and_only_once(dataset: Path) -> None:
    (dataset / "dataset.json").write_text('{"sides": ["query", "passage", "size"]}')
    write_table(pa.table({"size_id": ["s", "t"], "text": ["w1", "w9"]}), dataset / "size.parquet")
    tuples = [("a", "p1", "s"), ("a", "p1", "t"), ("b", "p4", "t"), ("b", "p5", "s")]
    ids = dict(zip(("query_id", "passage_id", "size_id"), zip(*tuples, strict=True), strict=True))
    ids = {name: list(column) for name, column in ids.items()}
    write_table(pa.table(ids), dataset / "transfer.parquet")
    labels = pa.array([0.5, 0.0, 0.0, 0.0])
    write_table(pa.table({**ids, "label": labels}), dataset / "train.parquet")

    class TupleTeacher(WordTeacher):
        """Two outputs: words of the passage, and of the size, that the query has too."""

        def logits(self, first: Sequence[str], *others: Sequence[str]) -> FloatArray:
            return np.stack([WordTeacher.logits(self, first, other) for other in others], axis=1)

    assert run(dataset, TupleTeacher(), per_query=None)[-1] == (4, 4)
    found = {
        (row["query_id"], row["passage_id"], row["size_id"]): row["logit"]
        for row in read_labels(dataset / "labels").to_pylist()
    }
    assert found == {
        ("a", "p1", "s"): [2, 1],
        ("a", "p1", "t"): [2, 0],
        ("b", "p4", "t"): [3, 0],
        ("b", "p5", "s"): [2, 0],
    }


def test_no_passages_a_query_is_refused(dataset: Path) -> None:
    with pytest.raises(SettingsError, match="--per-query must be 1 or more, got 0"):
        pairs_to_label(Dataset.open(dataset), per_query=0, seed=0)
