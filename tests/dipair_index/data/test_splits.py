"""Queries are split the same way each time, and none that is held out is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dipair_index.data.splits import split_queries
from dipair_index.digests import short_digest
from dipair_index.errors import FormatError
from dipair_index.records import Query


def asked(count: int, name: str) -> list[Query]:
    return [Query(f"{name}{number}", f"{name} text {number}") for number in range(count)]


FILES = {"train": asked(61, "a"), "dev": asked(15, "b"), "test": asked(9, "c")}


@pytest.mark.parametrize(
    ("there", "counts", "digest"),
    [
        (("train",), (57, 2, 2), "1fb2397f33569457"),
        (("train", "dev"), (61, 6, 6), "9dbd958864515c70"),
        (("train", "test"), (59, 2, 7), "5aefdb541b20ba88"),
        (("train", "dev", "test"), (61, 12, 7), "44bcb01f6c524617"),
    ],
)
def test_the_splits_are_those_that_have_always_been_drawn(
    there: tuple[str, ...], counts: tuple[int, int, int], digest: str
) -> None:
    """The digests are those of version 0.1.0 for the same queries and seed."""
    queries = {split: FILES[split] if split in there else [] for split in FILES}
    qrels = {
        query.query_id: {"p": int(int(query.query_id[1:]) % 5 > 0)}
        for each in queries.values()
        for query in each
    }
    found = split_queries(queries, qrels, [], 3)
    assert tuple(map(found.splits.count, ("train", "valid", "test"))) == counts
    assert found.read_like_held_out == 0
    data = json.dumps([found.ids, found.splits, found.digest], sort_keys=True)
    assert short_digest(data.encode()) == digest


def test_a_query_that_reads_like_a_held_out_one_is_left_out(tmp_path: Path) -> None:
    queries = {
        "train": [*asked(5, "a"), Query("like-dev", "B  text 0"), Query("like-test", "c TEXT 0")],
        "dev": [*asked(2, "b"), Query("like-test-too", "c text 0 ")],
        "test": asked(2, "c"),
    }
    (tmp_path / "more.tsv").write_text("u1\tb TEXT 1\nu2\td text\nlike-dev\tB  text 0\n")
    qrels = {query.query_id: {"p": 1} for each in queries.values() for query in each}
    found = split_queries(queries, qrels, [tmp_path / "more.tsv"], 0)
    assert dict(zip(found.ids, found.splits, strict=True)) == {
        **{f"a{number}": "train" for number in range(5)},
        "b0": "valid", "b1": "valid", "c0": "test", "c1": "test", "u2": "unlabelled",
    }  # fmt: skip
    assert found.read_like_held_out == 3
    assert (found.unlabelled_already_there, found.unlabelled_held_out) == (1, 1)


def test_an_unlabelled_query_with_a_known_id_and_another_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "more.tsv").write_text("q1\tanother text\n")
    queries = {"train": [Query(f"q{n}", f"text {n}") for n in range(9)], "dev": []}
    qrels = {f"q{n}": {"p": 1} for n in range(9)}
    with pytest.raises(FormatError, match=r"query q1 of .*more.tsv has another text elsewhere"):
        split_queries(queries, qrels, [tmp_path / "more.tsv"], 0)
    with pytest.raises(FormatError, match=r"2 judged queries are too few to split"):
        split_queries(queries, {"q1": {"p": 1}, "q2": {"p": 1}, "q3": {"p": 0}}, [], 0)
