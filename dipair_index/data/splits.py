"""Which query belongs to which split: never one in two, and never a held-out one in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dipair_index.digests import TextsDigest
from dipair_index.errors import FormatError
from dipair_index.formats.collections import read_queries
from dipair_index.records import Qrels, Query

HELD_OUT_SHARE = 0.05
"""Of the judged train queries, for valid and again for test, where there are no dev files."""


class SplitQueries(NamedTuple):
    """All queries in the order of their files, with the split of each."""

    ids: list[str]
    texts: list[str]
    splits: list[str]  # train, valid, test or unlabelled
    digest: str
    dev_without_positive: int
    unlabelled_already_there: int
    unlabelled_held_out: int


def split_queries(
    queries: dict[str, list[Query]], qrels: Qrels, unlabelled: Sequence[Path], seed: int
) -> SplitQueries:
    """Splits dev by halves into valid and test, or 5 % each off train where there is no dev.

    Where there are test queries, they are the test and all of dev is valid. Dev and test queries
    without a positive are left out. An unlabelled query that is known already, or
    reads like a held-out one, is counted and left out.
    """
    judged = {query_id for query_id, judged in qrels.items() if max(judged.values()) >= 1}
    dev, test, train = (
        [query for query in queries.get(split, []) if query.query_id in judged]
        for split in ("dev", "test", "train")
    )
    source = dev or train
    half = (len(dev) + 1) // 2 if dev else max(1, int(len(source) * HELD_OUT_SHARE))
    if len(source) < (1 if dev and test else 2 if dev or test else 3):
        raise FormatError(
            f"{len(source)} judged queries are too few to split: expected 2 in dev, or 3 in train"
        )
    order = np.random.default_rng(seed).permutation(len(source))
    if test:
        splits = {source[row].query_id: "valid" for row in (order if dev else order[:half])}
        splits |= {query.query_id: "test" for query in test}
    else:
        splits = {source[row].query_id: "valid" for row in order[:half]}
        splits |= {source[row].query_id: "test" for row in order[half : None if dev else 2 * half]}
    kept = queries["train"] + dev + test
    texts = {query.query_id: query.text for query in kept}
    held_out = {plain_text(query.text) for query in kept if query.query_id in splits}
    already_there = held_out_too = 0
    for path in unlabelled:
        for query in read_queries(path):
            if query.query_id in texts:
                if texts[query.query_id] != query.text:
                    raise FormatError(
                        f"query {query.query_id} of {path} has another text elsewhere: "
                        "give it an id of its own"
                    )
                already_there += 1
            elif plain_text(query.text) in held_out:
                held_out_too += 1
            else:
                kept.append(query)
                texts[query.query_id] = query.text
                splits[query.query_id] = "unlabelled"
    digest = TextsDigest()
    digest.update(list(texts), texts.values())
    return SplitQueries(
        ids=list(texts),
        texts=list(texts.values()),
        splits=[splits.get(query_id, "train") for query_id in texts],
        digest=digest.hexdigest(),
        dev_without_positive=len(queries["dev"]) + len(queries.get("test", [])) - len(dev + test),
        unlabelled_already_there=already_there,
        unlabelled_held_out=held_out_too,
    )


def plain_text(text: str) -> str:
    """What makes two queries the same: their words, in whatever case."""
    return " ".join(text.casefold().split())
