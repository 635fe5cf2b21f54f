"""Files of pairs and tuples are read as written, and what is wrong is named by line and column."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipair_index.errors import FormatError, SettingsError
from dipair_index.formats.tuples import Columns, read_tuples

PAIRS = Columns.parse("query=term,passage=title,label=relevance")
TUPLES = Columns.parse("query,passage=title,label,description,split,passage_id=sku")


def written(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_columns_name_sides_ids_label_and_split() -> None:
    assert TUPLES.sides == ("query", "passage", "description")
    assert TUPLES.texts == {"query": "query", "passage": "title", "description": "description"}
    assert (TUPLES.ids, TUPLES.label, TUPLES.split) == ({"passage": "sku"}, "label", "split")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query=q", "lacks passage: expected, for example, query=term"),
        ("query,passage,query=x", "gives query twice"),
        ("query,passage,size_id=x", "gives size_id, but there is no side size: add size=COLUMN"),
        ("query,passage,train=x", "cannot call a side 'train'"),
        ("query,passage,Größe=x", "cannot call a side 'Größe'"),
        ("query,passage,", "cannot call a side ''"),
    ],
)
def test_columns_that_make_no_tuple_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Columns.parse(text)


# no tabs and line breaks, which end a cell, and no halves of surrogate pairs
cells = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]))
words = cells.filter(str.strip)


@given(st.lists(st.tuples(words, words, cells, st.none() | st.floats(0, 1)), min_size=1))
def test_what_is_written_is_read_back(rows: list[tuple[str, str, str, float | None]]) -> None:
    import tempfile

    columns = Columns.parse("query,passage,about,label")
    with tempfile.TemporaryDirectory() as name:
        names = ("query", "passage", "about", "label")
        tsv = ["\t".join(["" if cell is None else str(cell) for cell in row]) for row in rows]
        jsonl = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        for file in (
            written(Path(name), "rows.tsv", "\t".join(names), *tsv),
            written(Path(name), "rows.jsonl", *jsonl),
        ):
            found = list(read_tuples(file, columns))
            assert [(*row.texts, row.label) for row in found] == rows


def test_json_lines_keep_tabs_and_line_breaks_and_lack_labels(tmp_path: Path) -> None:
    row = {"term": "a\tb\nc", "title": "t", "relevance": None}
    file = written(tmp_path, "rows.jsonl", json.dumps(row), '{"term": "x", "title": "y"}')
    first, second = read_tuples(file, PAIRS)
    assert (first.texts, first.label, second.label) == (("a\tb\nc", "t"), None, None)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert [each.texts for each in read_tuples(packed, PAIRS)] == [first.texts, second.texts]


def test_labels_are_divided_by_the_highest(tmp_path: Path) -> None:
    file = written(tmp_path, "rows.tsv", "term\ttitle\trelevance", "a\tb\t3", "a\tc\t1.5", "a\td\t")
    assert [row.label for row in read_tuples(file, PAIRS, max_label=3)] == [1, 0.5, None]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.tsv", ["term\ttitle", "a\tb"],
         r"line 1 of .*a.tsv: there is no column relevance, only term, title: name the right"),
        ("a.tsv", ["term\ttitle\trelevance", "a\tb"],
         r"line 2 of .*a.tsv: expected 3 tab-separated fields \(term, title, relevance\), got 2"),
        ("a.tsv", ["term\ttitle\trelevance", "a\tb\t7"],
         r"line 2 of .*, column relevance: expected a label from 0 to 1, got '7': .*--max-label"),
        ("a.tsv", ["term\ttitle\trelevance", "a\tb\tnan"], r"expected a label from 0 to 1, got"),
        ("a.tsv", ["term\ttitle\trelevance", "a\tb\tgood"],
         r"column relevance: expected a number as label, got 'good'"),
        ("a.tsv", ["term\ttitle\trelevance", "a\t \t1"],
         r"line 2 of .*a.tsv, column title: the text is empty: remove the line"),
        ("a.tsv", ["term\ttitle\trelevance\tterm", "a\tb\t1\tc"], "two columns are called 'term'"),
        ("a.tsv", ["term\ttitle\trelevance"], "a.tsv holds no row: expected one a line"),
        ("a.jsonl", ['{"term": "a", "title": "b"}', '{"term": "a"}'],
         r"line 2 of .*: there is no column title, only relevance, term: .* all sides"),
        ("a.jsonl", ['{"term": 3, "title": "b"}'], "column term: expected a text, got 3"),
        ("a.jsonl", ['{"term": "a", "title": null}'], "column title: expected a text, got nothing"),
        ("a.jsonl", ['{"term": "a", "title": "b", "relevance": [1]}'], r"expected a number as lab"),
        ("a.jsonl", ["term\ttitle"], "line 1 of .*: expected a JSON object, got invalid JSON"),
    ],
)  # fmt: skip
def test_what_is_no_tuple_is_named(
    tmp_path: Path, name: str, lines: list[str], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        list(read_tuples(written(tmp_path, name, *lines), PAIRS))


def test_a_tuple_without_a_side_is_refused_and_an_empty_text_is_none(tmp_path: Path) -> None:
    whole = {"query": "a", "title": "b", "sku": 7, "description": "", "split": "train", "label": 1}
    file = written(tmp_path, "rows.jsonl", json.dumps(whole))
    (row,) = read_tuples(file, TUPLES)
    assert (row.texts, row.ids, row.split) == (("a", "b", ""), (None, "7", None), "train")
    short = {name: value for name, value in whole.items() if name != "description"}
    file = written(tmp_path, "short.jsonl", json.dumps(whole), json.dumps(short))
    with pytest.raises(FormatError, match=r"line 2 of .*short.jsonl: there is no column descripti"):
        list(read_tuples(file, TUPLES))


@pytest.mark.parametrize(("sku", "message"), [("", "got nothing"), (True, "got True"),
                                              ("a\tb", "holds a tab or a line break")])  # fmt: skip
def test_what_is_no_id_is_refused(tmp_path: Path, sku: object, message: str) -> None:
    row = {"query": "a", "title": "b", "sku": sku, "description": "", "label": 1}
    with pytest.raises(FormatError, match=rf"column sku: .*{message}"):
        list(read_tuples(written(tmp_path, "rows.jsonl", json.dumps(row)), TUPLES))
