"""The web application: its routes, who may use them, and how errors are answered."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from dipair_index import __version__
from dipair_index.errors import DiPairError
from dipair_index.rerank.serving import (
    embedding_routes,
    page_routes,
    passage_routes,
    rerank_routes,
    score_routes,
    search_routes,
    status_routes,
)
from dipair_index.rerank.serving.access import KeyCheck
from dipair_index.rerank.serving.errors import (
    ApiError,
    ClientGone,
    as_api_error,
    error_response,
    phrase,
)
from dipair_index.rerank.serving.observing import Metrics, Observer
from dipair_index.rerank.serving.openapi import describe_bodies
from dipair_index.rerank.serving.record import record_of
from dipair_index.rerank.serving.state import Served
from dipair_index.rerank.serving.usage import CACHE_HEADER
from dipair_index.rerank.serving.writing import Writer

CLIENT_CLOSED = 499
"""The status, known from nginx, of a request whose client did not wait; nobody receives it."""


def create_app(served: Served) -> FastAPI:
    """Returns the application that serves an index or a model."""
    settings = served.settings
    app = FastAPI(
        title="dipair-index",
        version=__version__,
        description="Reranks, searches and embeds with a DiPair model.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.served, app.state.metrics = served, Metrics(served)
    app.state.writer = Writer(settings.queue)
    for routes in (
        page_routes,
        rerank_routes,
        score_routes,
        embedding_routes,
        search_routes,
        passage_routes,
        status_routes,
    ):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=page_routes.STATIC_FOLDER))
    describe_bodies(app)
    for kind in (ApiError, ClientGone, HTTPException, DiPairError):
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(KeyCheck, key=settings.api_key)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=[CACHE_HEADER, "Retry-After"],
        )
    # the last that is added is the first that a request meets
    app.add_middleware(Observer, served=served, metrics=app.state.metrics)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGone):
        return Response(status_code=CLIENT_CLOSED)
    if isinstance(error, HTTPException):
        error = _of_framework(request, error)
    record = record_of(request)
    answer = as_api_error(error)
    if answer.status >= 500 and not isinstance(error, ApiError):
        record.failure = error
    return error_response(answer, record.id)


def _of_framework(request: Request, error: HTTPException) -> ApiError:
    """Returns the answer to a path or a method that is not there."""
    headers: dict[str, Any] = dict(error.headers or {})
    asked = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return ApiError(
            404, f"there is no {asked} here: a client's base URL is that of the server, without a "
            "path, or with /v1 for OpenAI's and Jina's; GET /docs lists the paths",
            code="no_such_path",
        )  # fmt: skip
    if error.status_code == 405:
        return ApiError(
            405, f"{asked} is not allowed, but {headers.get('Allow', 'another method')} is",
            code="method_not_allowed", headers=headers,
        )  # fmt: skip
    return ApiError(error.status_code, phrase(error.status_code), headers=headers)
