"""One index in many threads, and two of them in one process, while passages change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from dipair_index import DiPairIndex, Passage, Query, StoreError
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.build import build_index

QUERY = "how bees dance"
OLD, NEW = "bees dance in winter", "lava and ash of the volcano"
CHANGES = 12
READERS = 4


@pytest.fixture
def folder(quick_path: Path, lone_encoder: DualEncoder, passages: list[Passage]) -> Path:
    build_index([Passage("x", OLD), *passages[:6]], quick_path / "i", lone_encoder)
    return quick_path / "i"


def seen(found: list) -> list[tuple]:
    """What a search says of the passage that changes: all of it is of one state or another."""
    return [
        (each.text, round(each.score, 6), each.retrieval_score and round(each.retrieval_score, 6))
        for each in found
        if each.id == "x"
    ]


def change(index: DiPairIndex) -> None:
    for number in range(CHANGES):
        index.add([("x", (NEW, OLD)[number % 2])], update=True)
        index.add([(f"n{number}", "the moon and the tide")])
        index.delete([f"n{number}"])
    index.compact()


def asked_meanwhile(ask: Callable[[], list[tuple]], work: Callable[[], None]) -> list[list[tuple]]:
    """What threads are answered from before `work` begins until it has ended."""
    done, begun = Event(), Event()

    def keep_asking() -> list[list[tuple]]:
        answers = []
        while not done.is_set() or len(answers) < 3:
            answers.append(ask())
            begun.set()
        return answers

    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(keep_asking) for _ in range(READERS)]
        try:
            assert begun.wait(120)
            work()
        finally:
            done.set()
        return [answer for reader in readers for answer in reader.result()]


def states(folder: Path, encoder: DualEncoder, ask: Callable[[DiPairIndex], list]) -> list[list]:
    """What a search says before a change, and after it."""
    with DiPairIndex.open(folder, encoder) as index:
        before = seen(ask(index))
        index.add([("x", NEW)], update=True)
        after = seen(ask(index))
        index.add([("x", OLD)], update=True)
    assert len({*map(tuple, (before, after))}) == 2
    return [before, after]


ASKED = {
    "search": lambda index: index.search(QUERY, top_k=None),
    "batch": lambda index: index.search([QUERY, QUERY], top_k=None)[1],
    "retrieval": lambda index: index.search(QUERY, top_k=20, rerank=False),
    "rerank": lambda index: index.rerank(QUERY, ["x", "p01"]),
    "run": lambda index: index.rerank_run([Query("q", QUERY)], {"q": {"x": 1.0}})["q"],
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_search_beside_changes_answers_from_one_state(
    folder: Path, lone_encoder: DualEncoder, ask: Callable[[DiPairIndex], list]
) -> None:
    expected = states(folder, lone_encoder, ask)
    with DiPairIndex.open(folder, lone_encoder) as index:
        answers = asked_meanwhile(lambda: seen(ask(index)), lambda: change(index))
        assert len(index) == 7
    assert all(answer in expected for answer in answers)


def test_an_index_that_is_open_twice_is_changed_by_one_and_searched_by_the_other(
    folder: Path, lone_encoder: DualEncoder
) -> None:
    ask = ASKED["search"]
    expected = states(folder, lone_encoder, ask)

    def refreshed() -> list[tuple]:
        reading.refresh()
        return seen(ask(reading))

    with (
        DiPairIndex.open(folder, lone_encoder) as reading,
        DiPairIndex.open(folder, lone_encoder) as writing,
    ):
        answers = asked_meanwhile(refreshed, lambda: change(writing))
        assert reading.refresh() in (True, False)
        assert seen(ask(reading)) == seen(ask(writing))
    assert all(answer in expected for answer in answers)


def test_threads_that_change_one_index_wait_for_each_other(
    folder: Path, lone_encoder: DualEncoder
) -> None:
    with DiPairIndex.open(folder, lone_encoder) as index, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: index.add([(f"n{number}", "green tea")]), range(8)))
        assert len(index) == 15


def test_closing_lets_searches_that_have_begun_end(folder: Path, lone_encoder: DualEncoder) -> None:
    index = DiPairIndex.open(folder, lone_encoder)
    with index._current.lent() as opened:
        index.close()
        assert len(opened.snapshot.passages(["x"])) == 1
    with pytest.raises(StoreError, match="is closed: open it again"):
        index.search(QUERY)
    with pytest.raises(StoreError, match="is closed"):
        index.refresh()
    index.close()
    assert len(index) == 7


def test_queries_and_passages_are_tokenised_beside_each_other(
    folder: Path, encoder: DualEncoder
) -> None:
    """Each sets its own length in the tokenizer, which must not be the other's."""
    long = "the queen bees dance in winter " * 40
    query, passage = (encoder.tokenised(side, [long]).ids for side in ("query", "passage"))
    assert len(query[0]) < len(passage[0])

    def tokenise(number: int) -> bool:
        side = ("query", "passage")[number % 2]
        return encoder.tokenised(side, [long]).ids == (query, passage)[number % 2]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(tokenise, range(200)))
