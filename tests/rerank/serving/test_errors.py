"""Whatever goes wrong, the answer has one body that every client reads."""

from __future__ import annotations

import socket
from typing import Any

import pytest

BODY = {"query": "a", "documents": ["b"]}
JSON = {"Content-Type": "application/json"}


def check(answer: Any, status: int, code: str | None = None) -> None:
    assert answer.status == status, answer
    body = answer.body
    assert set(body) == {"id", "message", "detail", "error"}
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert body["message"]
    assert "\n" not in body["message"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["type"], str)
    assert code is None or body["error"]["code"] == code
    assert answer.headers["X-Request-Id"] == body["id"]


def test_paths_that_are_not_there(client: Any) -> None:
    for method, path in (("POST", "/v1/v2/rerank"), ("GET", "/nothing"), ("GET", "/static/../app")):
        check(client.ask(method, path, BODY if method == "POST" else None), 404, "no_such_path")


def test_methods_that_are_not_allowed(client: Any) -> None:
    answer = client.ask("GET", "/v2/rerank")
    check(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"
    check(client.ask("DELETE", "/health"), 405)


def test_bodies_that_are_no_json(client: Any) -> None:
    check(client.ask("POST", "/search", raw=b"{"), 400, "invalid_json")
    check(client.ask("POST", "/search", raw=b'{"query": 1}'), 422, "invalid_value")
    encoded = {"Content-Encoding": "gzip"}
    check(client.ask("POST", "/search", raw=b"\x1f\x8b", headers=encoded), 415)


def test_bodies_and_lists_that_are_too_large(serve: Any) -> None:
    with serve(max_body=2000, max_documents=3) as (client, _):
        large = {"query": "a", "documents": ["b" * 3000]}
        check(client.ask("POST", "/v2/rerank", large), 413, "body_too_large")
        for given in ("documents", "ids", "texts"):
            body = {"query": "a", given: ["b"] * 4}
            check(client.ask("POST", "/v2/rerank", body), 413, "too_many_documents")
        check(client.ask("POST", "/v1/embeddings", {"input": ["a"] * 4}), 413)
        check(client.ask("POST", "/score", {"text_1": "a", "text_2": ["b"] * 4}), 413)
        assert client.post("/v2/rerank", {"query": "a", "documents": ["b"] * 3})


def test_a_body_without_a_length_is_bounded_too(serve: Any) -> None:
    """Sent in chunks, as curl does from a pipe."""
    with serve(max_body=2000) as (client, _), socket.create_connection(client.address) as raw:
        raw.sendall(
            b"POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        raw.sendall((b"3e8\r\n" + b" " * 1000 + b"\r\n") * 3 + b"0\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_the_key_is_asked_for(serve: Any) -> None:
    with serve(api_key="se cret") as (client, _):
        assert client.post("/v2/rerank", BODY)
        for given in ("", "Bearer wrong", "Basic se cret", "Bearer", "Bearer \xff"):
            for method, path in (("POST", "/v2/rerank"), ("GET", "/metrics"), ("GET", "/nothing")):
                body = BODY if method == "POST" else None
                answer = client.ask(method, path, body, headers={"Authorization": given})
                check(answer, 401, "invalid_api_key")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        client.key = ""
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert client.get(path)


def test_errors_of_the_program_name_neither_paths_nor_texts(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve() as (client, served):

        def fail(*_: Any) -> None:
            raise RuntimeError("secret text in /a/path")

        monkeypatch.setattr(served.encoder, "encode_queries", fail, raising=False)
        answer = client.ask("POST", "/v2/rerank", BODY)
    check(answer, 500, "internal")
    assert "secret" not in str(answer.body)
    log = capfd.readouterr().err
    assert f"request_id={answer.body['id']}" in log
    assert "RuntimeError at " in log
    assert "secret" not in log


def test_origins_are_allowed_that_were_named(serve: Any) -> None:
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    with serve(api_key="k", cors_origins=("https://page.example",)) as (client, _):
        client.key = ""
        allowed = client.ask("OPTIONS", "/v2/rerank", headers=asked)
        assert allowed.status == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://page.example"
        refused = client.ask("OPTIONS", "/v2/rerank", headers=asked | {"Origin": "https://b.c"})
        assert "Access-Control-Allow-Origin" not in refused.headers
        # a page can read why it was refused
        answer = client.ask("POST", "/v2/rerank", BODY, headers={"Origin": "https://page.example"})
        assert answer.status == 401
        assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
    with serve() as (client, _):
        answer = client.ask("POST", "/v2/rerank", BODY, headers=asked)
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_paths_below_a_proxys_are_answered(serve: Any) -> None:
    with serve(root_path="/dipair", api_key="k") as (client, _):
        for path in ("/v2/rerank", "/dipair/v2/rerank"):
            assert client.post(path, BODY)
        client.key = ""
        assert client.get("/dipair/health") == client.get("/health") == {"status": "ok"}
        assert "/dipair/v2/rerank" in client.get("/docs")


def begun(client: Any, body: bytes, length: int) -> socket.socket:
    """A connection on which a part of a body was sent."""
    connection = socket.create_connection(client.address)
    connection.sendall(
        b"POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {length}\r\n\r\n".encode()
        + body
    )
    return connection


def test_a_body_that_does_not_arrive_in_time_is_not_waited_for(serve: Any) -> None:
    with serve(deadline=0.3) as (client, _), begun(client, b'{"query"', 100) as slow:
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_is_cut_off_is_dropped(serve: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Its request ends when its connection does, and the server goes on."""
    with serve() as (client, served):
        begun(client, b'{"query": "a", "docu', 100).close()
        while served.in_flight:
            pass
        assert client.post("/v2/rerank", BODY)
    assert " status=499 " in capfd.readouterr().err
