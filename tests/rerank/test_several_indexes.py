"""Several indexes searched as one answer as one index of all their passages does."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.records import Passage, Query
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.index_writer import IndexWriter

QUERIES = ["how bees dance", "why does dough rise", "the moon and the tide"]


@pytest.fixture
def shards(lone_encoder: DualEncoder, passages: list[Passage], tmp_path: Path) -> list[Path]:
    """Three indexes, of which one has two parts and a deleted passage."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    build_index(passages[:9], paths[0], lone_encoder)
    build_index([*passages[9:15], Passage("gone", "bees dance")], paths[1], lone_encoder)
    build_index(passages[18:], paths[2], lone_encoder, store="tensorstore")
    add_passages(passages[15:18], paths[1], lone_encoder)
    with IndexWriter(paths[1]) as writer:
        writer.delete(["gone"])
    return paths


@pytest.fixture
def whole(lone_encoder: DualEncoder, passages: list[Passage], tmp_path: Path) -> Path:
    build_index(passages, tmp_path / "whole", lone_encoder)
    return tmp_path / "whole"


def test_they_answer_as_one_index_of_all_passages(
    shards: list[Path], whole: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    ids = [passage.id for passage in passages]
    with (
        DiPairIndex.open(shards, lone_encoder) as several,
        DiPairIndex.open(whole, lone_encoder) as one,
    ):
        assert len(several) == len(one) == 24
        for candidates in (5, 24):
            assert several.search(QUERIES, 5, candidates) == one.search(QUERIES, 5, candidates)
        assert several.search(QUERIES, 7, rerank=False) == one.search(QUERIES, 7, rerank=False)
        assert several.rerank(QUERIES[0], ids[::-2]) == one.rerank(QUERIES[0], ids[::-2])
        texts = [passages[20].full_text, "a glacier in the sun"]
        assert several.rerank(QUERIES[0], texts=texts) == one.rerank(QUERIES[0], texts=texts)
        run = {"1": {each: 1.0 for each in ids[3:20]}}
        asked = [Query("1", QUERIES[1])]
        assert several.rerank_run(asked, run) == one.rerank_run(asked, run)


def test_changes_of_one_are_seen_after_a_refresh(
    shards: list[Path], lone_encoder: DualEncoder
) -> None:
    with DiPairIndex.open(shards, lone_encoder) as index:
        assert not index.refresh()
        add_passages([("new", "tea leaves in the sun")], shards[2], lone_encoder)
        assert len(index) == 24
        assert index.refresh()
        assert len(index) == 25
        assert index.search("tea leaves in the sun", 1, rerank=False)[0].id == "new"
        for change in (lambda: index.add([("x", "ice")]), index.compact, lambda: index.delete("x")):
            with pytest.raises(SettingsError):
                change()
        with pytest.raises(SettingsError, match="are searched as one: change each of them by its"):
            index.compact()


def test_a_passage_in_two_of_them_is_named(
    shards: list[Path], lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    add_passages([passages[0]], shards[2], lone_encoder)
    with (
        DiPairIndex.open(shards, lone_encoder) as index,
        pytest.raises(DirectoryError, match=f"the passage {passages[0].id} is in more than one of"),
    ):
        index.search(passages[0].full_text)


def test_indexes_of_other_settings_are_refused(
    shards: list[Path], lone_encoder: DualEncoder, passages: list[Passage], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    build_index(passages[:1], other, lone_encoder, codec="float16")
    with pytest.raises(
        DirectoryError,
        match=f"{shards[0]} and {other} cannot be searched as one: their codec is int6 and float16",
    ):
        DiPairIndex.open([*shards, other], lone_encoder)
    with pytest.raises(SettingsError, match="there is no index to open"):
        DiPairIndex.open([], lone_encoder)
