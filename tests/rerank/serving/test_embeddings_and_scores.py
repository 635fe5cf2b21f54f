"""Embeddings in OpenAI's form, and scores of pairs in vLLM's."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.reranker import Reranker

TEXTS = ["bees and honey", "the tide and the moon"]


def vectors_of(answer: Any) -> np.ndarray:
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return np.array([each["embedding"] for each in answer["data"]], np.float32)


def test_vectors_are_those_of_the_passage_side(client: Any, encoder: DualEncoder) -> None:
    answer = client.post("/v1/embeddings", {"model": "m", "input": TEXTS})
    expected = encoder.encode_passages(TEXTS).vectors
    np.testing.assert_allclose(vectors_of(answer), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors_of(answer), axis=1), 1, atol=1e-5)
    tokens = sum(map(len, encoder.tokenised("passage", TEXTS).ids))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (answer["object"], answer["model"]) == ("list", "m")


@pytest.mark.parametrize(
    "said", [{"input_type": "query"}, {"input_type": "search_query"}, {"model": "dipair-query"}]
)
def test_queries_are_of_their_own_side(
    said: dict[str, str], serve: Any, tmp_path: Path, make_model: Any
) -> None:
    """With a model whose sides differ in what is put before a text."""
    from dipair_index.rerank.build import build_index

    encoder = make_model(query_prefix="how ")
    build_index([("p", "tea")], tmp_path / "prefixed.index", encoder)
    expected = encoder.encode_queries(TEXTS).vectors
    assert not np.allclose(expected, encoder.encode_passages(TEXTS).vectors, atol=1e-3)
    with serve(path=tmp_path / "prefixed.index", model=encoder) as (client, _):
        answer = client.post("/v1/embeddings", {"input": TEXTS, **said})
        np.testing.assert_allclose(vectors_of(answer), expected, atol=1e-5)


def test_base64_holds_the_same_numbers(client: Any) -> None:
    plain = client.post("/v1/embeddings", {"input": TEXTS[0]})
    packed = client.post("/v1/embeddings", {"input": TEXTS[0], "encoding_format": "base64"})
    decoded = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(decoded, vectors_of(plain)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": [1, 2]}, "it holds token ids"),
        ({"input": [[1, 2]]}, "it holds token ids"),
        ({"input": []}, "it is an empty list"),
        ({"input": ["a", " "]}, "item 1 is empty"),
        ({"input": 7}, "it must be a text or a list of texts"),
        ({"input": "a", "input_type": "image"}, "input_type must be one of query"),
        ({"input": "a", "dimensions": 7}, "dimensions must be "),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_explained(body: Any, said: str, client: Any) -> None:
    answer = client.ask("POST", "/v1/embeddings", body)
    assert answer.status == 422
    assert said in answer.body["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": "how bees dance", "text_2": TEXTS},
        {"queries": ["how bees dance"] * 2, "documents": TEXTS},
    ],
)
def test_pairs_are_scored_in_the_order_given(body: Any, client: Any, encoder: DualEncoder) -> None:
    expected = Reranker(encoder, codec="float32").predict(
        [("how bees dance", text) for text in TEXTS]
    )
    for path in ("/score", "/v1/score"):
        data = client.post(path, body)["data"]
        assert [each["index"] for each in data] == [0, 1]
        assert [each["score"] for each in data] == pytest.approx(expected.tolist(), abs=1e-5)


def test_other_queries_have_other_scores(client: Any, encoder: DualEncoder) -> None:
    queries = ["how bees dance", "the moon"]
    expected = Reranker(encoder, codec="float32").predict(
        list(zip(queries, TEXTS, strict=True)), raw_scores=True
    )
    body = {"queries": queries, "documents": TEXTS, "raw_scores": True}
    data = client.post("/score", body)["data"]
    assert [each["score"] for each in data] == pytest.approx(expected.tolist(), abs=1e-4)
    uneven = client.ask("POST", "/score", {"queries": queries, "documents": ["a"] * 3})
    assert (uneven.status, "make no pairs" in uneven.body["message"]) == (422, True)
