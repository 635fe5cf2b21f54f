"""`POST /search`: the best passages of the index for one query or several."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator

from dipair_index.rerank.ranking import Ranking, Timings
from dipair_index.rerank.serving.bodies import FilledText, Flag, LaxBody
from dipair_index.rerank.serving.handling import computed
from dipair_index.rerank.serving.openapi import describes
from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.slot import Lane, Steps
from dipair_index.rerank.serving.state import Served

router = APIRouter(tags=["search"])

MOST_CANDIDATES = 10_000
MOST_QUERIES = 1000
_PAIRS_AT_ONCE = 1000
"""A step searches for as many queries as have these candidates together."""


class SearchRequest(LaxBody):
    """One query or several, and how many passages to return for each."""

    query: FilledText | None = None
    queries: list[FilledText] | None = Field(None, max_length=MOST_QUERIES)
    top_k: int | None = Field(
        10, ge=0, description="Passages to return; null or 0 are all candidates"
    )
    candidates: int = Field(
        100, ge=1, le=MOST_CANDIDATES, description="Passages to retrieve by vector, then to rerank"
    )
    rerank: Flag = Field(None, description="If false, return the order of the vector search")
    raw_scores: Flag = Field(None, description="Return logits, or cosines, instead of [0, 1]")

    filter: dict[str, Any] | None = Field(
        None,
        description="Conditions on metadata by field, all of which must hold: a value, a list of "
        'values, or bounds such as {"gte": 2000, "lt": 2010}',
    )

    @model_validator(mode="after")
    def _one_kind(self) -> SearchRequest:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query (a text) or queries (a list of texts)")
        return self


@router.post("/search", **describes(SearchRequest, "Search the index"))
async def search(request: Request) -> Response:
    """Returns the best passages with both ranks and scores, and the time that each part took."""
    return await computed(request, SearchRequest, _steps)


def _steps(served: Served, body: SearchRequest, record: RequestRecord) -> Steps[dict[str, Any]]:
    queries = [body.query] if body.query is not None else body.queries or []
    top_k = body.top_k or None
    rankings: list[Ranking] = []
    size = max(1, _PAIRS_AT_ONCE // body.candidates)
    with served.needed_index().pinned() as index:
        for start in range(0, len(queries), size):
            if start:
                yield Lane.FAST
            rankings += index.search(
                queries[start : start + size],
                top_k,
                max(body.candidates, top_k or 0),
                rerank=body.rerank is not False,
                raw_scores=bool(body.raw_scores),
                filter=body.filter,
            )
        with index.lent() as opened:
            digest, passages = opened.snapshot.manifest.digest, len(opened.snapshot)
    timings = Timings.total(ranking.timings for ranking in rankings)
    for step, seconds in timings._asdict().items():
        record.add(step, seconds)
    results = [[passage._asdict() for passage in ranking] for ranking in rankings]
    return {
        "id": record.id,
        "results": results if body.query is None else results[0],
        "timings": {"queued": record.seconds["queued"], **timings._asdict()},
        "index": {"digest": digest, "passages": passages},
    }
