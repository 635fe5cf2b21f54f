"""The first stage of a search: candidates by vectors, by words, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dipair_index.errors import SettingsError
from dipair_index.records import FloatArray
from dipair_index.rerank.fusion import Fusion
from dipair_index.rerank.names import FIRST_STAGES, LEXICAL_WEIGHT, FirstStage, FusionMethod
from dipair_index.rerank.ranking import best_first
from dipair_index.stores.part import MetadataTest
from dipair_index.stores.snapshot import Snapshot

Retrieved = dict[str, float]
"""Scores by passage id, best first, ties by id: cosines, BM25, or fused ones."""


def retrieve(
    snapshot: Snapshot,
    stage: FirstStage,
    queries: Sequence[str],
    vectors: FloatArray,
    count: int,
    method: FusionMethod = "weighted",
    matches: MetadataTest | None = None,
) -> list[Retrieved]:
    """Returns the `count` best passages of each query, fewer if fewer have one of its words.

    `vectors` are (queries, dim); "lexical" does not read them. "both" fuses the `count` best by
    vectors and the `count` best by words by `method`. With `matches`, they are the best of those
    whose metadata it accepts.
    """
    if stage == "vectors":
        return _by_vectors(snapshot, vectors, count, matches)
    by_words = [dict(snapshot.search_words(query, count, matches)) for query in queries]
    if stage == "lexical":
        return by_words
    fusion = Fusion(method, LEXICAL_WEIGHT)
    lists = zip(_by_vectors(snapshot, vectors, count, matches), by_words, strict=True)
    return [_best(fusion.scores(*both), count) for both in lists]


def _by_vectors(
    snapshot: Snapshot, vectors: FloatArray, count: int, matches: MetadataTest | None
) -> list[Retrieved]:
    ids, similarities = snapshot.search(vectors, count, matches)
    return [
        dict(zip(found, scores[: len(found)].tolist(), strict=True))
        for found, scores in zip(ids, similarities, strict=True)
    ]


def _best(scores: Mapping[str, float], count: int) -> Retrieved:
    ids = list(scores)
    values = np.array([*scores.values()])
    return {ids[index]: float(values[index]) for index in best_first(ids, values, count)}


def shown_score(stage: FirstStage, score: float, *, raw: bool) -> float:
    """Returns a score of the first stage as results show it: in [0, 1], unless `raw`.

    A cosine c becomes (1 + c) / 2, a BM25 score s becomes s / (1 + s).
    """
    if stage == "vectors":
        cosine = min(max(score, -1.0), 1.0)  # rounding may exceed 1
        return cosine if raw else (1 + cosine) / 2
    return score / (1 + score) if stage == "lexical" and not raw else score


def checked_first_stage(stage: object) -> FirstStage:
    """Returns the name of a first stage; raises `SettingsError` if there is none of this name."""
    for name in FIRST_STAGES:
        if stage == name:
            return name
    names = ", ".join(map(repr, FIRST_STAGES))
    raise SettingsError(f"first_stage must be one of {names}, got {stage!r}")
