"""The way of every request that computes: its body is read, checked, and worked on in the slot."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from dipair_index.rerank.serving.errors import ApiError, ClientGone, invalid
from dipair_index.rerank.serving.record import RequestRecord, record_of
from dipair_index.rerank.serving.slot import Steps
from dipair_index.rerank.serving.state import Served, served

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")

_DRAINED_SECONDS = 2.0
_DRAINED_BYTES = 2**26
_ENCODINGS = ("", "identity")
_BOM = b"\xef\xbb\xbf"


async def computed(
    request: Request, model: type[Body], steps: Callable[[Served, Body, RequestRecord], Steps[Any]]
) -> Response:
    """Answers with the JSON of what `steps` return for the body, an object of `model`.

    Everything but the reading of the body happens in the slot.
    """

    def work() -> Steps[Response]:
        answer = yield from steps(state, parsed(model, raw), record)
        return answer if isinstance(answer, Response) else json_response(answer)

    state, record = served(request), record_of(request)
    raw = await read_body(request)
    return await in_slot(request, work())


async def in_slot(request: Request, steps: Steps[T]) -> T:
    """Returns what steps lead to; for a request whose body has been read."""
    state, record = served(request), record_of(request)
    deadline = record.began + state.settings.deadline
    return await state.slot.run(steps, deadline=deadline, record=record, gone=_gone(request))


async def read_body(request: Request) -> bytes:
    """Returns the body; raises `ApiError` if it is too large or too slow, or nobody can take it.

    Raises `ClientGone` if the connection ends before the body does.
    """
    state, record = served(request), record_of(request)
    try:
        state.slot.refuse_if_full()
        return await asyncio.wait_for(
            _whole_body(request, state.settings.max_body),
            max(0.0, record.began + state.settings.deadline - time.monotonic()),
        )
    except asyncio.TimeoutError as error:
        raise ApiError(
            408, f"the body did not arrive within {state.settings.deadline:g} s", code="slow_body",
            headers={"Connection": "close"},
        ) from error  # fmt: skip
    except ApiError:
        await drain(request)
        raise


async def drain(request: Request) -> None:
    """Reads what a client still sends, within limits, so that it reads the answer afterwards.

    A connection that is closed with unread data is reset, and the answer may be lost.
    """

    async def read() -> None:
        size = 0
        while size < _DRAINED_BYTES:
            message = await request.receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                return
            size += len(message.get("body", b""))

    if request.headers.get("content-length", "") == "0":
        return
    try:
        await asyncio.wait_for(read(), _DRAINED_SECONDS)
    except asyncio.TimeoutError:
        return


def parsed(model: type[Body], raw: bytes) -> Body:
    """Returns a body as an object of `model`.

    Raises `ApiError`: 400 if it is no JSON, 422 if a value is invalid.
    """
    try:
        return model.model_validate_json(raw.removeprefix(_BOM))
    except ValidationError as error:
        raise _as_sentence(error) from error


def json_response(answer: Any, headers: dict[str, str] | None = None) -> Response:
    """Returns an answer in JSON; raises `ValueError` if a number is not finite."""
    text = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(), headers=headers, media_type="application/json")


async def _whole_body(request: Request, most: int) -> bytes:
    if request.headers.get("content-encoding", "").lower() not in _ENCODINGS:
        raise ApiError(415, "the body must not be compressed: send it without Content-Encoding")
    too_large = ApiError(
        413,
        f"the body is larger than {most:,} bytes: send fewer texts at once, or start the server "
        "with a larger --max-body",
        code="body_too_large",
        headers={"Connection": "close"},
    )
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        raise too_large
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > most:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


async def _gone(request: Request) -> None:
    """Ends when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _as_sentence(error: ValidationError) -> ApiError:
    """Returns the error of the first invalid value: where it is, what was expected, what came."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "it cannot be read")
        return ApiError(400, f"the body is not valid JSON: {why}", code="invalid_json")
    field = _path(first["loc"])
    if first["type"] == "missing":
        return invalid(f"{field} is missing", field)
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return invalid(said if not field else f"{field}: {said}", field or None)
    said = said[:1].lower() + said[1:]
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return invalid(f"{field or 'the body'}: {said}, got {shown}", field or None)


def _path(places: tuple[int | str, ...]) -> str:
    """Returns the place of a value as programmers write it, such as documents[3].text."""
    path = ""
    for each in places:
        path += f"[{each}]" if isinstance(each, int) else f".{each}" if path else each
    return path
