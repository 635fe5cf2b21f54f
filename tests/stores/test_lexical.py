"""BM25 against its definition, and parts against one index of all passages."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from dipair_index.errors import MissingPackageError, StoreError
from dipair_index.records import Passage
from dipair_index.stores.lexical import LexicalIndex, LexicalPart, build_lexical

pytest.importorskip("tantivy")

WORDS = ("lava", "moon", "tea", "ash", "the", "tide", "sun", "ice")
QUERIES = ("the moon", "tea", "lava and ash, ash!", "ICE sun tide", "glacier")


def drawn(count: int, seed: int = 0) -> list[Passage]:
    """Passages of up to 30 words, whose lengths tantivy stores exactly; some are equal."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(count)]
    return [
        Passage(f"p{number:03}", text, "Moon" if number % 5 == 0 else "")
        for number, text in enumerate([*texts[: count // 2], *texts[: count - count // 2]])
    ]


def part(folder: Path, passages: Sequence[Passage], deleted: Collection[str] = ()) -> LexicalPart:
    build_lexical(folder, iter([passages[:3], passages[3:]]))
    return LexicalPart(folder, [each.id for each in passages], deleted)


def bm25(query: str, passages: Sequence[Passage]) -> dict[str, float]:
    """Robertson's BM25 with Lucene's idf, k1 = 1.2 and b = 0.75, of passages with a common word."""
    counts = {each.id: Counter(each.full_text.lower().split()) for each in passages}
    mean = sum(each.total() for each in counts.values()) / len(counts)
    scores: dict[str, float] = {}
    for word in "".join(c if c.isalpha() else " " for c in query.lower()).split():
        having = {passage_id for passage_id, of in counts.items() if of[word]}
        idf = math.log(1 + (len(counts) - len(having) + 0.5) / (len(having) + 0.5))
        for passage_id in having:
            times, length = counts[passage_id][word], counts[passage_id].total()
            part = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))
            scores[passage_id] = scores.get(passage_id, 0) + idf * part
    return scores


@pytest.mark.parametrize("query", QUERIES)
def test_scores_are_bm25(tmp_path: Path, query: str) -> None:
    passages = drawn(60)
    found = LexicalIndex([part(tmp_path / "a", passages)]).search(query, 60)
    assert dict(found) == pytest.approx(bm25(query, passages), rel=1e-5)
    assert found == sorted(found, key=lambda each: (-each[1], each[0]))


@pytest.mark.parametrize("query", QUERIES)
def test_parts_are_searched_as_one_index_of_all_passages(tmp_path: Path, query: str) -> None:
    passages = drawn(60)
    parts = [
        part(tmp_path / "a", passages[:41]),
        part(tmp_path / "b", passages[41:42]),
        part(tmp_path / "c", passages[42:]),
    ]
    whole = LexicalIndex([part(tmp_path / "whole", passages)])
    assert len(LexicalIndex(parts)) == len(whole) == 60
    for top_k in (1, 5, 17, 60, 99):
        assert LexicalIndex(parts).search(query, top_k) == whole.search(query, top_k)


@pytest.mark.parametrize("top_k", [1, 4, 60])
def test_deleted_passages_are_left_out(tmp_path: Path, top_k: int) -> None:
    passages = drawn(60)
    first = part(tmp_path / "a", passages[:40])
    second = part(tmp_path / "b", passages[40:])
    everything = LexicalIndex([first, second]).search("the moon", 60)
    # the best ones above all, so that more must be fetched than are asked for
    deleted = {passage_id for passage_id, _ in everything[:30]} | {"p007"}
    index = LexicalIndex([first._replace(deleted=deleted), second._replace(deleted=deleted)])
    expected = [each for each in everything if each[0] not in deleted]
    assert index.search("the moon", top_k) == expected[:top_k]


def test_ties_are_in_the_order_of_ids_wherever_they_are_cut(tmp_path: Path) -> None:
    same = [Passage(f"p{number:03}", "moon and tide") for number in reversed(range(150))]
    index = LexicalIndex([part(tmp_path / "a", same[:90]), part(tmp_path / "b", same[90:])])
    for top_k in (1, 7, 149, 150):
        found = index.search("tide", top_k)
        assert [passage_id for passage_id, _ in found] == [f"p{n:03}" for n in range(top_k)]
        assert len({score for _, score in found}) == 1


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Bees danced in the rain", "bee dancing"),
        ("蜂は花の場所を踊りで伝える", "踊る蜂"),
        ("मधुमक्खियाँ नृत्य करती हैं", "नृत्य"),
        ("Пчёлы танцуют для улья", "танцуют"),
        ("النحل يرقص في الخلية", "يرقص"),
        ("ผึ้งเต้นรำ", "เต้น"),
    ],
)
def test_words_are_found_in_many_scripts(tmp_path: Path, text: str, query: str) -> None:
    others = [Passage(f"x{number}", "ice and snow, лёд и снег, 氷と雪") for number in range(3)]
    index = LexicalIndex([part(tmp_path / "a", [*others, Passage("p", text)])])
    assert [passage_id for passage_id, _ in index.search(query, 1)] == ["p"]


@pytest.mark.parametrize("query", ["?!", '" AND (', "text:moon*", "x" * 5000, "\x00 moon"])
def test_a_query_is_words_and_no_syntax(tmp_path: Path, query: str) -> None:
    index = LexicalIndex([part(tmp_path / "a", drawn(9))])
    has_moon = "moon" in query
    assert bool(index.search(query, 3)) == has_moon


def test_no_parts_have_no_words() -> None:
    assert LexicalIndex([]).search("moon", 3) == []
    assert len(LexicalIndex([])) == 0


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    part(tmp_path / "a", drawn(9))
    (tmp_path / "a" / "meta.json").write_text("{")
    rebuilt = part(tmp_path / "a", drawn(6))
    assert len(LexicalIndex([rebuilt])) == 6
    names = {path.name.partition(".")[2] for path in rebuilt.folder.iterdir()}
    assert not any("lock" in name or "managed" in name for name in names)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    built = part(tmp_path / "a", drawn(9))
    next(built.folder.glob("*.term")).unlink()
    with pytest.raises(StoreError, match="index of words cannot be opened"):
        LexicalIndex([built])
    (built.folder / "meta.json").unlink()
    with pytest.raises(StoreError, match="index of words cannot be opened"):
        LexicalIndex([built])


def test_without_tantivy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipair_index.optional.is_installed", lambda package: False)
    with pytest.raises(MissingPackageError, match=r"needs tantivy.*\[lexical\]"):
        LexicalIndex([])
