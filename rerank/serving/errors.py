"""The errors of the server, with one body that every client's error reader understands.

    {"id", "message", "detail", "error": {"message", "type", "param", "code"}}

`message` is read by Cohere's clients, `detail` by Jina's and Voyage's, `error` by OpenAI's and
those of Text Embeddings Inference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from fastapi import Response

from dipair_index.errors import (
    DiPairError,
    FormatError,
    MissingPassagesError,
    OtherModelError,
    SettingsError,
)

OF_ANOTHER_MODEL = "was built by another model: start the server again to serve it"
RETRY_AFTER = {"Retry-After": "1"}

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "deadline_error",
}


class ApiError(Exception):
    """An answer that is no success: a status, one sentence, and the field that it is about.

    `code` is a word for programs, such as "too_many_documents".
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> dict[str, Any]:
        """Returns the body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"id": request_id, "message": self.message, "detail": self.message, "error": error}


class ClientGone(Exception):
    """The client closed its connection before it was answered."""


def invalid(message: str, param: str | None = None) -> ApiError:
    """Returns the error of a request with an invalid value, a 422."""
    return ApiError(422, message, param=param, code="invalid_value")


def stopping() -> ApiError:
    """Returns the error of a request that comes while the server stops."""
    return ApiError(
        503, "the server is stopping: ask again, or ask another one", code="stopping",
        headers={**RETRY_AFTER, "Connection": "close"},
    )  # fmt: skip


def as_api_error(error: Exception) -> ApiError:
    """Returns the answer to an exception of the library or of the web framework.

    Sentences about files are replaced, since they name paths of the server.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MissingPassagesError):
        return ApiError(404, str(error), param="ids", code="unknown_ids")
    if isinstance(error, (SettingsError, FormatError)):
        return invalid(str(error))
    if isinstance(error, OtherModelError):
        return ApiError(
            503, f"the index on disk {OF_ANOTHER_MODEL}", code="index_stale", headers=RETRY_AFTER
        )
    if isinstance(error, DiPairError):
        return ApiError(
            503, "the index cannot be read or written at present, as when its disk is full: the "
            "server's log says why", code="index_unavailable", headers=RETRY_AFTER,
        )  # fmt: skip
    return ApiError(
        500, "the server failed to answer: its log names the error by this id", code="internal"
    )


def error_response(error: ApiError, request_id: str = "") -> Response:
    """Returns the answer that an error becomes."""
    body = error.body(request_id or uuid4().hex)
    return Response(
        json.dumps(body, ensure_ascii=False),
        error.status,
        error.headers,
        "application/json",
    )


def phrase(status: int) -> str:
    """Returns the words of a status, such as "Not Found"."""
    return HTTPStatus(status).phrase
