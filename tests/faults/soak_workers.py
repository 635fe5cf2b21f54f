"""One process that changes an index for ever, and many that read it and know what they should see.

Round after round all passages are given other texts, some passages come and go again, and parts
are merged. A reader knows what each round answers, so it finds out a mixture of two.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from fault_workers import encoder, some_passages

from dipair_index.records import Passage
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.ranking import RankedPassage
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.snapshot import Snapshot

QUERIES = ["why does dough rise", "how bees dance in winter", "the moon and the tide"]
VARIANTS = 5
ALWAYS, AT_TIMES = 24, 6
ROUNDING = 1e-6

Scores = dict[str, tuple[str, float, float]]
"""Text, logit and cosine by passage id."""
Expected = dict[tuple[int, bool], list[Scores]]
"""What each query gives, by variant and by whether the passages are there that come and go."""


class State(NamedTuple):
    """What an index holds."""

    round: int
    all_there: bool


def passages_of(state: State, *, ids: range | None = None) -> tuple[Passage, ...]:
    """The passages of a round; each carries its number."""
    ids = ids or range(ALWAYS + AT_TIMES * state.all_there)
    made = some_passages(len(ids), first=ids.start, seed=state.round % VARIANTS)
    return tuple(passage._replace(metadata={"round": state.round}) for passage in made)


def build_states(mouth: Connection, folder: Path) -> None:
    """Builds an index of each state; says the `Expected` answers."""
    expected = {}
    for variant in range(VARIANTS):
        for all_there in (False, True):
            index_dir = folder / f"{variant} {all_there}"
            build_index(
                passages_of(State(variant, all_there)), index_dir, encoder(), codec="float32"
            )
            with DiPairIndex.open(index_dir, encoder()) as index:
                expected[variant, all_there] = [scores_of(found) for found in ask(index)]
    mouth.send(expected)


def keep_changing(mouth: Connection, index_dir: Path, acknowledged: Any) -> None:
    """Changes the index until it is killed, and goes on where another one was.

    `acknowledged` has the round that all must see.
    """
    coming = range(ALWAYS, ALWAYS + AT_TIMES)
    with Snapshot.open(index_dir) as snapshot:
        there = list(snapshot)
        number: int = snapshot.passages(["p0000"])[0].metadata["round"]
    left = [each for each in there if int(each[1:]) in coming]
    if left:
        with IndexWriter(index_dir) as writer:
            writer.delete(left)
    while True:
        number += 1
        add_passages(
            passages_of(State(number, False)), index_dir, encoder(), update=True, overwrite=True
        )
        acknowledged.value = number
        add_passages(passages_of(State(number, True), ids=coming), index_dir, encoder())
        with IndexWriter(index_dir) as writer:
            writer.delete(f"p{each:04}" for each in coming)
            if number % 3 == 0:
                writer.compact()


def keep_reading(
    mouth: Connection,
    index_dir: Path,
    expected: Expected,
    acknowledged: Any,
    stop: Callable[[], bool],
    seed: int,
) -> None:
    """Asks until it is told to stop; says each wrong answer, and how often it did what."""
    chance, did = random.Random(seed), Counter[str]()
    index = DiPairIndex.open(index_dir, encoder())
    rankings = ask(index)
    while not stop():
        what = chance.choices(["refresh", "ask again", "open", "wait"], [60, 25, 10, 5])[0]
        must_see = State(acknowledged.value, False)
        before, was = rankings, state_of(rankings[0])
        if what == "open":
            index.close()
            index = DiPairIndex.open(index_dir, encoder())
        elif what == "wait":
            time.sleep(chance.random())
        elif what == "refresh":
            did["refresh to another"] += index.refresh()
        rankings = ask(index)
        did[what] += 1
        now = state_of(rankings[0])
        if what in ("ask again", "wait"):
            if rankings != before:
                mouth.send(f"{was} became {now} without a refresh")
        elif now.round < max(was.round, must_see.round):
            mouth.send(f"{now} was seen after {was} and {must_see}")
        for ranking, right in zip(
            rankings, expected[now.round % VARIANTS, now.all_there], strict=True
        ):
            if wrong := mistakes(ranking, now, right):
                mouth.send(f"{now}: {wrong}")
            did["answers"] += 1
    index.close()
    mouth.send(did)


def ask(index: DiPairIndex) -> list[list[RankedPassage]]:
    """Everything that the index holds, ranked for each query."""
    count = ALWAYS + AT_TIMES
    return index.search(QUERIES, top_k=count, candidates=count, raw_scores=True)


def state_of(ranking: list[RankedPassage]) -> State:
    """What the first passage and the number of passages say."""
    return State(ranking[0].metadata["round"], len(ranking) > ALWAYS)


def scores_of(ranking: list[RankedPassage]) -> Scores:
    return {each.id: (each.text, each.score, each.retrieval_score or 0.0) for each in ranking}


def mistakes(ranking: list[RankedPassage], state: State, right: Scores) -> str:
    """What is wrong with an answer, if anything."""
    rounds = {passage.metadata["round"] for passage in ranking}
    if rounds != {state.round}:
        return f"a mixture of the rounds {rounds}"
    found = scores_of(ranking)
    if set(found) != set(right):
        return f"the passages {sorted(set(found) ^ set(right))} are too many or too few"
    order = [passage.score for passage in ranking]
    if order != sorted(order, reverse=True):
        return "not the best first"
    for passage_id, (text, *scores) in found.items():
        due_text, *due = right[passage_id]
        if text != due_text or any(abs(a - b) > ROUNDING for a, b in zip(scores, due, strict=True)):
            return f"{passage_id} is {(text, *scores)}, not {right[passage_id]}"
    return ""
