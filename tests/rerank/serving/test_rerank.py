"""Rerank over HTTP: the answer is that of the library, in every dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.text_cache import TextCache

QUERY = "how the bees dance in winter"
TEXTS = [
    "tea leaves in the river",
    "bees and honey",
    "the volcano erupts",
    "bees and honey",
    "",
    "the queen of the bees does dance",
]
PATHS = ("/v2/rerank", "/v1/rerank", "/rerank")


@pytest.fixture(scope="module")
def expected(index_dir: Path, encoder: DualEncoder) -> list[tuple[int, float]]:
    """The places of TEXTS and their scores, best first, as the library gives them."""
    with DiPairIndex.open(index_dir, encoder, cache=TextCache()) as index:
        return [(int(each.id), each.score) for each in index.rerank(QUERY, texts=TEXTS)]


def order_of(answer: Any) -> list[tuple[int, float]]:
    return [(each["index"], each["relevance_score"]) for each in answer["results"]]


def close(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    return [place for place, _ in found] == [place for place, _ in expected] and [
        score for _, score in found
    ] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_scores_are_those_of_the_library(path: str, client: Any, expected: Any) -> None:
    answer = client.post(path, {"query": QUERY, "documents": TEXTS, "model": "any/name"})
    assert close(order_of(answer), expected)
    assert answer["model"] == "any/name"
    assert all(set(each) == {"index", "relevance_score"} for each in answer["results"])
    assert set(answer) == {"id", "object", "model", "results", "usage", "meta"}


def test_equal_texts_have_equal_scores_in_the_order_given(client: Any) -> None:
    answer = client.post("/rerank", {"query": QUERY, "documents": ["bees"] * 5 + ["tea"]})
    scores = dict(order_of(answer))
    assert len({scores[place] for place in range(5)}) == 1
    assert [place for place, _ in order_of(answer) if place < 5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "limit", [{}, {"top_n": None}, {"top_n": 0}, {"top_n": 99}, {"top_k": 0}, {"top_n": 10**30}]
)
def test_no_limit_is_all(limit: dict[str, Any], client: Any) -> None:
    answer = client.post("/v2/rerank", {"query": QUERY, "documents": TEXTS, **limit})
    assert len(answer["results"]) == len(TEXTS)


@pytest.mark.parametrize("limit", [{"top_n": 2}, {"top_n": "2"}, {"top_k": 2}, {"top_n": 2.0}])
def test_a_limit_keeps_the_best(limit: dict[str, Any], client: Any, expected: Any) -> None:
    answer = client.post("/v2/rerank", {"query": QUERY, "documents": TEXTS, **limit})
    assert close(order_of(answer), expected[:2])


@pytest.mark.parametrize("said", [True, "true", "1", 1])
def test_documents_come_back_as_objects_when_they_are_asked_for(said: Any, client: Any) -> None:
    documents = [{"text": TEXTS[0], "title": "T"}, TEXTS[1]]
    body = {"query": QUERY, "documents": documents, "return_documents": said}
    for each in client.post("/v1/rerank", body)["results"]:
        assert each["document"] == {"text": TEXTS[each["index"]]}


@pytest.mark.parametrize("said", [None, False, "false", 0])
def test_documents_do_not_come_back_otherwise(said: Any, client: Any) -> None:
    body = {"query": QUERY, "documents": TEXTS, "return_documents": said}
    assert not any("document" in each for each in client.post("/v1/rerank", body)["results"])


def test_rank_fields_are_read_as_title_and_text_are(client: Any, passages: list[Passage]) -> None:
    titled = next(passage for passage in passages if passage.title)
    documents = [{"a": titled.title, "b": titled.text, "n": 7, "none": None}]
    body = {"query": QUERY, "documents": documents, "rank_fields": ["a", "b", "none"]}
    answer = client.ask("POST", "/v2/rerank", body)
    by_id = client.post("/v2/rerank", {"query": QUERY, "ids": [titled.id]})
    assert answer.headers["X-DiPair-Cache"] == "1/1"  # the very text of the index
    assert order_of(answer.body) == order_of(by_id)


def test_ids_are_ranked_from_the_index(
    client: Any, index_dir: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    ids = [passage.id for passage in passages[::3]]
    texts = {passage.id: passage.text for passage in passages}
    body = {"query": QUERY, "ids": ids, "return_documents": True}
    found = client.post("/v2/rerank", body)["results"]
    with DiPairIndex.open(index_dir, encoder) as index:
        best = index.rerank(QUERY, ids)
    assert [each["id"] for each in found] == [each.id for each in best]
    assert [each["relevance_score"] for each in found] == pytest.approx(
        [each.score for each in best], abs=1e-6
    )
    assert all(ids[each["index"]] == each["id"] for each in found)
    assert all(each["document"] == {"text": texts[each["id"]]} for each in found)


def test_unknown_ids_are_named_up_to_five(client: Any, passages: list[Passage]) -> None:
    ids = [passages[0].id, *(f"gone{number}" for number in range(7))]
    answer = client.ask("POST", "/v2/rerank", {"query": QUERY, "ids": ids})
    assert answer.status == 404
    assert all(f"gone{number}" in answer.body["message"] for number in range(5))
    assert "gone5" not in answer.body["message"]
    assert passages[0].id not in answer.body["message"]


def test_nothing_to_rank_is_no_error(client: Any) -> None:
    for given in ("documents", "ids"):
        assert client.post("/v2/rerank", {"query": QUERY, given: []})["results"] == []
    assert client.post("/rerank", {"query": QUERY, "texts": []}) == []


def test_texts_are_answered_as_tei_does(client: Any, expected: Any) -> None:
    answer = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    assert close([(each["index"], each["score"]) for each in answer], expected)
    assert all(each["text"] == TEXTS[each["index"]] for each in answer)
    plain = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "truncate": True})
    assert all(set(each) == {"index", "score"} for each in plain)
    assert client.post("/rerank", {"query": QUERY, "texts": TEXTS, "top_n": 2}) == plain[:2]


def test_raw_scores_are_logits(client: Any, index_dir: Path, encoder: DualEncoder) -> None:
    with DiPairIndex.open(index_dir, encoder) as index:
        logits = [each.score for each in index.rerank(QUERY, texts=TEXTS, raw_scores=True)]
    answer = client.post("/v2/rerank", {"query": QUERY, "documents": TEXTS, "raw_scores": "yes"})
    assert [score for _, score in order_of(answer)] == pytest.approx(logits, abs=1e-4)
    tei = client.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True})
    assert [each["score"] for each in tei] == pytest.approx(logits, abs=1e-4)


def test_a_score_is_the_same_from_the_index_the_cache_and_the_encoder(
    serve: Any, passages: list[Passage]
) -> None:
    """The text of an indexed passage, known; the same with a blank more, first new, then cached."""
    indexed = passages[4].full_text
    body = {"query": QUERY, "documents": [indexed, f"{indexed} "]}
    with serve() as (client, _):
        answers = [client.ask("POST", "/v2/rerank", body) for _ in range(2)]
    assert [each.headers["X-DiPair-Cache"] for each in answers] == ["1/2", "2/2"]
    scores = [score for each in answers for _, score in order_of(each.body)]
    assert scores == pytest.approx([scores[0]] * 4, abs=1e-5)


def test_equal_texts_are_encoded_once_and_the_cache_is_bounded(
    serve: Any, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = DualEncoder.encode_passages

    def counted(self: DualEncoder, texts: Any) -> Any:
        encoded.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(DualEncoder, "encode_passages", counted)
    documents = [f"tea number {number // 2}" for number in range(40)]
    with serve(cache=TextCache(4000)) as (client, served):
        first = client.ask("POST", "/v2/rerank", {"query": QUERY, "documents": documents})
        assert sorted(encoded) == sorted(set(documents))
        assert first.headers["X-DiPair-Cache"] == "0/40"
        assert served.cache.stored_bytes <= 4000
        # those that were dropped are encoded again, and score the same
        again = client.ask("POST", "/v2/rerank", {"query": QUERY, "documents": documents})
        assert close(order_of(again.body), order_of(first.body))


def test_usage_counts_the_tokens_that_are_read(client: Any, encoder: DualEncoder) -> None:
    long = " ".join(["honey"] * 500)
    documents = ["bees dance", long, "bees dance"]
    lengths = [len(ids) for ids in encoder.tokenised("passage", documents).ids]
    tokens = sum(lengths) + len(encoder.tokenised("query", [QUERY]).ids[0])
    body = {"query": QUERY, "documents": documents}
    client.post("/v2/rerank", body)
    answer = client.post("/v2/rerank", body)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer["meta"]["tokens"] == {"input_tokens": tokens, "output_tokens": 0}
    assert answer["meta"]["cached_tokens"] == sum(lengths)
    assert answer["meta"]["warnings"] == [
        "1 document is longer than the model reads: only the beginning counts"
    ]


def test_voyages_results_are_in_data_too(client: Any) -> None:
    body = {"query": QUERY, "documents": TEXTS, "top_k": None, "truncation": True}
    answer = client.post("/v1/rerank", body)
    assert answer["data"] == answer["results"]


INVALID: list[tuple[Any, str]] = [
    ({"query": "a"}, "exactly one of documents"),
    ({"query": "a", "documents": ["b"], "ids": ["p"]}, "exactly one of documents"),
    ({"documents": ["b"]}, "query is missing"),
    ({"query": " ", "documents": ["b"]}, "query: it is empty"),
    ({"query": 7, "documents": ["b"]}, "query: "),
    ({"query": "a", "documents": "b"}, "documents: "),
    ({"query": "a", "documents": ["b", 7]}, "documents: item 1 must be a text"),
    ({"query": "a", "documents": [{"title": "t"}]}, "documents[0] has none of the fields text"),
    ({"query": "a", "documents": [{"text": ["b"]}]}, "documents[0]: a field that is ranked"),
    ({"query": "a", "documents": ["b"], "top_n": -1}, "top_n: "),
    ({"query": "a", "documents": ["b"], "top_n": "many"}, "top_n: "),
    ({"query": "a", "documents": ["b"], "return_documents": "perhaps"}, "return_documents: "),
    ([], "the body: "),
]


@pytest.mark.parametrize(("body", "said"), INVALID, ids=range(len(INVALID)))
def test_what_is_invalid_is_said_in_one_sentence(body: Any, said: str, client: Any) -> None:
    answer = client.ask("POST", "/v2/rerank", body)
    assert answer.status == 422
    assert said in answer.body["message"]
    assert "\n" not in answer.body["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"{no json",
        b"",
        b'{"query": "\xff", "documents": ["a"]}',
        b'{"query": "\\ud800", "documents": ["a"]}',
        b"[" * 100_000,
        b'{"query": "a", "documents": ["a"], "top_n": NaN}',
        b'{"query": "a", "documents": ["a"], "top_n": 1e999}',
        json.dumps({"query": "a", "documents": {"a": 1}}).encode(),
    ],
    ids=["broken", "empty", "latin", "surrogate", "deep", "nan", "huge", "object"],
)
def test_bodies_that_cannot_be_read_are_the_clients_fault(raw: bytes, client: Any) -> None:
    answer = client.ask("POST", "/v2/rerank", raw=raw)
    assert answer.status in (400, 422)
    assert isinstance(answer.body["detail"], str)
