"""LangChain's retriever and compressor give what the index and the model give."""

import asyncio

import pytest

from dipair_index import DiPairIndex, Passage, Reranker, SettingsError

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from dipair_index.rerank.toolkits.langchain import DiPairCompressor, DiPairRetriever

QUERIES = ["why the bees dance in winter", "how heat and light is to the moon"]


def test_the_retriever_returns_what_search_returns(index: DiPairIndex) -> None:
    retriever = DiPairRetriever(index=index, top_k=12, candidates=20)
    expected = index.search(QUERIES[0], 12, 20)
    found = retriever.invoke(QUERIES[0])
    assert [each.id for each in found] == [passage.id for passage in expected]
    assert [each.page_content for each in found] == [passage.text for passage in expected]
    for document, passage in zip(found, expected, strict=True):
        title = {"title": passage.title} if passage.title else {}
        assert document.metadata == {
            **passage.metadata,
            **title,
            "relevance_score": pytest.approx(passage.score, abs=1e-6),
        }
    assert any("title" in each.metadata and "column" in each.metadata for each in found)


def test_the_retriever_takes_the_settings_of_search(index: DiPairIndex) -> None:
    settings = {"filter": {"column": 0}, "raw_scores": True}
    retriever = DiPairRetriever(index=index, top_k=None, search_settings=settings)
    found = retriever.invoke(QUERIES[0])
    expected = index.search(QUERIES[0], None, **settings)
    assert [each.id for each in found] == [passage.id for passage in expected]
    assert {each.metadata["column"] for each in found} == {0}
    assert len(found) == 8


def test_the_retriever_answers_batches_and_coroutines(index: DiPairIndex) -> None:
    retriever = DiPairRetriever(index=index, top_k=4)
    one_by_one = [retriever.invoke(query) for query in QUERIES]
    ids = [[each.id for each in found] for found in one_by_one]
    assert [[each.id for each in found] for found in retriever.batch(QUERIES)] == ids
    found = asyncio.run(retriever.abatch(QUERIES))
    assert [[each.id for each in found] for found in found] == ids


def test_an_empty_query_is_refused_in_a_sentence(index: DiPairIndex) -> None:
    with pytest.raises(SettingsError, match="a query is empty: give it some text"):
        DiPairRetriever(index=index).invoke(" ")


@pytest.mark.parametrize("with_index", [False, True])
def test_the_compressor_returns_what_rank_returns(
    index: DiPairIndex, reranker: Reranker, passages: list[Passage], with_index: bool
) -> None:
    documents = [Document(each.text, id=each.id, metadata={"source": each.id}) for each in passages]
    compressor = DiPairCompressor(ranker=index if with_index else reranker, top_k=6)
    found = compressor.compress_documents(documents, QUERIES[1])
    expected = reranker.rank(QUERIES[1], [each.text for each in passages], 6)
    assert [each.id for each in found] == [passages[each["corpus_id"]].id for each in expected]
    assert [each.metadata["relevance_score"] for each in found] == pytest.approx(
        [each["score"] for each in expected], abs=1e-6
    )
    assert [each.metadata["source"] for each in found] == [each.id for each in found]
    assert all("relevance_score" not in each.metadata for each in documents)
    later = asyncio.run(compressor.acompress_documents(documents, QUERIES[1]))
    assert [each.id for each in later] == [each.id for each in found]


def test_no_documents_are_compressed_to_none(reranker: Reranker) -> None:
    assert DiPairCompressor(ranker=reranker).compress_documents([], QUERIES[0]) == []


def test_both_stand_in_a_chain(index: DiPairIndex, reranker: Reranker) -> None:
    retriever = DiPairRetriever(index=index, top_k=8, search_settings={"rerank": False})
    compressor = DiPairCompressor(ranker=index, top_k=2)
    chain = {"documents": retriever, "query": lambda query: query} | RunnableLambda(
        lambda given: compressor.compress_documents(**given)
    )
    near = index.search(QUERIES[0], 8, rerank=False)
    expected = index.rerank(QUERIES[0], texts=[passage.text for passage in near], top_k=2)
    assert [each.page_content for each in chain.invoke(QUERIES[0])] == [
        passage.text for passage in expected
    ]
