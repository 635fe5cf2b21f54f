"""Which tokens of an index are used, and what dropping some costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Query
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.inspection.used import (
    SHARES,
    evenly_spaced,
    inspect_index,
    without_the_most_alike,
)
from dipair_index.stores.snapshot import Snapshot

ir_measures = pytest.importorskip("ir_measures")
QUERIES = [Query("q1", "bees in winter"), Query("q2", "green tea")]


def test_of_the_two_most_alike_tokens_the_shorter_is_dropped_first() -> None:
    tokens = np.array([[5, 0], [0, 0], [1, 0.1], [0, 2]], np.float32)
    two = without_the_most_alike(tokens, 2 / 3)
    np.testing.assert_array_equal(two, [[5, 0], [0, 0], [0, 0], [0, 2]])
    one = without_the_most_alike(tokens, 0.01)
    np.testing.assert_array_equal(one, [[5, 0], [0, 0], [0, 0], [0, 0]])
    assert without_the_most_alike(tokens, 1.0) is tokens


def test_a_passage_without_tokens_stays_as_it_is() -> None:
    nothing = np.zeros((3, 2), np.float32)
    np.testing.assert_array_equal(without_the_most_alike(nothing, 0.5), nothing)


@pytest.mark.parametrize("judged", [False, True])
def test_an_index_is_inspected_as_its_tokens_are(
    index_dir: Path, encoder: DualEncoder, judged: bool
) -> None:
    with DiPairIndex.open(index_dir, encoder) as index, Snapshot.open(index_dir) as snapshot:
        rankings = {
            query.query_id: index.search(query.text, 8, 8, raw_scores=True) for query in QUERIES
        }
        worst = {query_id: {found[-1].id: 1} for query_id, found in rankings.items()}
        found = inspect_index(
            index, snapshot, encoder, QUERIES, worst if judged else None, sample=5, candidates=8
        )
        ids = evenly_spaced(snapshot, 5)
        assert len(ids) == len(set(ids)) == 5
    assert (found.passages, found.queries, found.judged) == (5, 2, judged)
    assert found.candidates == len({each.id for hits in rankings.values() for each in hits})
    assert [each.share for each in found.kept] == list(SHARES)
    whole = found.kept[0].measure
    # the one relevant passage is the last of eight
    assert whole == pytest.approx(1 / np.log2(9) if judged else 1)
    tokens = [each.tokens for each in found.kept]
    assert tokens == sorted(tokens, reverse=True)
    assert 0 < found.met <= 1
    assert found.record()["kept"][0]["share"] == 1.0
