"""What the server is and how it fares: health, readiness, metrics, and the model's names."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from dipair_index import __version__
from dipair_index.rerank.serving.docs_page import docs_page
from dipair_index.rerank.serving.errors import RETRY_AFTER, ApiError, stopping
from dipair_index.rerank.serving.handling import json_response
from dipair_index.rerank.serving.state import Served, served

router = APIRouter(tags=["status"])


@router.get("/health", summary="Whether the process answers")
async def health() -> Response:
    """Answers while the process lives, without a key."""
    return json_response({"status": "ok"})


@router.get("/ready", summary="Whether requests should be sent here")
async def ready(request: Request) -> Response:
    """Answers 503 while the server stops, or while its index on disk cannot be read."""
    state = served(request)
    if state.stopping:
        raise stopping()
    if state.stale:
        raise ApiError(
            503, f"the index on disk {state.stale}; answers are from its earlier state",
            code="index_stale", headers=RETRY_AFTER,
        )  # fmt: skip
    return json_response({"status": "ready"})


@router.get("/metrics", summary="Metrics for Prometheus")
async def metrics(request: Request) -> Response:
    """Returns the metrics in the text format of Prometheus or of OpenMetrics."""
    kept = request.app.state.metrics
    kept.update()
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(kept.registry), headers={"Content-Type": content_type})


@router.get("/models", summary="The model, as Infinity lists models")
@router.get("/v1/models", summary="The model, as OpenAI lists models")
async def models(request: Request) -> Response:
    """Lists the one model that is served."""
    name = served(request).settings.model_name
    model = {"id": name, "object": "model", "created": 0, "owned_by": "dipair-index"}
    return json_response({"object": "list", "data": [model]})


@router.get("/info", summary="The model, its limits and the index, in TEI's shape")
async def info(request: Request) -> Response:
    """Describes the model as Text Embeddings Inference does, and the index."""
    state = served(request)
    settings, sizes = state.settings, state.encoder.sizes
    return json_response({
        "model_id": settings.model_name,
        "model_sha": state.encoder.fingerprint,
        "model_dtype": "float32",
        "model_licence": state.licence and state.licence._asdict(),
        "model_type": {"reranker": {"id2label": {"0": "relevant"}, "label2id": {"relevant": 0}}},
        "max_concurrent_requests": settings.queue + 1,
        "max_input_length": state.tokens.passage_length,
        "max_client_batch_size": settings.max_documents,
        "auto_truncate": True,
        "version": __version__,
        "query_tokens": sizes.max_query_tokens,
        "passage_tokens": sizes.max_passage_tokens,
        "dim": sizes.dim,
        "vector_dim": sizes.vector_dim,
        "writable": settings.allow_writes and state.index is not None,
        "index": _index(state),
    })  # fmt: skip


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Returns a page of the OpenAPI document that needs nothing else."""
    root = request.scope.get("root_path", "")
    return Response(
        docs_page(request.app.openapi(), root),
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        media_type="text/html; charset=utf-8",
    )


def _index(state: Served) -> dict[str, Any] | None:
    if state.index is None:
        return None
    manifest = state.index.manifest
    return {
        "digest": manifest.digest,
        "passages": manifest.passages,
        "parts": len(manifest.parts),
        "store": manifest.store,
        "codec": manifest.codec,
        "ann": manifest.ann_kind,
        "created": manifest.created,
    }
