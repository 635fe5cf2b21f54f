"""Scores from elsewhere become labels, and what cannot be one is named by its line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest

from dipair_index.data.dataset import Dataset
from dipair_index.data.label_imports import Imported, import_judgements, import_scores
from dipair_index.data.labels import read_labels
from dipair_index.data.layout import DatasetLayout
from dipair_index.errors import DirectoryError, FormatError, SettingsError
from dipair_index.formats.tables import write_table
from dipair_index.training.groups import LabelledGroups

HEADER = "query_id\tpassage_id\tscore"


def dataset(folder: Path, *extra: str) -> DatasetLayout:
    """Queries a and b to train on, t in test; passages p0 to p2, and items of further sides."""
    layout = DatasetLayout(folder)
    folder.mkdir()
    layout.record.write_text(json.dumps({"sides": ["query", "passage", *extra]}))
    queries = {"query_id": ["a", "b", "t"], "text": ["x"] * 3, "split": ["train", "train", "test"]}
    write_table(pa.table(queries), layout.queries)
    for side in ("passage", *extra):
        ids = [f"{side[0]}{number}" for number in range(3)]
        write_table(pa.table({f"{side}_id": ids, "text": ids}), layout.texts(side))
    train = {"query_id": ["a", "a", "b"], "passage_id": ["p0", "p1", "p0"]}
    train |= {f"{side}_id": [f"{side[0]}0"] * 3 for side in extra}
    write_table(
        pa.table({**train, "label": pa.array([1, 0.75, 0], pa.float32())}), layout.pairs("train")
    )
    return layout


@pytest.fixture
def pairs(tmp_path: Path) -> DatasetLayout:
    return dataset(tmp_path / "pairs")


def taken(
    layout: DatasetLayout, text: str, name: str = "scores.tsv", scale: str = "logit"
) -> Imported:
    file = layout.folder.parent / name
    file.write_text(text)
    return import_scores(
        Dataset.open(layout.folder), layout.labels, file, scale=scale, shard_size=2
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.tsv", f"{HEADER}\na\tp0\t2.5\na\tp2\t-1\nb\tp1\t0\n"),
        ("s.tsv", "score\ttext\tpassage_id\tquery_id\n2.5\tx\tp0\ta\n-1\t\tp2\ta\n0\t\tp1\tb\n"),
        ("s.run", "a Q0 p0 1 2.5 bm25\na Q0 p2 2 -1 bm25\nb Q0 p1 1 0 bm25\n"),
        ("s.jsonl", '{"query_id": "a", "passage_id": "p0", "score": 2.5}\n'
                    '{"query_id": "a", "passage_id": "p2", "score": -1}\n'
                    '{"query_id": "b", "passage_id": "p1", "score": "0"}\n'),
    ],
)  # fmt: skip
def test_all_three_formats_give_the_same_labels(pairs: DatasetLayout, name: str, text: str) -> None:
    assert taken(pairs, text, name) == Imported(3, 0, 0)
    assert read_labels(pairs.labels).to_pylist() == [
        {"query_id": "a", "passage_id": "p0", "logit": 2.5},
        {"query_id": "a", "passage_id": "p2", "logit": -1.0},
        {"query_id": "b", "passage_id": "p1", "logit": 0.0},
    ]
    assert sorted(path.name for path in pairs.labels.iterdir()) == [
        "labels.json", "part-00000.parquet", "part-00001.parquet",
    ]  # fmt: skip


def test_probabilities_become_logits_and_nought_and_one_are_moved(pairs: DatasetLayout) -> None:
    text = f"{HEADER}\na\tp0\t0.75\na\tp1\t1\nb\tp0\t0\n"
    assert taken(pairs, text, scale="probability") == Imported(3, 0, 2)
    logits = read_labels(pairs.labels)["logit"].to_pylist()
    far = math.log(0.9999 / 0.0001)
    assert logits == pytest.approx([math.log(3), far, -far])


@pytest.mark.parametrize("name", ["s.tsv", "s.jsonl"])
def test_scores_of_several_outputs_become_labels_of_several_classes(
    pairs: DatasetLayout, name: str
) -> None:
    rows = [("p0", 0.5, 0.25, 0.25), ("p1", 0.0, 1.0, 0.0)]
    names = ["query_id", "passage_id", "score_0", "score_1", "score_2"]
    if name == "s.tsv":
        lines = ["\t".join(names), *("\t".join(["a", *map(str, row)]) for row in rows)]
    else:
        lines = [json.dumps(dict(zip(names, ["a", *row], strict=True))) for row in rows]
    text = "\n".join(lines) + "\n"
    assert taken(pairs, text, name, "probability") == Imported(2, 0, 2)
    labels = read_labels(pairs.labels)["logit"].to_pylist()
    assert labels[0] == pytest.approx([math.log(0.5), math.log(0.25), math.log(0.25)])
    assert labels[1] == pytest.approx([math.log(1e-4), 0, math.log(1e-4)])
    assert LabelledGroups.from_table(read_labels(pairs.labels)).classes == 3


def test_an_output_that_is_missing_or_no_number_is_named(pairs: DatasetLayout) -> None:
    header = "query_id\tpassage_id\tscore_0\tscore_2"
    with pytest.raises(FormatError, match="there is no column score_1, only query_id, passage_id"):
        taken(pairs, f"{header}\na\tp0\t1\t2\n")
    header = header.replace("score_2", "score_1")
    with pytest.raises(FormatError, match="line 2 of .*: expected a finite number as score_1, got"):
        taken(pairs, f"{header}\na\tp0\t1\tx\n")


def test_scores_of_held_out_queries_are_left_out(pairs: DatasetLayout) -> None:
    assert taken(pairs, f"{HEADER}\na\tp0\t1\nt\tp0\t1\nt\tp1\t2\n") == Imported(1, 2, 0)
    assert read_labels(pairs.labels)["query_id"].to_pylist() == ["a"]


def test_tuples_name_all_their_sides(tmp_path: Path) -> None:
    layout = dataset(tmp_path / "tuples", "size")
    assert taken(layout, f"size_id\t{HEADER}\ns1\ta\tp0\t2\ns2\ta\tp0\t3\n").labels == 2
    assert read_labels(layout.labels)["size_id"].to_pylist() == ["s1", "s2"]
    for text, message in (
        (f"{HEADER}\na\tp0\t2\n", r"line 1 of .*: there is no column size_id, only query_id, pas"),
        ("a Q0 p0 1 2.5 x\n", "is a TREC run, which names pairs, and this dataset has query_id"),
    ):
        with pytest.raises(FormatError, match=message):
            taken(layout, text)


@pytest.mark.parametrize(
    ("line", "scale", "message"),
    [
        ("c\tp0\t1", "logit", "line 3 of .*, column query_id: the dataset .* has no query c: take"),
        ("a\tp9\t1", "logit", "line 3 of .*, column passage_id: the dataset .* has no passage p9"),
        ("a\tp0\t2", "logit", "line 3 of .*: a, p0 was scored before: keep one line"),
        ("a\tp1\tnan", "logit", "line 3 of .*: expected a finite number as score, got 'nan'"),
        ("a\tp1\t", "logit", "expected a finite number as score, got ''"),
        ("a\tp1\t1.5", "probability", "line 3 of .*: expected a probability from 0 to 1, got 1.5"),
        ("a\tp1", "logit", "line 3 of .*: expected 3 tab-separated fields"),
    ],
)
def test_what_cannot_be_a_label_is_named(
    pairs: DatasetLayout, line: str, scale: str, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        taken(pairs, f"{HEADER}\na\tp0\t1\n{line}\n", scale=scale)
    assert not pairs.labels.exists()


def test_a_run_with_a_broken_line_and_a_file_of_held_out_queries_are_refused(
    pairs: DatasetLayout,
) -> None:
    with pytest.raises(FormatError, match=r"line 2 of .*: expected 6 fields \(query-id Q0"):
        taken(pairs, "a Q0 p0 1 2.5 x\na p1 2\n", "s.run")
    with pytest.raises(FormatError, match="has scores of held-out queries only"):
        taken(pairs, f"{HEADER}\nt\tp0\t1\n")
    with pytest.raises(SettingsError, match="scores are logit or probability, got percent"):
        taken(pairs, f"{HEADER}\na\tp0\t1\n", scale="percent")


def test_other_scores_are_not_mixed_in(pairs: DatasetLayout) -> None:
    text = f"{HEADER}\na\tp0\t1\n"
    assert taken(pairs, text) == taken(pairs, text)
    for other, scale in ((f"{HEADER}\na\tp0\t0.5\n", "logit"), (text, "probability")):
        with pytest.raises(DirectoryError, match="holds labels made with other settings"):
            taken(pairs, other, scale=scale)


def test_judgements_are_labels_too(tmp_path: Path) -> None:
    layout = dataset(tmp_path / "tuples", "size")
    done = import_judgements(Dataset.open(layout.folder), layout.labels, shard_size=2)
    assert done == Imported(3, 0, 2)
    labels = read_labels(layout.labels)
    assert labels.column_names == ["query_id", "passage_id", "size_id", "logit"]
    far = math.log(0.9999 / 0.0001)
    assert labels["logit"].to_pylist() == pytest.approx([far, math.log(3), -far])
    train = {name: ["a"] for name in ("query_id", "passage_id", "size_id")}
    write_table(pa.table({**train, "label": [1.0]}), layout.pairs("train"))
    with pytest.raises(FormatError, match="the train labels of .* are all the same: there is noth"):
        import_judgements(Dataset.open(layout.folder), tmp_path / "other", shard_size=2)
