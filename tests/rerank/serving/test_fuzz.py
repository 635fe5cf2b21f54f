"""Bodies that fit the OpenAPI document, nearly fit it, or do not: never a 5xx, never a silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipair_index.rerank.serving.bodies import LaxBody
from dipair_index.rerank.serving.embedding_routes import EmbeddingRequest
from dipair_index.rerank.serving.rerank_bodies import RerankRequest
from dipair_index.rerank.serving.score_routes import ScoreRequest
from dipair_index.rerank.serving.search_routes import SearchRequest
from dipair_index.stores.verification import verify_index

PATHS: dict[str, type[LaxBody]] = {
    "/v2/rerank": RerankRequest,
    "/search": SearchRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/score": ScoreRequest,
}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def fitting_to(schema: dict[str, Any], named: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema of pydantic allows; `named` are those that it refers to."""
    if "$ref" in schema:
        return fitting_to(named[schema["$ref"].rpartition("/")[2]], named)
    if kinds := schema.get("anyOf"):
        return st.one_of([fitting_to(kind, named) for kind in kinds])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return st.lists(fitting_to(schema["items"], named), max_size=4)
    if kind == "object" and "properties" in schema:
        fields = {name: fitting_to(each, named) for name, each in schema["properties"].items()}
        needed = {name: fields.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(needed, optional=fields)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        "string": st.text(max_size=20),
        "integer": st.integers(schema.get("minimum"), schema.get("maximum")),
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
        "null": st.none(),
        "object": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    }
    return simple.get(kind, ANY)


def bodies(model: type[LaxBody]) -> st.SearchStrategy[bytes]:
    """Bodies by the schema; the same with a field replaced; any JSON; and bytes."""
    schema = model.model_json_schema()
    fields = list(schema["properties"])
    fitting = fitting_to(schema, schema.get("$defs", {}))
    bent = st.builds(
        lambda body, name, value: {**body, name: value}, fitting, st.sampled_from(fields), ANY
    )
    texts = (fitting | bent | ANY).map(json.dumps)  # with NaN and lone surrogates
    return texts.map(str.encode) | st.binary(max_size=30)


def check(client: Any, path: str, raw: bytes) -> None:
    answer = client.ask("POST", path, raw=raw)
    assert answer.status in (200, 400, 404, 413, 422), (raw, answer)
    if answer.status != 200:
        assert isinstance(answer.body["message"], str)
        assert "Traceback" not in answer.body["message"]
    for each in answer.body.get("results", ()) if isinstance(answer.body, dict) else ():
        assert not isinstance(each, dict) or each.get("relevance_score", 0.0) == pytest.approx(
            each.get("relevance_score", 0.0)
        )


def fuzz(client: Any, path: str, count: int) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(PATHS[path]))
    def run(raw: bytes) -> None:
        check(client, path, raw)

    run()


@pytest.mark.parametrize("path", PATHS)
def test_no_body_fails_the_server(path: str, client: Any) -> None:
    fuzz(client, path, 15)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_no_body_of_a_thousand_fails_the_server(path: str, client: Any) -> None:
    fuzz(client, path, 250)


PASSAGE = st.fixed_dictionaries(
    {"id": st.text(max_size=8), "text": st.text(max_size=20)},
    optional={"title": st.text(max_size=8) | ANY, "metadata": ANY, "x": ANY},
)
WRITES = (
    st.lists(PASSAGE | ANY, max_size=4).map(json.dumps).map(str.encode)
    | st.lists(PASSAGE.map(json.dumps) | st.text(max_size=9), max_size=3).map("\n".join).map(_utf8)
    | st.fixed_dictionaries({"ids": st.lists(st.text(max_size=8)) | ANY}).map(json.dumps).map(_utf8)
    | st.binary(max_size=30)
)


@pytest.mark.slow
def test_no_body_that_writes_fails_the_server_or_harms_the_index(
    index_dir: Path, tmp_path: Path, serve: Any
) -> None:
    own = Path(shutil.copytree(index_dir, tmp_path / "own.index"))

    @settings(
        max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(["POST", "DELETE"]), WRITES)
    def run(method: str, raw: bytes) -> None:
        before = client.get("/info")["index"]["digest"]
        answer = client.ask(method, "/passages", raw=raw)
        assert answer.status in (200, 400, 404, 413, 422), (method, raw, answer)
        if answer.status != 200:
            assert client.get("/info")["index"]["digest"] == before

    with serve(path=own, allow_writes=True) as (client, _):
        run()
        assert client.post("/search", {"query": "moon"})["results"]
    assert list(verify_index(own)) == []


def test_the_document_describes_every_route(client: Any) -> None:
    document = client.get("/openapi.json")
    schemas = document["components"]["schemas"]
    for path, model in PATHS.items():
        operation = document["paths"][path]["post"]
        wanted = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert set(schemas[wanted.rpartition("/")[2]]["properties"]) == set(
            model.model_json_schema()["properties"]
        )
        assert {"413", "422", "429", "503", "504"} <= set(operation["responses"])
    page = client.get("/docs")
    for path in document["paths"]:
        assert path in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
