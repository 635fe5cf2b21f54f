"""Labelled tuples become a dataset: split by query, in the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dipair_index.data.collected_tuples import SplitSettings
from dipair_index.data.dataset import Dataset
from dipair_index.data.directory import begin, finish
from dipair_index.data.layout import DatasetLayout
from dipair_index.data.pair_dataset import build_pair_dataset
from dipair_index.errors import DirectoryError, FormatError, SettingsError
from dipair_index.formats.tables import read_table
from dipair_index.formats.tuples import Columns

SHOP = [
    {"query": f"{color} {thing}", "title": f"a {color} {other}", "about": "",
     "label": 1.0 if other == thing else 0.25}
    for color in ("red", "blue", "green", "white")
    for thing in ("lamp", "sofa", "rug")
    for other in ("lamp", "sofa", "rug")
]  # fmt: skip
COLUMNS = "query,passage=title,about,label"


@contextmanager
def silent(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(
    folder: Path, rows: list[dict[str, Any]], columns: str = COLUMNS, *,
    transfer: list[dict[str, Any]] | None = None, out: str = "out", overwrite: bool = False,
    **settings: Any,
) -> DatasetLayout:  # fmt: skip
    target = folder / out
    building = begin(target, overwrite=overwrite, anew=True)
    build_pair_dataset(
        write_rows(folder / "rows.jsonl", rows),
        Columns.parse(columns),
        building,
        SplitSettings(**settings),
        progress=silent,
        transfer=write_rows(folder / "more.jsonl", transfer) if transfer else None,
    )
    finish(building, target)
    return DatasetLayout(target)


def tuples(layout: DatasetLayout, table: Path) -> list[tuple[Any, ...]]:
    """Texts by side, and the label where there is one."""
    dataset = Dataset.open(layout.folder)
    return [
        (*(dataset.texts(side)[row[f"{side}_id"]] for side in dataset.sides), row.get("label"))
        for row in read_table(table).to_pylist()
    ]


def test_every_row_is_in_one_split_and_no_query_in_two(tmp_path: Path) -> None:
    layout = make(tmp_path, SHOP, valid_share=0.2, test_share=0.3)
    by_split = {split: tuples(layout, layout.pairs(split)) for split in ("train", "valid", "test")}
    found = sorted(row for rows in by_split.values() for row in rows)
    assert found == sorted((r["query"], r["title"], "", r["label"]) for r in SHOP)
    queries = {split: {row[0] for row in rows} for split, rows in by_split.items()}
    assert [len(queries[split]) for split in ("train", "valid", "test")] == [7, 2, 3]
    assert not queries["train"] & (queries["valid"] | queries["test"])
    splits = read_table(layout.queries).to_pylist()
    assert {row["split"] for row in splits if row["text"] in queries["valid"]} == {"valid"}
    # nothing is mined, and the train tuples are the transfer set
    assert [row[:3] for row in tuples(layout, layout.transfer)] == [
        r[:3] for r in by_split["train"]
    ]
    assert read_table(layout.pairs("test"))["score"].null_count == len(by_split["test"])


def test_the_record_names_sides_and_counts(tmp_path: Path) -> None:
    dataset = Dataset.open(make(tmp_path, SHOP).folder)
    record = dataset.record
    assert dataset.sides == ("query", "passage", "about")
    assert record["items"] == {"query": 12, "passage": 12, "about": 1}
    train = record["table"]["train"]
    assert (train["pairs"], train["queries"], train["mean_label"]) == (30, 10, 0.5)
    assert (train["mean_query_words"], train["mean_passage_words"]) == (2, 3)


def test_the_same_input_gives_the_same_bytes_and_another_seed_another_fingerprint(tmp_path) -> None:
    first, second = (make(tmp_path, SHOP, out=name) for name in ("one", "two"))
    for path in first.folder.iterdir():
        assert (second.folder / path.name).read_bytes() == path.read_bytes()
    third = make(tmp_path, SHOP, out="three", seed=1)
    prints = [Dataset.open(layout.folder).fingerprint for layout in (first, third)]
    assert len(set(prints)) == 2
    changed = [{**row, "label": row["label"] / 2} for row in SHOP]
    assert Dataset.open(make(tmp_path, changed, out="four").folder).fingerprint not in prints


def test_queries_that_differ_in_case_and_spaces_stay_together(tmp_path: Path) -> None:
    rows = [
        {"query": text, "title": title, "about": "", "label": label}
        for number in range(8)
        for text in (f"lamp {number}", f"  LAMP  {number}")
        for title, label in (("a", 1), ("b", 0))
    ]
    layout = make(tmp_path, rows, valid_share=0.3, test_share=0.3)
    of_split = [{" ".join(row[0].lower().split()) for row in tuples(layout, layout.pairs(split))}
                for split in ("train", "valid", "test")]  # fmt: skip
    assert sum(map(len, of_split)) == 8


def test_rows_without_label_and_a_second_file_are_transferred(tmp_path: Path) -> None:
    held_out = tuples(layout := make(tmp_path, SHOP), layout.pairs("test"))[0]
    free = {"query": "black rug", "title": "a rug", "about": ""}
    more = [free, {**free, "title": "a sofa", "label": "seven"}]
    unlabelled = [{**free, "title": "a lamp"}, {**free, "query": held_out[0].upper()}]
    layout = make(tmp_path, SHOP + unlabelled, transfer=more, out="more")
    found = tuples(layout, layout.transfer)
    assert len(found) == 30 + 3
    assert {row[1] for row in found if row[0] == "black rug"} == {"a rug", "a sofa", "a lamp"}
    record = Dataset.open(layout.folder).record
    assert record["left_out"]["unlabelled tuples of held-out queries"] == 1
    assert record["table"]["transfer"]["labelled"] == 30
    splits = {row["text"]: row["split"] for row in read_table(layout.queries).to_pylist()}
    assert splits["black rug"] == "unlabelled"


def test_a_column_says_the_splits(tmp_path: Path) -> None:
    names = {"red": "dev", "blue": "test", "green": "train", "white": "train"}
    rows = [{**row, "part": names[row["query"].split()[0]]} for row in SHOP]
    layout = make(tmp_path, rows, COLUMNS + ",split=part")
    assert {row[0].split()[0] for row in tuples(layout, layout.pairs("valid"))} == {"red"}
    assert {row[0].split()[0] for row in tuples(layout, layout.pairs("train"))} == {
        "green",
        "white",
    }
    for change, message in (
        ({**rows[1], "part": "test"},
         r"line 2 of .*, column part: the query 'red lamp' is in test here and in valid on line 1"),
        ({**rows[1], "part": "rest"}, "column part: expected train, valid or test, got rest"),
        ({**rows[1], "part": ""}, "column part: expected train, valid or test, got nothing"),
    ):  # fmt: skip
        with pytest.raises(FormatError, match=message):
            make(tmp_path, [rows[0], change, *rows[2:]], COLUMNS + ",split=part", out="wrong")
    with pytest.raises(FormatError, match=r"no labelled row of .* is in valid: give some queries"):
        make(tmp_path, rows[9:], COLUMNS + ",split=part", out="wrong")


def test_ids_of_ones_own_are_kept_and_name_one_text_each(tmp_path: Path) -> None:
    rows = [{**row, "qid": row["query"].upper(), "sku": number} for number, row in enumerate(SHOP)]
    layout = make(tmp_path, rows, COLUMNS + ",query_id=qid,passage_id=sku")
    assert set(Dataset.open(layout.folder).texts("passage")) == {str(n) for n in range(len(SHOP))}
    assert Dataset.open(layout.folder).texts("query")["RED LAMP"] == "red lamp"
    rows[4]["sku"] = 0
    with pytest.raises(
        FormatError, match=r"line 5 of .*, column sku: the passage 0 had another te"
    ):
        make(tmp_path, rows, COLUMNS + ",query_id=qid,passage_id=sku", out="wrong")


def test_a_tuple_with_two_labels_is_refused_or_averaged(tmp_path: Path) -> None:
    again = [{**SHOP[0], "label": 0.5}, {**SHOP[0], "label": 0.0}, SHOP[1]]
    with pytest.raises(
        FormatError,
        match=r"line 37 of .*, column label: the same tuple has the label 0.5 here and another on "
        r"line 1: keep one, or pass --duplicates mean",
    ):
        make(tmp_path, SHOP + again)
    layout = make(tmp_path, SHOP + again, duplicates="mean")
    labels = {
        row[:3]: row[3]
        for split in ("train", "valid", "test")
        for row in tuples(layout, layout.pairs(split))
    }
    assert labels["red lamp", "a red lamp", ""] == 0.5
    assert labels["red lamp", "a red sofa", ""] == 0.25
    assert len(labels) == len(SHOP)
    assert Dataset.open(layout.folder).record["left_out"]["rows that repeat a tuple"] == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**row, "label": 1} for row in SHOP], r"train has 30 labels, all 1, and two different"),
        ([{**row, "label": None} for row in SHOP], "has a label in the column label: expected num"),
        (SHOP[:6], "2 labelled queries are too few to split: expected 3"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        make(tmp_path, rows)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"valid_share": 0.0}, "must be above 0 and leave some queries to train on, got 0 and 0.1"),
        ({"valid_share": 0.5, "test_share": 0.5}, "leave some queries to train on"),
        ({"max_label": 0.0}, "--max-label must be above 0, got 0"),
        ({"max_label": float("nan")}, "--max-label must be above 0, got nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SplitSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["type", "values"])
def test_a_side_that_no_model_could_have_is_refused(tmp_path: Path, side: str) -> None:
    with pytest.raises(SettingsError, match=f"a side cannot be called {side}: choose a word"):
        make(tmp_path, SHOP, f"query,passage=title,{side}=about,label")


def test_the_same_texts_under_other_ids_have_one_label(tmp_path: Path) -> None:
    rows = [{**row, "query_id": row["query"], "passage_id": str(n)} for n, row in enumerate(SHOP)]
    columns = "query,query_id,passage=title,passage_id,label"
    again = {**rows[0], "title": "  a red  lamp", "passage_id": "copy", "label": 0.5}
    with pytest.raises(
        FormatError,
        match=r"line 37 of .*, column label: the same texts, under other ids, have the label 0.5 "
        r"here and another on line 1: keep one, or pass --duplicates mean",
    ):
        make(tmp_path, [*rows, again], columns)
    layout = make(tmp_path, [*rows, again], columns, duplicates="mean", seed=3)
    labels = {
        row["passage_id"]: row["label"]
        for split in ("train", "valid", "test")
        for row in read_table(layout.pairs(split)).to_pylist()
    }
    assert labels["0"] == labels["copy"] == 0.75
    assert len(labels) == len(rows) + 1
    make(tmp_path, [*rows, {**again, "label": 1.0}], columns, out="same")  # and no fault


def test_a_label_column_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--columns names no label: add label=COLUMN"):
        make(tmp_path, SHOP, "query,passage=title")


def test_what_is_left_of_tuples_is_no_part_of_the_next_dataset(tmp_path: Path) -> None:
    building = make(tmp_path, SHOP, out="out.building").folder
    (building / "dataset.json").unlink()  # as a run that was stopped leaves it
    layout = make(tmp_path, [{**row} for row in SHOP], "query,passage=title,label")
    assert not (layout.folder / "about.parquet").exists()
    (tmp_path / "out.building").mkdir()
    (tmp_path / "out.building" / "mine.parquet").write_text("mine")
    with pytest.raises(DirectoryError, match=r"holds mine.parquet, which does not belong to a dat"):
        begin(tmp_path / "out", overwrite=True)


def test_labels_of_the_same_tuples_are_kept_and_of_others_are_not(tmp_path: Path) -> None:
    layout = make(tmp_path, SHOP)
    layout.labels.mkdir()
    (layout.labels / "labels.json").write_text("{}")
    make(tmp_path, SHOP, overwrite=True)
    assert (layout.labels / "labels.json").read_text() == "{}"
    with pytest.raises(DirectoryError, match="holds a teacher's labels of other pairs"):
        make(tmp_path, SHOP, overwrite=True, seed=1)


def test_labels_of_edited_texts_are_not_kept(tmp_path: Path) -> None:
    columns = COLUMNS + ",query_id=qid,passage_id=sku"
    rows = [{**row, "qid": row["query"].upper(), "sku": number} for number, row in enumerate(SHOP)]
    layout = make(tmp_path, rows, columns)
    layout.labels.mkdir()
    (layout.labels / "labels.json").write_text("{}")
    edited = [{**row, "title": f"{row['title']} of oak"} for row in rows]
    with pytest.raises(DirectoryError, match="labels of other pairs or texts than the new"):
        make(tmp_path, edited, columns, overwrite=True)
    assert Dataset.open(layout.folder).texts("passage")["0"] == "a red lamp"


def test_labels_that_are_kept_name_the_new_dataset(tmp_path: Path) -> None:
    layout = make(tmp_path, SHOP)
    first = Dataset.open(layout.folder).fingerprint
    layout.labels.mkdir()
    (layout.labels / "labels.json").write_text(json.dumps({"teacher": "me", "dataset": first}))
    held_out = tuples(layout, layout.pairs("test"))[0][0]
    changed = [
        {**row, "label": row["label"] / 2} if row["query"] == held_out else row for row in SHOP
    ]
    make(tmp_path, changed, overwrite=True)
    second = Dataset.open(layout.folder).fingerprint
    assert second != first
    note = json.loads((layout.labels / "labels.json").read_text())
    assert note == {"teacher": "me", "dataset": second}
