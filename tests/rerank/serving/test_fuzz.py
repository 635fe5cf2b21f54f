"""Bodies that fit the OpenAPI document, nearly fit it, or do not: never a 5xx, never a silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

from dipair_index.rerank.serving.bodies import LaxBody
from dipair_index.rerank.serving.embedding_routes import EmbeddingRequest
from dipair_index.rerank.serving.rerank_bodies import RerankRequest
from dipair_index.rerank.serving.score_routes import ScoreRequest
from dipair_index.rerank.serving.search_routes import SearchRequest

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


def bodies(model: type[LaxBody]) -> st.SearchStrategy[bytes]:
    """Bodies by the schema; the same with a field replaced; any JSON; and bytes."""
    fields = list(model.model_json_schema()["properties"])
    fitting = from_schema(model.model_json_schema())
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
