"""`/passages`: reads passages of the index, and with --allow-writes adds and deletes them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.serving.bodies import LaxBody, refuse_too_many
from dipair_index.rerank.serving.errors import ApiError
from dipair_index.rerank.serving.handling import in_slot, json_response, parsed, read_body
from dipair_index.rerank.serving.openapi import describes
from dipair_index.rerank.serving.passage_bodies import passages_of
from dipair_index.rerank.serving.record import RequestRecord, record_of
from dipair_index.rerank.serving.slot import Steps
from dipair_index.rerank.serving.state import Served, served
from dipair_index.rerank.serving.writing import EncodedPassages, Writer, encode_in_steps, store

router = APIRouter(tags=["passages"])


class DeleteRequest(LaxBody):
    """The ids of passages to delete."""

    ids: list[str]


@router.post("/passages", **describes(None, "Add passages, or replace those with the same ids"))
async def add(request: Request) -> Response:
    """Adds or replaces passages, all or none: a JSON list of objects, or one object a line.

    An object has id, text, perhaps title, and any further fields, which are metadata.
    """
    state, record = _writable(request), record_of(request)
    raw = await read_body(request)

    def encode() -> Steps[EncodedPassages]:
        index = state.needed_index()
        passages = passages_of(raw)
        refuse_too_many(len(passages), state.settings.max_documents, "the body")
        record.documents = len(passages)
        return (yield from encode_in_steps(passages, index.encoder))

    ready = await in_slot(request, encode())
    index = _index(state)
    summary = await _writer(request).run(lambda: store(index, ready))
    record.truncated = summary.truncated
    return json_response({
        **_answer(record, index),
        "added": summary.passages - summary.replaced,
        "replaced": summary.replaced,
        "truncated": summary.truncated,
    })  # fmt: skip


@router.delete("/passages", **describes(DeleteRequest, "Delete passages"))
async def delete(request: Request) -> Response:
    """Deletes passages, all or none; 404 names ids that are not in the index."""
    state = _writable(request)
    body = parsed(DeleteRequest, await read_body(request))
    refuse_too_many(len(body.ids), state.settings.max_documents, "ids")
    index = _index(state)

    def change() -> int:
        index.refresh()
        return index.delete(body.ids) if body.ids else 0

    count = await _writer(request).run(change)
    return json_response({**_answer(record_of(request), index), "deleted": count})


@router.get("/passages/{passage_id:path}", **describes(None, "One passage of the index"))
async def get(request: Request, passage_id: str) -> Response:
    """Returns a passage with its title and metadata."""
    state = served(request)

    def find() -> Steps[Response]:
        yield from ()  # one step
        with state.needed_index().lent() as opened:
            (passage,) = opened.snapshot.passages([passage_id])
        return json_response({**passage._asdict(), "metadata": dict(passage.metadata)})

    return await in_slot(request, find())


def _writable(request: Request) -> Served:
    """Returns the state of a server that takes changes; raises `ApiError` if it does not."""
    state = served(request)
    _index(state)
    if not state.settings.allow_writes:
        raise ApiError(
            403, "this server does not let its index be changed: start it with --allow-writes, or "
            "use `dipair-index add` and `delete` beside it", code="read_only",
        )  # fmt: skip
    return state


def _index(state: Served) -> DiPairIndex:
    if state.index is None:
        raise ApiError(
            404, "this server has a model and no index: start it with --index-dir", code="no_index"
        )
    return state.index


def _writer(request: Request) -> Writer:
    writer = request.app.state.writer
    assert isinstance(writer, Writer)
    return writer


def _answer(record: RequestRecord, index: DiPairIndex) -> dict[str, Any]:
    return {
        "id": record.id,
        "index": {"digest": index.manifest.digest, "passages": len(index)},
    }
