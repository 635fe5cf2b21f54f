"""What is seen from outside: health, metrics and the description of what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.stores.manifest import Manifest


def metrics_of(client: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics"))
        for sample in family.samples
    }


def value(found: Any, name: str, **labels: str) -> float:
    return float(found[name, frozenset(labels.items())])


def test_metrics_count_what_was_asked(serve: Any, passages: list[Passage], index_dir: Path) -> None:
    known, new = passages[0].full_text, "a black river"
    body = {"query": "how bees dance", "documents": [known, new, " ".join(["tea"] * 500)]}
    with serve() as (client, _):
        for _ in range(2):
            client.post("/v2/rerank", body)
        client.post("/search", {"query": "tea"})
        client.ask("GET", "/nothing/1")
        client.ask("GET", "/nothing/2")
        found = metrics_of(client)
    assert value(found, "dipair_requests_total", route="/v2/rerank", status="200") == 2
    assert value(found, "dipair_requests_total", route="none", status="404") == 2
    assert not any("/nothing" in str(labels) for _, labels in found)
    sources = {name: value(found, "dipair_texts_total", source=name)
               for name in ("index", "cache", "encoded")}  # fmt: skip
    assert sources == {"index": 2, "cache": 2, "encoded": 2}
    assert value(found, "dipair_truncated_texts_total") == 2
    for step, count in {"queued": 3, "encode": 3, "retrieve": 1, "gather": 3, "score": 3}.items():
        assert value(found, "dipair_step_seconds_count", step=step) == count
    assert value(found, "dipair_index_passages") == len(passages)
    assert value(found, "dipair_queue_requests") == 0
    digest = Manifest.read(index_dir).digest
    assert any(dict(labels).get("digest") == digest for _, labels in found)


def test_what_is_served_is_described(
    client: Any, encoder: DualEncoder, passages: list[Passage], index_dir: Path
) -> None:
    info = client.get("/info")
    assert list(info["model_type"]) == ["reranker"]
    longest = len(encoder.tokenised("passage", ["tea " * 1000]).ids[0])
    assert info["max_input_length"] == longest
    assert info["model_sha"] == encoder.fingerprint
    assert info["index"]["passages"] == len(passages)
    assert info["index"]["digest"] == Manifest.read(index_dir).digest
    assert str(index_dir) not in str(info)
    for path in ("/v1/models", "/models"):
        (model,) = client.get(path)["data"]
        assert model["id"] == info["model_id"]
    assert client.get("/health") == {"status": "ok"}
    assert client.get("/ready") == {"status": "ready"}


def test_a_search_tells_both_ranks_and_the_time_of_each_part(
    client: Any, index_dir: Path, encoder: DualEncoder
) -> None:
    from dipair_index.rerank.index import DiPairIndex

    with DiPairIndex.open(index_dir, encoder) as index:
        expected = index.search(["bees in winter", "green tea"], 3, 10)
    body = {"queries": ["bees in winter", "green tea"], "top_k": 3, "candidates": 10}
    answer = client.post("/search", body)
    for found, best in zip(answer["results"], expected, strict=True):
        for each, passage in zip(found, best, strict=True):
            fields = passage._asdict()
            for name in ("score", "retrieval_score"):
                assert abs(each.pop(name) - fields.pop(name)) < 1e-5
            assert each == fields
    assert set(answer["timings"]) == {"queued", "encode", "retrieve", "gather", "score"}
    assert all(seconds >= 0 for seconds in answer["timings"].values())
    assert answer["index"]["digest"] == Manifest.read(index_dir).digest
    plain = client.post("/search", {"query": "green tea", "rerank": False, "top_k": 4})["results"]
    assert [each["retrieval_rank"] for each in plain] == [1, 2, 3, 4]
    for wrong in ({}, {"query": "a", "queries": ["b"]}, {"query": "a", "candidates": 0}):
        assert client.ask("POST", "/search", wrong).status == 422
