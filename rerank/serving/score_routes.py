"""`POST /score` and `/v1/score`: pairs of texts in the order given, in vLLM's form."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import AliasChoices, Field

from dipair_index.rerank.ranking import probability
from dipair_index.rerank.serving.bodies import FilledText, Flag, LaxBody, refuse_too_many
from dipair_index.rerank.serving.errors import invalid
from dipair_index.rerank.serving.handling import computed, json_response
from dipair_index.rerank.serving.openapi import describes
from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.scoring import score_texts
from dipair_index.rerank.serving.slot import Lane, Steps
from dipair_index.rerank.serving.state import Served
from dipair_index.rerank.serving.usage import Usage, cache_header, usage_of

router = APIRouter(tags=["score"])


class ScoreRequest(LaxBody):
    """Pairs of texts: one query and its passages, or as many queries as passages."""

    queries: FilledText | list[FilledText] = Field(
        validation_alias=AliasChoices("text_1", "queries", "query", "data_1"),
        description="A query, or one for each document; text_1 is another name",
    )
    documents: str | list[str] = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2"),
        description="A passage, or several; text_2 is another name",
    )
    model: str | None = Field(None, description="Any name; the answer repeats it")
    raw_scores: Flag = Field(None, description="Return logits instead of scores in [0, 1]")

    def pairs(self) -> tuple[list[str], list[str]]:
        """Returns the query and the passage of each pair; raises `ApiError` if none can be made."""
        queries = [self.queries] if isinstance(self.queries, str) else self.queries
        documents = [self.documents] if isinstance(self.documents, str) else self.documents
        if len(queries) == 1:
            queries = queries * len(documents)
        if len(queries) != len(documents):
            raise invalid(
                f"{len(queries)} queries and {len(documents)} documents make no pairs: send one "
                "query, or as many as documents"
            )
        return queries, documents


@router.post("/score", **describes(ScoreRequest, "Score pairs of texts"))
@router.post("/v1/score", **describes(ScoreRequest, "Score pairs of texts"))
async def score(request: Request) -> Response:
    """Returns the score of each pair in the order given."""
    return await computed(request, ScoreRequest, _steps)


def _steps(served: Served, body: ScoreRequest, record: RequestRecord) -> Steps[Response]:
    queries, documents = body.pairs()
    refuse_too_many(len(documents), served.settings.max_documents, "documents")
    scores: list[float] = [0.0] * len(documents)
    usage = Usage(0, 0)
    places: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        places.setdefault(query, []).append(place)
    for number, (query, own) in enumerate(places.items()):
        if number:
            yield Lane.FAST
        texts = [documents[place] for place in own]
        scored = yield from score_texts(served, query, texts, record)
        usage = usage.plus(usage_of(served, query, scored, record))
        for place, logit in zip(own, scored.logits.tolist(), strict=True):
            scores[place] = logit if body.raw_scores else probability(logit)
    answer: dict[str, Any] = {
        "id": record.id,
        "object": "list",
        "model": body.model or served.settings.model_name,
        "data": [
            {"index": place, "object": "score", "score": each} for place, each in enumerate(scores)
        ],
        "usage": usage.as_openai(),
    }
    return json_response(answer, cache_header(record))
