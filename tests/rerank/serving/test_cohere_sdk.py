"""Cohere's own client, unmodified, against the server."""

from __future__ import annotations

from typing import Any

import pytest

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


def test_relevant_spans_are_places_in_the_documents(client: Any) -> None:
    wanted = {"mode": "enabled", "threshold": 0.0, "max_spans": 2}
    body = {"query": QUERY, "documents": TEXTS, "relevant_spans": wanted}
    results = client.post("/v2/rerank", body)["results"]
    assert any(each.get("relevant_spans") for each in results)
    for each in results:
        spans = each.get("relevant_spans", [])
        assert len(spans) <= 2
        scores = [span["score"] for span in spans]
        assert scores == sorted(scores, reverse=True)
        for span in spans:
            assert 0 <= span["score"] <= 1
            words = TEXTS[each["index"]][span["start"] : span["end"]]
            assert words == words.strip() != ""
    off = client.post("/v2/rerank", body | {"relevant_spans": {"mode": "disabled"}})["results"]
    assert not any("relevant_spans" in each for each in off)
