"""Assigns each query to one split, so that no held-out query is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dipair_index.data.equal_texts import plain_text
from dipair_index.digests import TextsDigest
from dipair_index.errors import FormatError
from dipair_index.formats.collections import read_queries
from dipair_index.records import Qrels, Query
from dipair_index.words import counted

HELD_OUT_SHARE = 0.05
"""The share of the judged train queries that valid and test get each, if there are no dev files."""


class SplitQueries(NamedTuple):
    """All queries in the order of their files, with their splits, and counts of omitted queries.

    `read_like_held_out` are judged queries with the words of a held-out one.
    """

    ids: list[str]
    texts: list[str]
    splits: list[str]  # train, valid, test or unlabelled
    digest: str
    dev_without_positive: int
    read_like_held_out: int
    unlabelled_already_there: int
    unlabelled_held_out: int


class HeldOutQueries(NamedTuple):
    """The queries of valid and of test."""

    valid: list[Query]
    test: list[Query]


def split_queries(
    queries: Mapping[str, Sequence[Query]], qrels: Qrels, unlabelled: Sequence[Path], seed: int
) -> SplitQueries:
    """Splits dev in half, into valid and test; without dev, valid and test get 5 % of train each.

    If there are test queries, they become test and all of dev becomes valid. Left out are: dev
    and test queries without a positive; queries with the words of a test query, and train queries
    with the words of a valid one; unlabelled queries that are known already, or have the words of
    a held-out one. Raises `FormatError` if there are too few judged queries to split, or if an
    unlabelled query has the id of another.
    """
    train, dev, test = (
        [query for query in queries.get(split, []) if _has_positive(qrels, query)]
        for split in ("train", "dev", "test")
    )
    held_out = _held_out(train, dev, test, np.random.default_rng(seed))
    split_of = {query.query_id: "valid" for query in held_out.valid}
    split_of |= {query.query_id: "test" for query in held_out.test}
    in_test = {plain_text(query.text) for query in held_out.test}
    in_either = in_test | {plain_text(query.text) for query in held_out.valid}
    elsewhere: dict[str, set[str]] = {"train": in_either, "valid": in_test, "test": set()}
    judged = [*queries["train"], *dev, *test]
    kept = [
        query
        for query in judged
        if plain_text(query.text) not in elsewhere[split_of.get(query.query_id, "train")]
    ]
    texts = {query.query_id: query.text for query in kept}
    splits = {query.query_id: split_of.get(query.query_id, "train") for query in kept}
    already_there = held_out_too = 0
    ids = {query.query_id: query.text for query in judged}
    for path in unlabelled:
        for query in read_queries(path):
            if query.query_id in ids:
                if ids[query.query_id] != query.text:
                    raise FormatError(
                        f"query {query.query_id} of {path} has another text elsewhere: "
                        "give it an id of its own"
                    )
                already_there += 1
            elif plain_text(query.text) in in_either:
                held_out_too += 1
            else:
                ids[query.query_id] = texts[query.query_id] = query.text
                splits[query.query_id] = "unlabelled"
    digest = TextsDigest()
    digest.update(texts, texts.values())
    return SplitQueries(
        ids=list(texts),
        texts=list(texts.values()),
        splits=list(splits.values()),
        digest=digest.hexdigest(),
        dev_without_positive=len(queries["dev"]) + len(queries.get("test", [])) - len(dev + test),
        read_like_held_out=len(judged) - len(kept),
        unlabelled_already_there=already_there,
        unlabelled_held_out=held_out_too,
    )


def _held_out(
    train: list[Query], dev: list[Query], test: list[Query], random: np.random.Generator
) -> HeldOutQueries:
    """Chooses valid and test among the judged queries, depending on which files there are."""
    if dev and test:
        return HeldOutQueries(dev, test)
    if dev:
        drawn = _drawn(dev, 2, random)
        half = (len(drawn) + 1) // 2
        return HeldOutQueries(drawn[:half], drawn[half:])
    share = max(1, int(len(train) * HELD_OUT_SHARE))
    if test:
        return HeldOutQueries(_drawn(train, 2, random)[:share], test)
    drawn = _drawn(train, 3, random)
    return HeldOutQueries(drawn[:share], drawn[share : 2 * share])


def _drawn(queries: list[Query], at_least: int, random: np.random.Generator) -> list[Query]:
    """Returns the queries in random order; raises `FormatError` if there are too few."""
    if len(queries) < at_least:
        too_few = counted(len(queries), "judged query is too few", "judged queries are too few")
        raise FormatError(f"{too_few} to split: expected 2 in dev, or 3 in train")
    return [queries[row] for row in random.permutation(len(queries))]


def _has_positive(qrels: Qrels, query: Query) -> bool:
    return max(qrels.get(query.query_id, {}).values(), default=0) >= 1
