from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, MissingPassagesError, SettingsError
from dipair_index.records import Passage, Query
from dipair_index.rerank.build import build_index
from dipair_index.rerank.head import HeadScorer
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.ranking import Timings, best_first, probability

QUERY = "why does dough rise"
QUERIES = [QUERY, "how bees dance", "the moon and the tide"]


@pytest.fixture
def index(index_dir: Path, encoder: DualEncoder) -> Iterator[DiPairIndex]:
    with DiPairIndex.open(index_dir, encoder) as opened:
        yield opened


def brute_force(encoder: DualEncoder, query: str, passages: list[Passage]) -> dict[str, float]:
    """Logit by passage id, best first, from tokens that no store has held."""
    tokens = encoder.encode_passages([passage.full_text for passage in passages]).tokens
    logits = HeadScorer(encoder.model).logits(encoder.encode_queries([query]).tokens[0], tokens)
    scores = {p.passage_id: float(s) for p, s in zip(passages, logits, strict=True)}
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def test_search_ranks_as_scoring_every_passage_afresh_does(
    index: DiPairIndex, encoder: DualEncoder, passages: list[Passage]
) -> None:
    expected = brute_force(encoder, QUERY, passages)
    found = index.search(QUERY, top_k=24, raw_scores=True)

    assert {passage.id: passage.score for passage in found} == expected
    assert [passage.id for passage in found] == list(expected)
    assert [passage.rank for passage in found] == list(range(1, 25))


def test_passages_with_the_same_text_are_in_the_order_of_their_ids(
    quick_path: Path, encoder: DualEncoder
) -> None:
    """Wherever they stand among the candidates, their logits are the same to the last bit."""
    same = [Passage(f"p{number}", "the queen") for number in reversed(range(150))]
    build_index([*same[:70], Passage("x", "ice"), *same[70:]], quick_path / "i", encoder)
    with DiPairIndex.open(quick_path / "i", encoder) as index:
        found = index.search(QUERY, top_k=151, candidates=151, raw_scores=True)
    ids = [passage.id for passage in found if passage.id != "x"]
    assert len({passage.score for passage in found}) == 2
    assert ids == sorted(ids)


def test_scores_are_sigmoids_of_the_logits(index: DiPairIndex) -> None:
    raw = index.search(QUERY, top_k=5, raw_scores=True)
    scores = [passage.score for passage in index.search(QUERY, top_k=5)]

    assert scores == pytest.approx([1 / (1 + np.exp(-passage.score)) for passage in raw])


def test_only_the_nearest_candidates_are_reranked(index: DiPairIndex) -> None:
    nearest = index.search(QUERY, top_k=5, rerank=False)
    found = index.search(QUERY, top_k=5, candidates=5)

    assert {passage.id for passage in found} == {passage.id for passage in nearest}
    before = {passage.id: passage.rank for passage in nearest}
    assert [passage.retrieval_rank for passage in found] == [before[p.id] for p in found]


def test_without_reranking_the_order_and_the_cosines_are_those_of_the_vectors(
    index: DiPairIndex, encoder: DualEncoder, passages: list[Passage]
) -> None:
    vectors = encoder.encode_passages([passage.full_text for passage in passages]).vectors
    cosines = vectors @ encoder.encode_queries([QUERY]).vectors[0]
    order = best_first([passage.passage_id for passage in passages], cosines, 4)

    found = index.search(QUERY, top_k=4, rerank=False, raw_scores=True)
    assert [passage.id for passage in found] == [passages[place].passage_id for place in order]
    assert [passage.score for passage in found] == pytest.approx(cosines[order], abs=1e-5)
    halves = [passage.score for passage in index.search(QUERY, top_k=4, rerank=False)]
    assert halves == pytest.approx((1 + cosines[order]) / 2, abs=1e-5)


def test_a_list_of_queries_gives_the_lists_of_each(index: DiPairIndex) -> None:
    together = index.search(QUERIES, top_k=3)
    alone = [index.search(query, top_k=3) for query in QUERIES]

    for left, right in zip(together, alone, strict=True):
        assert [passage.id for passage in left] == [passage.id for passage in right]
        scores = [passage.score for passage in right]
        # the encoder's rounding may depend on what shares its batch
        assert [passage.score for passage in left] == pytest.approx(scores, abs=1e-5)
    assert index.search([]) == []


def test_results_carry_what_the_corpus_said(index: DiPairIndex, passages: list[Passage]) -> None:
    by_id = {passage.passage_id: passage for passage in passages}
    for found in index.search(QUERY, top_k=24):
        given = by_id[found.id]
        assert (found.text, found.title, found.metadata) == given[1:]


