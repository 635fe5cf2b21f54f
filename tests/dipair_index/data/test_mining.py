"""Negatives are near, and read like no positive."""

from array import array

import numpy as np
import pytest

from dipair_index.data.equal_texts import EqualTexts, first_rows, text_key
from dipair_index.data.mining import (
    NEIGHBOUR,
    Pairs,
    candidates_of,
    sample_negatives,
)


def pairs_of(*triples: tuple[int, int, float]) -> Pairs:
    queries, passages, scores = zip(*triples, strict=True)
    return Pairs(np.array(queries), np.array(passages), np.array(scores, np.float32))


def test_candidates_are_the_nearest_that_are_not_positive() -> None:
    neighbours = np.array(
        [[(5, 0.9), (2, 0.8), (7, 0.1)], [(2, 0.7), (-1, 0.0), (-1, 0.0)]], NEIGHBOUR
    )
    positives, different = pairs_of((0, 2, 1), (1, 5, 1)), EqualTexts(np.arange(2), np.arange(8))
    found = candidates_of(np.array([0, 1]), neighbours, positives, different, top_k=2)
    assert found.queries.tolist() == [0, 1]
    assert found.passages.tolist() == [5, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])


def test_no_candidate_reads_like_a_positive_and_none_like_another() -> None:
    """Passages 0, 3 and 4 read the same, and so do 1 and 5, and queries 0 and 1."""
    passages = np.array([0, 1, 2, 0, 0, 1])
    neighbours = np.array(
        [
            [(4, 0.9), (5, 0.8), (1, 0.7), (2, 0.6)],
            [(3, 0.9), (1, 0.8), (5, 0.8), (-1, 0)],
            [(3, 0.9), (0, 0.9), (4, 0.9), (5, 0.1)],
        ],
        NEIGHBOUR,
    )
    equal = EqualTexts(np.array([0, 0, 2]), passages)
    positives = pairs_of((0, 0, 1), (2, 2, 1))
    found = candidates_of(np.arange(3), neighbours, positives, equal, top_k=4)
    pairs = list(zip(found.queries.tolist(), found.passages.tolist(), strict=True))
    assert pairs == [(0, 5), (0, 2), (1, 1), (2, 3), (2, 5)]


def test_equal_texts_have_the_row_of_the_first() -> None:
    texts = ["Green tea", "ice", " green\tTEA ", "green tea.", "ice"]
    assert first_rows(array("q", map(text_key, texts))).tolist() == [0, 1, 0, 3, 1]


def test_a_query_without_candidates_gets_its_negatives_from_others() -> None:
    candidates = pairs_of(*((0, passage, 0.1) for passage in range(10)))
    drawn = sample_negatives(candidates, pairs_of((0, 11, 1), (4, 12, 1)), np.random.default_rng(0))
    assert drawn.queries.tolist() == [0, 0]
    assert len(set(drawn.passages.tolist())) == 2


def test_each_query_gets_as_many_negatives_as_it_has_positives() -> None:
    candidates = pairs_of(*((query, passage, 0.1) for query in (0, 1) for passage in range(9)))
    positives = pairs_of((0, 10, 1), (1, 10, 1), (1, 11, 1))
    seen = set()
    for seed in range(200):
        drawn = sample_negatives(candidates, positives, np.random.default_rng(seed))
        assert drawn.queries.tolist() == [0, 1, 1]
        seen.add(int(drawn.passages[0]))
    assert seen == set(range(9))
