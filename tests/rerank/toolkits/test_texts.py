"""Texts that a toolkit found are ranked alike by a model and by an index."""

import pytest

from dipair_index import DiPairIndex, Passage, Reranker, SettingsError
from dipair_index.rerank.toolkits.texts import ranked_texts

QUERY = "why the bees dance in winter"


def test_a_reranker_and_an_index_rank_texts_alike(
    index: DiPairIndex, reranker: Reranker, passages: list[Passage]
) -> None:
    texts = [*(passage.text for passage in passages[:9]), "the river of ice", passages[0].text]
    by_model = ranked_texts(reranker, QUERY, texts, None)
    by_index = ranked_texts(index, QUERY, texts, None)
    expected = dict(enumerate(reranker.predict([(QUERY, text) for text in texts])))
    for ranking in (by_model, by_index):
        assert [position for position, _ in ranking] == sorted(
            expected, key=lambda position: -expected[position]
        )
        assert [score for _, score in ranking] == pytest.approx(
            sorted(expected.values(), reverse=True), abs=1e-6
        )
    assert ranked_texts(index, QUERY, texts, 3) == by_index[:3]


def test_no_texts_are_ranked_without_a_look_at_the_query(index: DiPairIndex) -> None:
    assert ranked_texts(index, "", [], 10) == []
    with pytest.raises(SettingsError, match="a query is empty"):
        ranked_texts(index, "", ["the river of ice"], 10)
