"""Cohere's `relevant_spans`: the parts of each document that made the model rank it."""

from __future__ import annotations

from collections.abc import Sequence
from math import tanh
from typing import Any

from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.rerank_bodies import SpansWanted
from dipair_index.rerank.serving.scoring import LARGE_STEPS, Scored
from dipair_index.rerank.serving.slot import Lane, Steps
from dipair_index.rerank.serving.state import Served
from dipair_index.rerank.spans import Span, matched_spans


def add_spans(
    served: Served,
    query: str,
    wanted: SpansWanted,
    results: Sequence[dict[str, Any]],
    scored: Scored,
    record: RequestRecord,
) -> Steps[None]:
    """Adds to each result the spans of its document that matched, best first, if there are any.

    Each document is a step, since it is encoded once more without each of its spans.
    """
    lane = Lane.LARGE if len(results) > LARGE_STEPS else Lane.ENCODING
    for result in results:
        yield lane
        passage = scored.passages[result["index"]]
        with record.step("encode"):
            (found,) = matched_spans(query, [passage], served.encoder, served.scorer)
        spans = sorted(map(_span, found), key=lambda span: (-span["score"], span["start"]))
        kept = [span for span in spans if span["score"] >= wanted.threshold]
        if kept := kept[: wanted.max_spans]:
            result["relevant_spans"] = kept


def _span(span: Span) -> dict[str, Any]:
    """Returns a span with a score in [0, 1], from what leaving it out takes off the logit."""
    return {"start": span.start, "end": span.end, "score": tanh(span.weight / 2)}
