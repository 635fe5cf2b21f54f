"""`/passages` and filters: what is written is found by the next request, or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.rerank import part_builder
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.serving import search_routes
from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.search_routes import SearchRequest
from dipair_index.rerank.serving.state import Served
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.verification import verify_index

Serve = Callable[..., AbstractContextManager[tuple[Any, Served]]]
NEW = [
    {"id": "new/1", "text": "bees dance in winter", "title": "Honey", "lang": "en", "year": 2001},
    {"id": "né 2", "text": "the moon and the tide", "metadata": {"lang": "fr", "year": 1999}},
]


@pytest.fixture
def changing(quick_path: Path, index_dir: Path, serve: Serve) -> Iterator[tuple[Any, Served]]:
    """A server that takes changes of a copy of the index of 24 passages."""
    shutil.copytree(index_dir, quick_path / "index")
    with serve(path=quick_path / "index", allow_writes=True, max_documents=40) as both:
        yield both


def found(client: Any, query: str = "moon", **more: Any) -> list[str]:
    answer = client.post("/search", {"query": query, "top_k": 0, "candidates": 100, **more})
    return [each["id"] for each in answer["results"]]


def test_what_is_added_is_read_and_found_at_once(changing: tuple[Any, Served]) -> None:
    client, served = changing
    before = client.get("/info")["index"]["digest"]
    answer = client.post("/passages", NEW)
    assert (answer["added"], answer["replaced"], answer["index"]["passages"]) == (2, 0, 26)
    assert answer["index"]["digest"] != before
    assert client.get("/info")["index"]["digest"] == answer["index"]["digest"]
    assert client.get("/passages/new/1") == {
        "id": "new/1", "text": "bees dance in winter", "title": "Honey",
        "metadata": {"lang": "en", "year": 2001},
    }  # fmt: skip
    assert client.get("/passages/n%C3%A9%202")["metadata"] == {"lang": "fr", "year": 1999}
    assert {"new/1", "né 2"} <= set(found(client))
    assert served.index is not None
    verify_index(served.index.path)


def test_a_passage_scores_as_if_it_had_been_built_with_the_others(
    changing: tuple[Any, Served], encoder: DualEncoder, tmp_path: Path
) -> None:
    """Its tokens and its vector are those that `build` computes."""
    client, _ = changing
    client.post("/passages", NEW)
    passages = [Passage(each["id"], each["text"], each.get("title", "")) for each in NEW]
    with DiPairIndex.build(passages, tmp_path / "other", model=encoder, codec="float32") as other:
        expected = {
            each.id: (each.score, each.retrieval_score)
            for each in other.search("bees in winter", raw_scores=True)
        }
    answer = client.post(
        "/search",
        {
            "query": "bees in winter",
            "top_k": 0,
            "raw_scores": True,
            "filter": {"lang": ["en", "fr"]},
        },
    )
    assert {each["id"] for each in answer["results"]} == set(expected)
    for each in answer["results"]:
        assert (each["score"], each["retrieval_score"]) == pytest.approx(
            expected[each["id"]], abs=1e-4
        )


def test_lines_of_json_replace_passages_with_the_same_ids(changing: tuple[Any, Served]) -> None:
    client, _ = changing
    client.post("/passages", NEW)
    lines = '\ufeff{"id": "new/1", "text": "ice"}\n\n{"_id": "p00", "text": "lava", "x": [1]}\r\n'
    answer = client.ask("POST", "/passages", raw=lines.encode())
    assert answer.status == 200
    assert (answer.body["added"], answer.body["replaced"]) == (0, 2)
    assert client.get("/passages/new/1")["text"] == "ice"
    assert client.get("/passages/p00")["metadata"] == {"x": [1]}


def test_ids_are_deleted_all_or_none(changing: tuple[Any, Served]) -> None:
    client, _ = changing
    client.post("/passages", NEW)
    refused = client.ask("DELETE", "/passages", {"ids": ["new/1", "no such"]})
    assert refused.status == 404
    assert refused.body["message"] == "not in the index: no such"
    assert "new/1" in found(client)
    answer = client.ask("DELETE", "/passages", {"ids": ["new/1", "p03"]})
    assert (answer.status, answer.body["deleted"]) == (200, 2)
    assert answer.body["index"]["passages"] == 24
    assert not {"new/1", "p03"} & set(found(client))
    assert client.ask("GET", "/passages/p03").status == 404


BAD = [
    ('[{"id": "a", "text": "b"}', 400, "the body is not valid JSON"),
    ('{"id": "a", "text": "b"}\n{"id"', 400, "line 2: Expecting"),
    ("[7]", 422, r"passages\[0\]: expected an object with id and text, got 7"),
    ('[{"id": "a", "text": "b"}, {"id": "c"}]', 422, r"passages\[1\]: the field text is missing"),
    ('{"text": "b"}', 422, "line 1: the field id is missing"),
    ('{"id": 3, "text": "b"}', 422, "the id of passage 3 must be a str"),
    ('[{"id": "a", "text": "b"}, {"id": "a", "text": "c"}]', 422, "the id 'a' is given twice"),
    ('[{"id": "", "text": "b"}]', 422, "a passage id is empty"),
    (json.dumps([{"id": "é" * 256, "text": "b"}]), 422, "is 512 bytes long"),
    (r'[{"id": "a", "text": "\ud800"}]', 422, "not valid Unicode"),
    (r'[{"id": "a", "text": "b", "x": "\ud800"}]', 422, "metadata cannot be stored as JSON"),
    ('[{"id": "a", "text": "b", "x": NaN}]', 422, "metadata cannot be stored as JSON"),
    ("[]", 422, "the body holds no passage: send a list"),
    ("", 422, "the body holds no passage"),
    (json.dumps([{"id": f"a{n}", "text": "b"} for n in range(41)]), 413, "41 documents"),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD)
def test_of_a_bad_body_nothing_is_stored(
    changing: tuple[Any, Served], body: str, status: int, message: str
) -> None:
    client, served = changing
    digest = client.get("/info")["index"]["digest"]
    answer = client.ask("POST", "/passages", raw=body.encode())
    assert answer.status == status, answer
    assert re.search(message, answer.body["message"]), answer
    assert client.get("/info")["index"]["digest"] == digest
    assert len(found(client)) == 24
    assert served.index is not None
    assert not (served.index.path / "building").exists()


def test_writes_need_allow_writes_and_an_index(client: Any) -> None:
    for method, body in (("POST", NEW), ("DELETE", {"ids": ["p00"]})):
        answer = client.ask(method, "/passages", body)
        assert answer.status == 403
        assert "start it with --allow-writes" in answer.body["message"]
    assert client.get("/passages/p00")["id"] == "p00"


def test_changes_beside_the_server_are_seen(changing: tuple[Any, Served]) -> None:
    client, served = changing
    assert served.index is not None
    with DiPairIndex.open(served.index.path, served.encoder) as other:
        other.add([Passage("beside", "the moon", metadata={"x": 1})])
        assert "beside" in found(client)
        other.delete(["beside"])
        assert "beside" not in found(client)
        client.post("/passages", NEW)
        other.refresh()
        assert other.rerank("moon", ["new/1"])[0].text == "bees dance in winter"


def test_many_queries_are_answered_from_one_state_of_the_index(
    changing: tuple[Any, Served],
) -> None:
    """A passage that is added between two of their batches is found by none of them."""
    client, served = changing
    before = client.get("/info")["index"]
    body = SearchRequest(queries=["moon", "bees", "tea"], candidates=1000, top_k=0)
    record = RequestRecord(seconds={"queued": 0.0})
    steps = search_routes._steps(served, body, record)
    next(steps)  # the first query has been answered
    assert client.post("/passages", NEW)["added"] == 2

    def rest() -> Iterator[Any]:
        answers.append((yield from steps))

    answers: list[Any] = []
    list(rest())
    (answer,) = answers
    assert answer["index"] == {name: before[name] for name in ("digest", "passages")}
    assert [len(each) for each in answer["results"]] == [24, 24, 24]
    assert len(found(client)) == 26


def test_a_filter_narrows_a_search(changing: tuple[Any, Served]) -> None:
    client, _ = changing
    client.post("/passages", NEW)
    assert found(client, filter={"lang": "fr"}) == ["né 2"]
    assert found(client, filter={"year": {"gte": 2000}, "lang": ["en", "fr"]}) == ["new/1"]
    assert found(client, filter={"year": {"gt": 2001}}) == []
    assert len(found(client, filter={})) == 26
    for wrong, said in (({"year": {"above": 1}}, "unknown bound 'above'"), ("x", "filter")):
        answer = client.ask("POST", "/search", {"query": "moon", "filter": wrong})
        assert answer.status == 422
        assert said in answer.body["message"]


def test_a_write_that_was_killed_is_no_obstacle_to_the_next(
    changing: tuple[Any, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unfinished part that it leaves is discarded: its client was not told of a success."""
    client, _ = changing

    def die(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(IndexWriter, "install_part", die)
        assert client.ask("POST", "/passages", NEW).status == 500
    assert len(found(client)) == 24
    assert client.post("/passages", NEW)["added"] == 2


def test_an_interrupted_add_of_the_command_is_kept(
    changing: tuple[Any, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of encoding may be in it."""
    client, served = changing

    def interrupted() -> Iterator[Passage]:
        yield Passage("slow", "the moon")
        raise KeyboardInterrupt

    monkeypatch.setattr(part_builder, "PASSAGES_PER_CHUNK", 1)
    assert served.index is not None
    with DiPairIndex.open(served.index.path, served.encoder) as other:
        with pytest.raises(KeyboardInterrupt):
            other.add(interrupted())
        assert client.ask("POST", "/passages", NEW).status == 503
        assert other.add([Passage("slow", "the moon")], resume=True).encoded == 0
    assert client.post("/passages", NEW)["added"] == 2
