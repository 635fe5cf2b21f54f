"""`POST /v2/rerank`, `/v1/rerank` and `/rerank`: one handler for every client's dialect."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from dipair_index.records import FloatArray
from dipair_index.rerank.ranking import best_first, probability
from dipair_index.rerank.serving.bodies import refuse_too_many
from dipair_index.rerank.serving.handling import computed, json_response
from dipair_index.rerank.serving.openapi import describes
from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.relevant_spans import add_spans
from dipair_index.rerank.serving.rerank_bodies import RerankRequest
from dipair_index.rerank.serving.scoring import Scored, score_passages, score_texts
from dipair_index.rerank.serving.slot import Steps
from dipair_index.rerank.serving.state import Served
from dipair_index.rerank.serving.usage import Usage, cache_header, usage_of
from dipair_index.words import counted

router = APIRouter(tags=["rerank"])


@router.post("/rerank", **describes(RerankRequest, "Rank documents for a query"))
@router.post("/v1/rerank", **describes(RerankRequest, "Rank documents for a query"))
@router.post("/v2/rerank", **describes(RerankRequest, "Rank documents for a query"))
async def rerank(request: Request) -> Response:
    """Ranks documents for a query, best first, ties in the order given."""
    return await computed(request, RerankRequest, _steps)


def _steps(served: Served, body: RerankRequest, record: RequestRecord) -> Steps[Response]:
    given = "ids" if body.ids is not None else "texts" if body.texts is not None else "documents"
    refuse_too_many(body.count, served.settings.max_documents, given)
    if body.ids is not None:
        scored = yield from score_passages(served, body.query, body.ids, record)
    else:
        scored = yield from score_texts(served, body.query, body.document_texts(), record)
    usage = usage_of(served, body.query, scored, record)
    headers = cache_header(record)
    if body.texts is not None:
        return json_response(_tei_answer(body, scored.logits), headers)
    order = best_first(range(len(scored.logits)), scored.logits, body.limit)
    results = [_result(body, place, scored) for place in order]
    if body.relevant_spans is not None and body.relevant_spans.mode == "enabled":
        yield from add_spans(served, body.query, body.relevant_spans, results, scored, record)
    return json_response(_answer(served, body, results, usage, record), headers)


def _score(logit: float, body: RerankRequest) -> float:
    return float(logit) if body.raw_scores else probability(float(logit))


def _tei_answer(body: RerankRequest, logits: FloatArray) -> list[dict[str, Any]]:
    """Returns an entry a text, best first, as Text Embeddings Inference does.

    `top_n`, which is not of its dialect, is LiteLLM's.
    """
    texts = body.texts or []
    return [
        {"index": place, "score": _score(logits[place], body)}
        | ({"text": texts[place]} if body.return_text else {})
        for place in best_first(range(len(logits)), logits, body.limit)
    ]


def _result(body: RerankRequest, place: int, scored: Scored) -> dict[str, Any]:
    result: dict[str, Any] = {
        "index": place,
        "relevance_score": _score(scored.logits[place], body),
    }
    if body.ids is not None:
        result["id"] = body.ids[place]
    if body.return_documents:
        given = body.documents[place] if body.documents else None
        text = given.get("text") if isinstance(given, dict) else None
        own = scored.passages[place].text
        result["document"] = {"text": text if isinstance(text, str) else own}
    return result


def _answer(
    served: Served,
    body: RerankRequest,
    results: list[dict[str, Any]],
    usage: Usage,
    record: RequestRecord,
) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "api_version": {"version": "2"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": usage.tokens, "output_tokens": 0},
        "cached_tokens": usage.cached_tokens,
    }
    if record.truncated:
        meta["warnings"] = [
            f"{counted(record.truncated, 'document is', 'documents are')} longer than the model "
            "reads: only the beginning counts"
        ]
    return {
        "id": record.id,
        "object": "rerank",  # the one word that Infinity's client takes
        "model": body.model or served.settings.model_name,
        "results": results,
        **({"data": results} if body.is_voyage else {}),
        "usage": usage.as_openai(),
        "meta": meta,
    }