def test_rerank_scores_the_passages_given_and_no_others(
    index: DiPairIndex, encoder: DualEncoder, passages: list[Passage]
) -> None:
    expected = brute_force(encoder, QUERY, [passages[3], passages[7], passages[11]])
    found = index.rerank(QUERY, ["p07", "p03", "p11", "p07"], raw_scores=True)

    assert [passage.id for passage in found] == list(expected)
    # the last bits may depend on the place in a micro-batch
    assert [passage.score for passage in found] == pytest.approx([*expected.values()], abs=1e-6)
    assert {passage.retrieval_rank for passage in found} == {None}
    assert index.rerank(QUERY, []) == []


def test_rerank_run_keeps_to_the_runs_passages_and_says_where_they_stood(
    index: DiPairIndex, encoder: DualEncoder, passages: list[Passage]
) -> None:
    run = {"q1": {"p01": 2.5, "p09": 7.0, "p00": 2.5}, "q2": {"p20": 1.0}}
    queries = [Query("q1", QUERIES[0]), Query("q2", QUERIES[1])]
    ranked = index.rerank_run(queries, run, raw_scores=True)

    asked = [passage for passage in passages if passage.passage_id in run["q1"]]
    expected = brute_force(encoder, QUERIES[0], asked)
    assert [passage.id for passage in ranked["q1"]] == list(expected)
    before = {passage.id: (passage.retrieval_rank, passage.retrieval_score) for passage in
              ranked["q1"]}  # fmt: skip
    assert before == {"p09": (1, 7.0), "p00": (2, 2.5), "p01": (3, 2.5)}
    assert [passage.id for passage in ranked["q2"]] == ["p20"]


def test_passages_that_are_not_in_the_index_are_named(index: DiPairIndex) -> None:
    with pytest.raises(MissingPassagesError, match="p98, p99"):
        index.rerank(QUERY, ["p01", "p98", "p99"])
    with pytest.raises(MissingPassagesError, match=r"query q1 .*p99.*index these passages too"):
        index.rerank_run([Query("q1", QUERY)], {"q1": {"p99": 1.0}})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search(" "), "a query is empty"),
        (lambda index: index.search(["tea", ""]), "a query is empty"),
        (lambda index: index.rerank("", ["p01"]), "a query is empty"),
        (lambda index: index.search(QUERY, top_k=0), "top_k must be 1 or more, got 0"),
        (lambda index: index.search(QUERY, candidates=5), r"top_k \(10\) or more, got 5"),
    ],
)
def test_what_cannot_be_answered_is_refused(index: DiPairIndex, call, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        call(index)


def test_results_carry_the_seconds_of_the_parts_of_their_search(index: DiPairIndex) -> None:
    found = index.search(QUERY)
    assert all(seconds > 0 for seconds in found.timings)
    assert index.search(QUERY, rerank=False).timings.score == 0
    assert all(seconds > 0 for seconds in found.timings)
    assert index.rerank(QUERY, ["p01"]).timings.retrieve == 0


def test_queries_of_one_call_share_its_seconds(index: DiPairIndex) -> None:
    together = index.search(QUERIES)
    assert together.timings == Timings.total(ranking.timings for ranking in together)
    assert len({ranking.timings.encode for ranking in together}) == 1
    assert index.search([]).timings == Timings()


def test_an_index_opens_by_the_model_its_manifest_names(
    index_dir: Path, encoder: DualEncoder, tiny_model_dir: Path
) -> None:
    with DiPairIndex.open(index_dir, encoder) as index:
        expected = index.search(QUERY)
    with DiPairIndex.open(index_dir, backend="torch") as opened:
        assert opened.manifest.model == str(tiny_model_dir)
        assert len(opened) == 24
        assert opened.search(QUERY) == expected


def test_another_model_is_refused_by_name(index_dir: Path, other_model_dir: Path) -> None:
    with pytest.raises(DirectoryError, match="was built by the model .*, but .*other") as info:
        DiPairIndex.open(index_dir, other_model_dir)
    fingerprint = DualEncoder.load(other_model_dir).fingerprint
    assert fingerprint in str(info.value)


def test_ties_are_in_the_order_of_ids_and_logits_decide_where_sigmoids_are_equal() -> None:
    logits = np.array([1.0, 90.0, 1.0, 95.0], np.float32)
    assert best_first(["b", "x", "a", "z"], logits, 4) == [3, 1, 2, 0]
    assert probability(95.0) == probability(90.0) == 1.0
    assert probability(0.0) == 0.5
    assert 0 <= probability(-1000.0) < 1e-20
