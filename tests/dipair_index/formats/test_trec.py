"""Qrels and runs come back as they were written, and bad lines are named."""

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipair_index.errors import FormatError
from dipair_index.formats.trec import iter_qrels, read_qrels, read_run, write_run
from dipair_index.records import ScoredPassage

words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=8)
words = words.filter(lambda word: word.split() == [word] and word.splitlines() == [word])
in_one_folder = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_qrels_keep_the_line_of_each_judgement(tmp_path: Path) -> None:
    path = file(tmp_path, "qrels.tsv", "q1\t0\tp1\t1\nq1 0 p2 0\n")
    assert read_qrels(path) == {"q1": {"p1": 1, "p2": 0}}
    assert [judgement.where for judgement in iter_qrels(path)] == [
        f"line 1 of {path}",
        f"line 2 of {path}",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgement"),
        ("q 0 p\n", "line 1 of .*: expected 4 fields .* got 3"),
        ("query-id corpus-id score\nq p\n", "line 2 of .*: expected 3 fields .* got 2"),
        ("q 0 p high\n", "line 1 of .*: expected a whole number as relevance, got 'high': remove"),
        ("query_id 0 doc_id relevance\n", "got 'relevance': remove the line, if it is a header"),
        ("q 0 p 1\nq 0 p 1\nq 0 p 0\n", "line 3 of .*query q and passage p were judged 1 before"),
    ],
)
def test_bad_qrels_are_named_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_qrels(file(tmp_path, "qrels.tsv", content))


def test_a_beir_folder_with_several_qrels_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    for name in ("dev.tsv", "test.tsv"):
        file(tmp_path / "qrels", name, "q 0 p 1\n")
    with pytest.raises(FormatError, match=r"qrels holds dev.tsv, test.tsv: give the one"):
        read_qrels(tmp_path)
    assert read_qrels(tmp_path / "qrels" / "dev.tsv") == {"q": {"p": 1}}


@in_one_folder
@given(
    st.dictionaries(
        words, st.dictionaries(words, st.integers(-1, 3), min_size=1), min_size=1, max_size=5
    )
)
def test_written_qrels_are_read_back(tmp_path: Path, qrels) -> None:
    lines = (
        f"{query_id}\t0\t{passage_id}\t{relevance}\n"
        for query_id, judged in qrels.items()
        for passage_id, relevance in judged.items()
    )
    assert read_qrels(file(tmp_path, "qrels.tsv", "".join(lines))) == qrels


def test_a_run_is_written_best_first_with_ties_by_id() -> None:
    target = io.StringIO()
    ranking = [ScoredPassage("b", 0.5), ScoredPassage("c", 0.75), ScoredPassage("a", 0.5)]
    write_run({"q": ranking}, target, "dipair")
    assert target.getvalue() == "q Q0 c 1 0.75 dipair\nq Q0 a 2 0.5 dipair\nq Q0 b 3 0.5 dipair\n"
    with pytest.raises(FormatError, match="'my run' is empty or holds white space"):
        write_run({"q": ranking}, target, "my run")


@in_one_folder
@given(
    st.dictionaries(
        words,
        st.dictionaries(words, st.floats(allow_nan=False, allow_infinity=False), min_size=1),
        max_size=4,
    ).filter(bool)
)
def test_a_written_run_is_read_back_to_the_last_bit(tmp_path: Path, run) -> None:
    rankings = {
        query_id: [ScoredPassage(*item) for item in scores.items()]
        for query_id, scores in run.items()
    }
    with open(tmp_path / "run.trec", "w", encoding="utf-8", newline="\n") as target:
        write_run(rankings, target, "tag")
    assert read_run(tmp_path / "run.trec") == run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q Q0 p 1 0.5\n", "line 1 of .*: expected 6 fields .* got 5"),
        ("q Q0 p 1 high t\n", "line 1 of .*: expected a finite number as score, got 'high'"),
        ("q Q0 p 1 nan t\n", "expected a finite number as score, got 'nan'"),
        ("q Q0 p 1 2 t\nq Q0 p 2 1 t\n", "line 2 of .*: passage p is ranked twice for query q"),
    ],
)
def test_a_bad_run_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_run(file(tmp_path, "run.trec", content))
