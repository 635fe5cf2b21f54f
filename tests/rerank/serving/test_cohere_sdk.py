"""Cohere's own client, unmodified, against the server."""

from __future__ import annotations

from math import tanh
from typing import Any

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.rerank.open_scorer import open_token_scorer
from dipair_index.rerank.spans import matched_spans

cohere = pytest.importorskip("cohere", reason="cohere is not installed: pip install '.[test]'")

QUERY = "how the bees dance in winter"
TEXTS = ["tea leaves in the river", "bees and honey", "the queen of the bees does dance"]


def order_of(answer: Any) -> list[tuple[int, float]]:
    return [(each.index, each.relevance_score) for each in answer.results]


def test_both_versions_of_the_api(client: Any) -> None:
    raw = client.post("/v2/rerank", {"query": QUERY, "documents": TEXTS})["results"]
    expected = [(each["index"], pytest.approx(each["relevance_score"])) for each in raw]
    newer = cohere.ClientV2("key", base_url=client.url)
    older = cohere.Client("key", base_url=client.url + "/")
    found = newer.rerank(model="m", query=QUERY, documents=TEXTS)
    assert order_of(found) == expected
    assert found.id
    assert found.meta.cached_tokens == found.meta.tokens.input_tokens - len(QUERY.split()) - 2
    assert order_of(newer.rerank(model="m", query=QUERY, documents=TEXTS, top_n=1)) == expected[:1]
    objects = [{"text": text} for text in TEXTS]
    found = older.rerank(model="m", query=QUERY, documents=objects, return_documents=True)
    assert order_of(found) == expected
    assert all(each.document.text == TEXTS[each.index] for each in found.results)


def test_its_errors_are_raised_with_our_sentence(client: Any, serve: Any) -> None:
    with pytest.raises(cohere.UnprocessableEntityError) as refused:
        cohere.ClientV2("key", base_url=client.url).rerank(model="m", query=" ", documents=["a"])
    assert refused.value.body["message"] == "query: it is empty: give it some text"
    with serve(api_key="right") as (locked, _), pytest.raises(cohere.UnauthorizedError) as wrong:
        cohere.ClientV2("wrong", base_url=locked.url).rerank(model="m", query="a", documents=["a"])
    assert "the API key is wrong" in wrong.value.body["message"]


def test_relevant_spans_are_those_of_the_library(
    exported: DualEncoder, passages: list[Passage], serve_model: Any
) -> None:
    texts = [passage.text for passage in passages[:6]]
    plain = [Passage("", text) for text in texts]
    expected = matched_spans(QUERY, plain, exported, open_token_scorer(exported))
    assert any(expected)
    wanted = {"mode": "enabled", "threshold": 0.0, "max_spans": 2}
    body = {"query": QUERY, "documents": texts, "relevant_spans": wanted}
    with serve_model(exported) as client:
        results = client.post("/v2/rerank", body)["results"]
        off = client.post("/v2/rerank", body | {"relevant_spans": {"mode": "disabled"}})["results"]
    assert not any("relevant_spans" in each for each in off)
    for each in results:
        best = sorted(expected[each["index"]], key=lambda span: -span.weight)[:2]
        found = each.get("relevant_spans", [])
        assert [(span["start"], span["end"]) for span in found] == [span[:2] for span in best]
        assert [span["score"] for span in found] == pytest.approx(
            [tanh(span.weight / 2) for span in best], abs=1e-4
        )
