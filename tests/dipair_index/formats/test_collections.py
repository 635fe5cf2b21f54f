"""Passages and queries of TSV, JSONL and BEIR folders, and bad lines named."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipair_index.errors import FormatError, WriteError
from dipair_index.formats.collections import (
    read_passages,
    read_queries,
    write_passages,
)
from dipair_index.formats.trec import read_qrels, read_run
from dipair_index.records import Passage, Query

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\ufeff"))
words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=8)
words = words.filter(lambda word: word.split() == [word] and word.splitlines() == [word])
in_one_folder = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_only_a_newline_ends_a_line_of_tsv(tmp_path: Path) -> None:
    text = "one\u2028two\x0bthree\x0cfour\x85five\rsix"
    path = file(tmp_path, "collection.tsv", f"1\t{text}\r\n2\t\n")
    assert list(read_passages(path)) == [Passage("1", text), Passage("2", "")]


def test_a_byte_order_mark_and_blank_lines_are_no_part_of_the_records(tmp_path: Path) -> None:
    path = file(tmp_path, "queries.tsv", "\ufeff1\tis tea hot?\n\n2\twho?\n\n")
    assert list(read_queries(path)) == [Query("1", "is tea hot?"), Query("2", "who?")]


def test_jsonl_keeps_title_and_what_else_the_line_carries(tmp_path: Path) -> None:
    lines = (
        '{"_id": "a", "title": "Tea", "text": "hot", "metadata": {"url": "u"}, "year": 1999}\n'
        '{"id": 7, "title": null, "text": "cold", "metadata": "free text"}\n'
    )
    assert list(read_passages(file(tmp_path, "c.jsonl", lines))) == [
        Passage("a", "hot", "Tea", {"url": "u", "year": 1999}),
        Passage("7", "cold", "", {"metadata": "free text"}),
    ]


def test_a_beir_folder_is_read_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    file(tmp_path, "corpus.jsonl.gz", gzip.compress(b'{"_id": "p", "title": "", "text": "t"}\n'))
    file(tmp_path, "queries.jsonl", '{"_id": "q", "text": "who?"}\n')
    file(tmp_path / "qrels", "test.tsv", "query-id\tcorpus-id\tscore\nq\tp\t2\n")
    assert list(read_passages(tmp_path)) == [Passage("p", "t")]
    assert list(read_queries(str(tmp_path))) == [Query("q", "who?")]
    assert read_qrels(tmp_path) == {"q": {"p": 2}}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("line", ["p\tt\n", '{"id": "p", "text": "t"}\n'])
def test_a_dash_reads_either_kind_from_standard_input(monkeypatch, pack, line: str) -> None:
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(pack(line.encode()))))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert list(read_passages("-")) == [Passage("p", "t")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.tsv", "", "c.tsv is empty: expected one record a line"),
        ("c.tsv", "\n\n", "c.tsv holds no record"),
        ("c.tsv", "1\ta\n2\n", r"line 2 of .*c.tsv: expected 2 tab-separated fields .* got 1"),
        ("c.tsv", "1\ta\tb\n", "line 1 of .*c.tsv: expected 2 tab-separated fields .* got 3"),
        ("c.tsv", "\ta\n", "line 1 of .*c.tsv: the id is empty: give every line an id"),
        ("c.tsv", "1\ta\n2\tb\n1\tc\n", "line 3 of .*c.tsv: the id 1 was used before"),
        ("c.tsv", b"1\ta\n2\tcaf\xe9\n", r"line 2 of .*c.tsv: byte 6 is not UTF-8 \(0xe9\)"),
        ("c.tsv", "a\x0bb\tt\n", r"line 1 of .*the id 'a\\x0bb' holds a tab or a line break"),
        (
            "c.tsv.gz",
            gzip.compress(b"1\ta\n" * 9, mtime=0)[:-12],
            "cut off or damaged .*fetch it again",
        ),
        ("c.jsonl", "{'id': 1}\n", "line 1 of .*c.jsonl: expected a JSON object, got invalid JSON"),
        ("c.jsonl", "[" * 99999, "line 1 of .*c.jsonl: expected a JSON object, got invalid JSON"),
        ("c.jsonl", "[1]\n", "line 1 of .*c.jsonl: expected a JSON object, got list"),
        ("c.jsonl", '{"text": "t"}\n', 'a string or a whole number in the field "id"'),
        ("c.jsonl", '{"id": true, "text": "t"}\n', 'whole number in the field "id"'),
        ("c.jsonl", '{"id": "1"}\n', 'line 1 of .*: expected a string in the field "text"'),
        ("c.jsonl", '{"id": "1", "text": "t", "title": 3}\n', 'a string in the field "title"'),
        ("c.jsonl", '{"id": "1\\n", "text": "t"}\n', "holds a tab or a line break"),
        ("c.jsonl", '{"id": "1", "text": "\\ud800"}\n', "half of a surrogate pair"),
        ("c.jsonl", '{"id": "1", "text": "t", "a": NaN}\n', "line 1 of .*NaN is not a finite"),
        ("c.jsonl", '{"id": "1", "text": "t", "a": [-Infinity]}\n', "line 1 .* not a finite"),
        ("c.jsonl", '{"id": "1", "text": "t", "a": {"b": 1e999}}\n', "1e999 is not a finite"),
        ("c.jsonl", '{"id": "1", "text": "t", "a": NaN, "a": 1}\n', "line 1 .* not a finite"),
        ("c.tsv", "id\ttext\n1\ta\n", r"line 1 of .*c.tsv is a header line \(id, text\)"),
        ("c.tsv", "\ufeffPID\tPassage\n1\ta\n", "line 1 of .* is a header line .*: remove it"),
        ("c.tsv", "\n#doc-id\tbody\n1\ta\n", "line 2 of .* is a header line"),
        ("c.tsv", "text\tid\na\t1\n", "line 1 of .* is a header line"),
        ("c.tsv", "docno\ttitle\ttext\n1\ta\tb\n", "line 1 of .* is a header line"),
    ],
)
def test_a_bad_collection_is_named_with_its_line(tmp_path: Path, name, content, message) -> None:
    with pytest.raises(FormatError, match=message):
        list(read_passages(file(tmp_path, name, content)))


def test_names_of_columns_are_ids_and_texts_where_they_do_not_stand_for_a_header(
    tmp_path: Path,
) -> None:
    lines = "id\tthe part of the mind\ntext\ta body of words\npassage\tid\nquery_id\ttext\n"
    assert len(list(read_passages(file(tmp_path, "c.tsv", lines)))) == 4


def test_a_header_of_queries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"line 1 of .*q.tsv is a header line \(qid, query\)"):
        list(read_queries(file(tmp_path, "q.tsv", "qid\tquery\n1\twho?\n")))


def test_metadata_that_json_lacks_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="the passage p cannot be written as JSON"):
        write_passages([Passage("p", "t", "", {"a": float("nan")})], tmp_path / "c.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"there is no file .*nothing.tsv: check the path"):
        list(read_passages(tmp_path / "nothing.tsv"))
    with pytest.raises(FormatError, match=r"is a directory without corpus.jsonl: give the file"):
        list(read_passages(tmp_path))
    with pytest.raises(FormatError, match=r"is a directory: give the file itself"):
        read_run(tmp_path)


def test_a_query_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"line 2 of .*: the query 8 has no text"):
        list(read_queries(file(tmp_path, "q.tsv", "7\twho?\n8\t  \n")))


@in_one_folder
@given(st.dictionaries(words, texts, min_size=1))
@pytest.mark.parametrize("name", ["c.tsv", "c.tsv.gz", "c.jsonl", "c.jsonl.gz"])
def test_written_passages_are_read_back(tmp_path: Path, name: str, records) -> None:
    passages = [Passage(record_id, text) for record_id, text in records.items()]
    write_passages(passages, tmp_path / name)
    assert list(read_passages(tmp_path / name)) == passages
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@in_one_folder
@given(st.dictionaries(words, texts.filter(str.strip), min_size=1))
@pytest.mark.parametrize("name", ["q.tsv", "q.jsonl"])
def test_queries_are_read_as_they_stand(tmp_path: Path, name: str, records) -> None:
    queries = [Query(record_id, text) for record_id, text in records.items()]
    lines = (
        json.dumps({"id": query_id, "text": text}) if name == "q.jsonl" else f"{query_id}\t{text}"
        for query_id, text in queries
    )
    file(tmp_path, name, "".join(f"{line}\n" for line in lines))
    assert list(read_queries(tmp_path / name)) == queries


def test_jsonl_holds_what_tsv_cannot(tmp_path: Path) -> None:
    passage = Passage("p", "two\nlines\there", "Title", {"url": "u"})
    write_passages([passage], tmp_path / "c.jsonl")
    assert list(read_passages(tmp_path / "c.jsonl")) == [passage]
    with pytest.raises(FormatError, match=r"has a title or metadata, .*: name the file c.jsonl"):
        write_passages([passage], tmp_path / "c.tsv")
    with pytest.raises(FormatError, match=r"the text of p holds a tab or a line break"):
        write_passages([Passage("p", "a\tb")], tmp_path / "c.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"cannot write .*c.tsv: No such file or directory"):
        write_passages([], tmp_path / "missing" / "c.tsv")


def test_json_strings_of_any_kind_come_back(tmp_path: Path) -> None:
    line = json.dumps({"id": "\u00e9", "text": "\U0001f375 \u2028"})
    assert list(read_passages(file(tmp_path, "c.jsonl", line))) == [
        Passage("\u00e9", "\U0001f375 \u2028")
    ]
