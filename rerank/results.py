"""From scored candidates to results: sorted, cut, and with their texts."""

from __future__ import annotations

from collections.abc import Sequence

from dipair_index.records import FloatArray
from dipair_index.rerank.candidates import Candidate
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
    """Sorts by logit, since two logits may have the same sigmoid."""
    best = best_first([candidate.order for candidate in candidates], logits, top_k)
    scores = [float(logits[place]) for place in best]
    if not raw_scores:
        scores = [probability(score) for score in scores]
    return [(candidates[place], score) for place, score in zip(best, scores, strict=True)]


def described(
    best: Sequence[tuple[Candidate, float]],
    snapshot: Snapshot,
    watch: Stopwatch,
    retrieval: dict[str, float] | None = None,
) -> Ranking:
    """Adds texts and what the first stage said; `retrieval` is in its order."""
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
