"""Asks for the key of the server, on every path but those that load balancers and browsers need."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dipair_index.rerank.serving.errors import ApiError, error_response
from dipair_index.rerank.serving.handling import drain
from dipair_index.rerank.serving.record import record_of

OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")
"""The paths that answer without a key; so do the files below `STATIC`, which hold no data."""
STATIC = "/static/"


class KeyCheck:
    """ASGI middleware that refuses requests without the key; an empty key is asked of nobody."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or passes the request on."""
        if scope["type"] != "http" or not self._key or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # compared in constant time, so that the key cannot be guessed letter by letter
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._key
        ):
            await self._app(scope, receive, send)
            return
        await drain(request)
        said = "is wrong" if given.strip() else "is missing"
        error = ApiError(
            401, f"the API key {said}: send it in the header Authorization: Bearer KEY",
            code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
        await error_response(error, record_of(request).id)(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in OPEN or path.startswith(STATIC) or scope["method"] == "OPTIONS"
