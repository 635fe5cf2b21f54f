"""Fusions against sums that are written out one passage at a time, in exact fractions."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import SettingsError
from dipair_index.records import Query
from dipair_index.rerank.fusion import Fusion, checked_fusion, normalised
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.names import HEAD_WEIGHT

QUERY = "why does dough rise"
Lists = tuple[dict[str, float], dict[str, float]]


def slow(first: dict[str, float], second: dict[str, float], fusion: Fusion) -> dict[str, Fraction]:
    """What the module's docstring says, passage by passage."""
    weight = Fraction(fusion.weight)
    fused = {}
    for passage_id in {*first, *second}:
        score = Fraction(0)
        for scores, share in ((first, 1 - weight), (second, weight)):
            if passage_id not in scores:
                continue
            value, values = Fraction(scores[passage_id]), [*map(Fraction, scores.values())]
            low, high = min(values), max(values)
            if fusion.method == "rrf":
                score += Fraction(1, 60 + 1 + sum(other > value for other in values))
            else:
                score += share * (Fraction(1) if low == high else (value - low) / (high - low))
        fused[passage_id] = score
    return fused


SCORES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(-40, 40).map(lambda n: n / 8), max_size=8
)


@given(SCORES, SCORES, st.sampled_from(["rrf", "weighted"]), st.integers(0, 8))
def test_fused_scores_are_those_of_the_definition(
    first: dict[str, float], second: dict[str, float], method: Any, eighths: int
) -> None:
    fusion = Fusion(method, eighths / 8)
    expected = slow(first, second, fusion)
    found = fusion.scores(first, second)

    assert set(found) == set(expected)
    for passage_id, score in found.items():
        assert score == pytest.approx(float(expected[passage_id]), abs=1e-12)


def test_a_worked_example() -> None:
    first, second = {"a": 9.0, "b": 5.0, "c": 1.0}, {"b": 2.0, "d": 0.0}
    assert Fusion("rrf").scores(first, second) == pytest.approx(
        {"a": 1 / 61, "b": 1 / 62 + 1 / 61, "c": 1 / 63, "d": 1 / 62}
    )
    # the halves of a quarter and three quarters; d is the lowest of its list, and gets nothing
    assert Fusion("weighted", 0.75).scores(first, second) == pytest.approx(
        {"a": 0.25, "b": 0.125 + 0.75, "c": 0, "d": 0}
    )


def test_passages_that_are_equal_in_both_lists_have_equal_scores() -> None:
    scores = {"x": 3.0, "b": 2.0, "a": 2.0, "y": 1.0}
    for fusion in (Fusion("rrf"), Fusion("weighted", 0.3)):
        fused = fusion.scores(scores, dict(reversed(scores.items())))
        assert fused["a"] == fused["b"]
        assert fused["x"] > fused["a"] > fused["y"]


def test_scores_may_be_as_far_apart_as_doubles_are() -> None:
    largest = np.finfo(np.float64).max
    assert normalised(np.array([largest, 0, -largest])).tolist() == [1, 0.5, 0]
    infinite = {"a": np.inf, "b": 0.0}
    assert Fusion("rrf").scores(infinite, {}) == {"a": 1 / 61, "b": 1 / 62}
    with pytest.raises(SettingsError, match="passage a is infinite"):
        Fusion("weighted").scores(infinite, {})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "sum"}, "fusion must be 'rrf', 'weighted' or None, got 'sum'"),
        ({"method": "rrf", "weight": 0.5}, "weight is that of fusion='weighted', got fusion='rrf'"),
        ({"method": None, "weight": 0.5}, "weight is that of fusion='weighted', got fusion=None"),
        ({"method": "weighted", "weight": 1.5}, "weight must be a number from 0 to 1, got 1.5"),
        ({"method": "weighted", "weight": True}, "weight must be a number from 0 to 1, got True"),
        ({"method": "weighted", "weight": np.nan}, "weight must be a number from 0 to 1, got nan"),
        ({"method": "rrf", "raw_scores": True}, "fused scores are no logits"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        checked_fusion(**settings)


def test_settings_have_defaults() -> None:
    assert checked_fusion(None) is None
    assert checked_fusion("weighted") == Fusion("weighted", HEAD_WEIGHT)
    assert checked_fusion("weighted", np.float32(0.25)) == Fusion("weighted", 0.25)


@pytest.mark.parametrize(
    ("settings", "fusion"),
    [
        ({"fusion": "rrf"}, Fusion("rrf")),
        ({"fusion": "weighted", "weight": 0.75}, Fusion("weighted", 0.75)),
        ({"fusion": "weighted"}, Fusion("weighted")),
    ],
)
def test_a_search_orders_by_the_vectors_and_the_head_together(
    index_dir: Path, encoder: DualEncoder, settings: dict[str, Any], fusion: Fusion
) -> None:
    with DiPairIndex.open(index_dir, encoder) as index:
        head = index.search(QUERY, 8, candidates=8, raw_scores=True)
        found = index.search(QUERY, 5, candidates=8, **settings)
        run = {"q": {p.id: p.retrieval_score or 0.0 for p in head}}
        of_run = index.rerank_run([Query("q", QUERY)], run, 5, **settings)["q"]
    expected = slow(run["q"], {p.id: p.score for p in head}, fusion)
    order = sorted(expected, key=lambda passage_id: (-expected[passage_id], passage_id))

    assert [p.id for p in found] == [p.id for p in of_run] == order[:5]
    for passage in found:
        assert passage.score == pytest.approx(float(expected[passage.id]), abs=1e-6)
    assert [p.rank for p in found] == [1, 2, 3, 4, 5]
    before = {p.id: (p.retrieval_rank, p.retrieval_score) for p in head}
    assert {p.id: (p.retrieval_rank, p.retrieval_score) for p in found}.items() <= before.items()


def test_the_weight_leads_from_the_run_to_the_head(index_dir: Path, encoder: DualEncoder) -> None:
    run = {"q": {"p07": 3.0, "p01": 2.0, "p11": 1.0, "p05": 0.0}}
    queries = [Query("q", QUERY)]
    with DiPairIndex.open(index_dir, encoder) as index:
        by_head = index.rerank_run(queries, run)["q"]
        of_run, of_head = (
            index.rerank_run(queries, run, fusion="weighted", weight=weight)["q"]
            for weight in (0, 1)
        )
    assert [p.id for p in of_run] == [*run["q"]]
    assert [p.score for p in of_run] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert [p.id for p in of_head] == [p.id for p in by_head]


def test_a_search_without_the_head_has_nothing_to_fuse(
    index_dir: Path, encoder: DualEncoder
) -> None:
    with (
        DiPairIndex.open(index_dir, encoder) as index,
        pytest.raises(SettingsError, match="leave out rerank=False or fusion"),
    ):
        index.search(QUERY, rerank=False, fusion="rrf")
