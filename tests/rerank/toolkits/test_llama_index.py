"""LlamaIndex's retriever and postprocessor give what the index and the model give."""

import asyncio

import pytest

from dipair_index import DiPairIndex, Passage, Reranker, SettingsError

pytest.importorskip("llama_index.core")

from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from dipair_index.rerank.toolkits.llama_index import DiPairRerank, DiPairRetriever

QUERIES = ["why the bees dance in winter", "how heat and light is to the moon"]


def nodes_of(passages: list[Passage]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=each.id, text=each.text)) for each in passages]


def test_the_retriever_returns_what_search_returns(index: DiPairIndex) -> None:
    retriever = DiPairRetriever(index, top_k=12, candidates=20)
    expected = index.search(QUERIES[0], 12, 20)
    found = retriever.retrieve(QUERIES[0])
    assert [each.node_id for each in found] == [passage.id for passage in expected]
    assert [each.text for each in found] == [passage.text for passage in expected]
    assert [each.score for each in found] == pytest.approx(
        [passage.score for passage in expected], abs=1e-6
    )
    for node, passage in zip(found, expected, strict=True):
        title = {"title": passage.title} if passage.title else {}
        assert node.metadata == {**passage.metadata, **title}
    assert any("title" in each.metadata and "column" in each.metadata for each in found)


def test_the_retriever_takes_the_settings_of_search(index: DiPairIndex) -> None:
    retriever = DiPairRetriever(index, None, search_settings={"filter": {"column": 0}})
    found = retriever.retrieve(QUERIES[0])
    expected = index.search(QUERIES[0], None, filter={"column": 0})
    assert [each.node_id for each in found] == [passage.id for passage in expected]
    assert {each.metadata["column"] for each in found} == {0}


def test_the_retriever_answers_coroutines(index: DiPairIndex) -> None:
    retriever = DiPairRetriever(index, top_k=4)

    async def both() -> list[list[NodeWithScore]]:
        return await asyncio.gather(*map(retriever.aretrieve, QUERIES))

    for query, found in zip(QUERIES, asyncio.run(both()), strict=True):
        assert [each.node_id for each in found] == [p.id for p in index.search(query, 4)]


def test_an_empty_query_is_refused_in_a_sentence(index: DiPairIndex) -> None:
    with pytest.raises(SettingsError, match="a query is empty: give it some text"):
        DiPairRetriever(index).retrieve("")


@pytest.mark.parametrize("with_index", [False, True])
def test_the_postprocessor_returns_what_rank_returns(
    index: DiPairIndex, reranker: Reranker, passages: list[Passage], with_index: bool
) -> None:
    postprocessor = DiPairRerank(ranker=index if with_index else reranker, top_k=6)
    found = postprocessor.postprocess_nodes(nodes_of(passages), query_str=QUERIES[1])
    expected = reranker.rank(QUERIES[1], [each.text for each in passages], 6)
    assert [each.node_id for each in found] == [passages[each["corpus_id"]].id for each in expected]
    scores = [each["score"] for each in expected]
    assert [each.score for each in found] == pytest.approx(scores, abs=1e-6)
    bundle = QueryBundle(QUERIES[1])
    later = asyncio.run(postprocessor.apostprocess_nodes(nodes_of(passages), bundle))
    assert [each.node_id for each in later] == [each.node_id for each in found]


def test_the_postprocessor_reads_metadata_that_are_meant_to_be_embedded(
    reranker: Reranker,
) -> None:
    node = TextNode(text="the river", metadata={"kind": "ice", "page": "1"})
    node.excluded_embed_metadata_keys = ["page"]
    postprocessor = DiPairRerank(ranker=reranker)
    [found] = postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str="glacier")
    [expected] = reranker.predict([("glacier", "kind: ice\n\nthe river")])
    assert found.score == pytest.approx(expected, abs=1e-6)


def test_nodes_need_a_query_and_may_be_none(reranker: Reranker) -> None:
    postprocessor = DiPairRerank(ranker=reranker)
    assert postprocessor.postprocess_nodes([], query_str=QUERIES[0]) == []
    with pytest.raises(SettingsError, match="pass query_str or query_bundle"):
        postprocessor.postprocess_nodes([])


def test_both_stand_in_a_query_engine(index: DiPairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IS_TESTING", "1")  # no language model is asked for
    engine = RetrieverQueryEngine(
        DiPairRetriever(index, 8, search_settings={"rerank": False}),
        get_response_synthesizer(response_mode=ResponseMode.NO_TEXT),
        node_postprocessors=[DiPairRerank(ranker=index, top_k=2)],
    )
    near = index.search(QUERIES[0], 8, rerank=False)
    expected = index.rerank(QUERIES[0], texts=[passage.text for passage in near], top_k=2)
    found = engine.query(QUERIES[0]).source_nodes
    assert [each.text for each in found] == [passage.text for passage in expected]
