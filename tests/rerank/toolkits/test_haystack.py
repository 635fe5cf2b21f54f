"""Haystack's retriever and ranker give what the index and the model give."""

import asyncio
from pathlib import Path

import pytest

from dipair_index import DiPairIndex, DirectoryError, FormatError, Passage, Reranker, SettingsError

pytest.importorskip("haystack")

from haystack import Document, Pipeline

from dipair_index.rerank.toolkits.haystack import DiPairRanker, DiPairRetriever

QUERIES = ["why the bees dance in winter", "how heat and light is to the moon"]


@pytest.fixture(scope="module")
def retriever(index_dir: Path) -> DiPairRetriever:
    return DiPairRetriever(str(index_dir), top_k=12, candidates=20)


@pytest.fixture(scope="module")
def ranker(tiny_model_dir: Path) -> DiPairRanker:
    return DiPairRanker(str(tiny_model_dir), top_k=6)


def test_the_retriever_returns_what_search_returns(
    retriever: DiPairRetriever, index: DiPairIndex
) -> None:
    expected = index.search(QUERIES[0], 12, 20)
    found = retriever.run(QUERIES[0])["documents"]
    assert [each.id for each in found] == [passage.id for passage in expected]
    assert [each.content for each in found] == [passage.text for passage in expected]
    assert [each.score for each in found] == pytest.approx(
        [passage.score for passage in expected], abs=1e-6
    )
    for document, passage in zip(found, expected, strict=True):
        title = {"title": passage.title} if passage.title else {}
        assert document.meta == {**passage.metadata, **title}
    assert any("title" in each.meta and "column" in each.meta for each in found)
    assert retriever.run(QUERIES[0], top_k=2)["documents"] == found[:2]
    assert asyncio.run(retriever.run_async(QUERIES[0]))["documents"] == found


def test_the_retriever_takes_the_settings_of_search(index_dir: Path, index: DiPairIndex) -> None:
    settings = {"filter": {"column": 0}}
    retriever = DiPairRetriever(str(index_dir), None, search_settings=settings)
    found = retriever.run(QUERIES[0])["documents"]
    expected = index.search(QUERIES[0], None, **settings)
    assert [each.id for each in found] == [passage.id for passage in expected]
    assert {each.meta["column"] for each in found} == {0}


def test_what_cannot_be_opened_is_said_when_it_is_warmed_up(tmp_path: Path) -> None:
    retriever = DiPairRetriever(str(tmp_path / "nowhere.index"))
    with pytest.raises(DirectoryError, match="nowhere.index"):
        retriever.warm_up()


def test_the_ranker_returns_what_rank_returns(
    ranker: DiPairRanker, tiny_model_dir: Path, passages: list[Passage]
) -> None:
    documents = [Document(id=each.id, content=each.text, meta={"n": 1}) for each in passages]
    expected = Reranker(tiny_model_dir).rank(QUERIES[1], [each.text for each in passages], 6)
    ids = [passages[each["corpus_id"]].id for each in expected]
    found = ranker.run(QUERIES[1], documents)["documents"]
    assert [each.id for each in found] == ids
    assert [each.score for each in found] == pytest.approx(
        [each["score"] for each in expected], abs=1e-6
    )
    assert all(each.meta == {"n": 1} for each in found)
    assert all(each.score is None for each in documents)
    assert ranker.run(QUERIES[1], documents, top_k=1)["documents"] == found[:1]
    assert asyncio.run(ranker.run_async(QUERIES[1], documents))["documents"] == found


def test_documents_may_be_none_but_not_without_text(ranker: DiPairRanker) -> None:
    assert ranker.run(QUERIES[0], [])["documents"] == []
    with pytest.raises(FormatError, match="document d1 has no content to rank: leave it out"):
        ranker.run(QUERIES[0], [Document(id="d1")])


def test_an_empty_query_is_refused_in_a_sentence(retriever: DiPairRetriever) -> None:
    with pytest.raises(SettingsError, match="a query is empty: give it some text"):
        retriever.run("")


def test_a_pipeline_is_the_same_after_it_was_written_to_yaml(
    retriever: DiPairRetriever, ranker: DiPairRanker
) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", DiPairRetriever(retriever.index_dir, 8, 20))
    pipeline.add_component("ranker", DiPairRanker(ranker.model, 3))
    pipeline.connect("retriever", "ranker")
    given = {"retriever": {"query": QUERIES[0]}, "ranker": {"query": QUERIES[0]}}
    found = pipeline.run(given)["ranker"]["documents"]
    near = retriever.run(QUERIES[0], top_k=8)["documents"]
    assert found == ranker.run(QUERIES[0], near, top_k=3)["documents"]
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["dipair_index.*"])
    assert again.run(given)["ranker"]["documents"] == found
