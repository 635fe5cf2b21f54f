"""Makes results from scored candidates: sorts them, cuts them to top_k, and adds their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dipair_index.records import FloatArray
from dipair_index.rerank.candidates import Candidate
from dipair_index.rerank.fusion import Fusion
from dipair_index.rerank.ranking import (
    RankedPassage,
    Ranking,
    Stopwatch,
    best_first,
    probability,
)
from dipair_index.stores.snapshot import Snapshot


def best_candidates(
    candidates: Sequence[Candidate], logits: FloatArray, top_k: int | None, raw_scores: bool
) -> list[tuple[Candidate, float]]:
    """Returns the `top_k` best candidates with their scores, best first.

    They are sorted by logit, since different logits may have the same sigmoid.
    """
    best = best_first([candidate.order for candidate in candidates], logits, top_k)
    scores = [float(logits[index]) for index in best]
    if not raw_scores:
        scores = [probability(score) for score in scores]
    return [(candidates[index], score) for index, score in zip(best, scores, strict=True)]


def ranked_candidates(
    candidates: Sequence[Candidate],
    logits: FloatArray,
    retrieval: Mapping[str, float],
    fusion: Fusion | None,
    top_k: int | None,
    raw_scores: bool,
) -> list[tuple[Candidate, float]]:
    """Returns the `top_k` best candidates with their scores, by the head or by a fusion.

    `retrieval` are the scores of the first stage by passage id, with which the head's are fused.
    """
    if fusion is None:
        return best_candidates(candidates, logits, top_k, raw_scores)
    ids = [candidate.id for candidate in candidates]
    fused = fusion.scores(retrieval, dict(zip(ids, logits.tolist(), strict=True)))
    scores = np.array([fused[passage_id] for passage_id in ids])
    return [(candidates[index], float(scores[index])) for index in best_first(ids, scores, top_k)]


def described(
    best: Sequence[tuple[Candidate, float]],
    snapshot: Snapshot,
    watch: Stopwatch,
    retrieval: dict[str, float] | None = None,
) -> Ranking:
    """Returns the results with their texts and the ranks and scores of the first stage.

    `retrieval` are the scores of the first stage by passage id, best first.
    """
    retrieval = retrieval or {}
    before = {passage_id: rank for rank, passage_id in enumerate(retrieval, start=1)}
    stored = iter(snapshot.passages([each.id for each, _ in best if each.passage is None]))
    passages = [each.passage or next(stored) for each, _ in best]
    ranked = (
        RankedPassage(
            id=passage.id,
            score=score,
            rank=rank,
            text=passage.text,
            title=passage.title,
            metadata=passage.metadata,
            retrieval_rank=before.get(passage.id),
            retrieval_score=retrieval.get(passage.id),
        )
        for rank, (passage, (_, score)) in enumerate(zip(passages, best, strict=True), start=1)
    )
    return Ranking(ranked, watch.timings)
