"""The passages of a request body: a JSON list, or a JSON object a line, checked before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dipair_index.errors import FormatError, StoreError
from dipair_index.records import Passage
from dipair_index.rerank.arguments import iter_passages
from dipair_index.rerank.serving.errors import ApiError, invalid
from dipair_index.stores.token_store import validated_keys

_FORM = 'a list of objects such as [{"id": "p1", "text": "...", "title": "...", "year": 2001}]'


def passages_of(raw: bytes) -> list[Passage]:
    """Returns the passages of a body, each with an id of its own.

    An object has `id` (or `_id`), `text`, perhaps `title`, and metadata: the object `metadata`, and
    any further fields. Raises `ApiError`, which names the place: 400 if the body is no JSON, 422
    if a passage is invalid.
    """
    passages: list[Passage] = []
    seen: set[str] = set()
    for where, given in _objects(raw):
        passage = _passage(given, where)
        if passage.id in seen:
            raise invalid(f"{where}: the id {passage.id!r} is given twice in this request", where)
        seen.add(passage.id)
        passages.append(passage)
    if not passages:
        raise invalid(f"the body holds no passage: send {_FORM}, or one such object a line")
    return passages


def _objects(raw: bytes) -> Iterator[tuple[str, Any]]:
    """Yields the place and the value of each item of a list, or of each line that is not empty."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8 ({error.reason})") from error
    if text.lstrip().startswith("["):
        for place, given in enumerate(_parsed(text, "the body")):
            yield f"passages[{place}]", given
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parsed(line, f"line {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(f"{where}: {error}") from error


def _not_json(why: str) -> ApiError:
    return ApiError(
        400, f"the body is not valid JSON: {why}. Send {_FORM}, or one such object a line",
        code="invalid_json",
    )  # fmt: skip


def _passage(given: Any, where: str) -> Passage:
    if not isinstance(given, dict):
        raise invalid(f"{where}: expected an object with id and text, got {given!r:.60}", where)
    fields = dict(given)
    # as an answer of the server holds it, and BEIR
    if isinstance(fields.get("metadata"), dict):
        fields = {**fields.pop("metadata"), **fields}
    for name, others in (("id", ("_id",)), ("text", ())):
        if all(fields.get(each) is None for each in (name, *others)):
            raise invalid(f"{where}: the field {name} is missing", where)
    try:
        (passage,) = iter_passages([fields])
        validated_keys([passage.id])
    except (FormatError, StoreError) as error:
        raise invalid(f"{where}: {error}", where) from error
    try:
        json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(f"{where}: its metadata cannot be stored as JSON: {error}", where) from error
    return passage
