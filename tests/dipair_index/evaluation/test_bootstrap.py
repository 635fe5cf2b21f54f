"""Measures and their bootstrap against scikit-learn, scipy, ir-measures and plain loops."""

from __future__ import annotations

import sys
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from dipair_index.errors import FormatError, MissingPackageError, SettingsError
from dipair_index.evaluation import bootstrap as evaluation
from dipair_index.evaluation.bootstrap import (
    Bootstrap,
    JudgedPairs,
    JudgedRuns,
    Measured,
    check_labels,
    evaluate,
)
from dipair_index.evaluation.measures import check_measures, relevant_pairs
from dipair_index.records import Qrels, Run

NO_RESAMPLES = Bootstrap("one", resamples=0)

# label, score of one, score of two, query: few different scores, so that many are equal
JUDGED = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0]),
        st.integers(-3, 3).map(float),
        st.floats(-5, 5, width=32),
        st.integers(0, 3),
    ),
    min_size=4,
    max_size=40,
)
GRADES = st.dictionaries(st.sampled_from("abcdefg"), st.integers(-1, 3), min_size=1)
SCORES = st.dictionaries(st.sampled_from("abcdefgxyz"), st.integers(0, 9).map(float), min_size=1)


def pairs_of(judged: list[tuple[float, float, float, int]]) -> JudgedPairs:
    labels, one, two, queries = zip(*judged, strict=True)
    return JudgedPairs(
        [f"q{query}" for query in queries],
        [f"p{row}" for row in range(len(judged))],
        np.array(labels, np.float32),
        {"one": np.array(one, np.float32), "two": np.array(two, np.float32)},
    )


def noisy_pairs(queries: int = 60, seed: int = 0, graded: bool = False) -> JudgedPairs:
    """Queries with two to five pairs each; system one is a little better than two."""
    random = np.random.default_rng(seed)
    names = np.repeat(np.arange(queries), random.integers(2, 6, queries))
    labels = random.random(len(names)) if graded else np.arange(len(names)) % 2
    noise = random.normal(size=(2, len(names))).round(1)
    return JudgedPairs(
        [f"q{name}" for name in names],
        [f"p{row}" for row in range(len(names))],
        labels.astype(np.float32),
        {"one": labels + noise[0], "two": labels + 1.3 * noise[1]},
    )


def values(measured: list[Measured]) -> dict[tuple[str, str], float]:
    return {(each.measure, each.system): each.value for each in measured}


# ==== Values ====


@settings(max_examples=60, deadline=None)
@given(JUDGED)
def test_auc_is_that_of_scikit_learn(judged: list[tuple[float, float, float, int]]) -> None:
    pairs = pairs_of(judged)
    if len(set(pairs.labels.tolist())) < 2:
        with pytest.raises(FormatError, match="AUC needs relevant and other judged pairs"):
            evaluate(pairs, ["AUC"], NO_RESAMPLES)
        return
    measured = evaluate(pairs, ["AUC"], NO_RESAMPLES)
    for each in measured:
        assert each.value == pytest.approx(roc_auc_score(pairs.labels, pairs.scores[each.system]))
        assert each[3:] == (None, None, None, None)


@settings(max_examples=60, deadline=None)
@given(JUDGED, st.floats(-1e6, 1e6))
def test_pearson_is_that_of_scipy_far_from_nought_too(
    judged: list[tuple[float, float, float, int]], shift: float
) -> None:
    pairs = pairs_of(judged)
    # 0.01 apart at least: of less, rounding leaves no correlation to compare
    far = pairs.scores["one"].astype(np.float64) / 100 + shift
    pairs = pairs._replace(scores={"one": far})
    if np.ptp(pairs.labels) == 0 or np.ptp(far) == 0:
        with pytest.raises(FormatError, match="Pearson needs values that differ"):
            evaluate(pairs, ["Pearson"], NO_RESAMPLES)
        return
    (measured,) = evaluate(pairs, ["Pearson"], NO_RESAMPLES)
    expected = stats.pearsonr(pairs.labels.astype(np.float64), far - shift).statistic
    assert measured.value == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["q1", "q2", "q3", "q4"]), GRADES, min_size=1),
    st.dictionaries(st.sampled_from(["q1", "q2", "q3", "q9"]), SCORES, min_size=1),
)
def test_ranking_measures_are_those_of_ir_measures(qrels: Qrels, run: Run) -> None:
    names = ["nDCG@3", "RR(rel=2)@10", "R@5", "AP", "Judged@2", "NumRet", "Bpref"]
    measured = evaluate(JudgedRuns(qrels, {"one": run}), names, NO_RESAMPLES)
    expected = ir_measures.calc_aggregate(list(map(ir_measures.parse_measure, names)), qrels, run)
    assert values(measured) == {
        (str(measure), "one"): pytest.approx(value) for measure, value in expected.items()
    }


def test_a_judged_query_that_a_run_does_not_rank_counts_as_nought() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
    runs = {"one": {"q1": {"a": 2.0}, "q9": {"c": 1.0}}, "two": {"q1": {"a": 2.0}, "q2": {"b": 1}}}
    measured = evaluate(JudgedRuns(qrels, runs), ["RR@10", "NumRet"], NO_RESAMPLES)
    assert values(measured) == {
        ("RR@10", "one"): 0.5,
        ("RR@10", "two"): 1.0,
        ("NumRet", "one"): 1,
        ("NumRet", "two"): 2,
    }


def test_auc_of_runs_is_over_the_judged_pairs_that_all_of_them_rank() -> None:
    qrels = {"q1": {"a": 1, "b": 0, "c": 1}, "q2": {"d": 0}, "q3": {"e": 1}}
    one = {"q1": {"a": 4.0, "b": 2.0, "c": 1.0, "x": 9.0}, "q2": {"d": 3.0}}
    two = {"q1": {"a": 4.0, "b": 5.0}, "q2": {"d": 4.0, "e": 1.0}, "q3": {"f": 1.0}}
    judged = JudgedRuns(qrels, {"one": one, "two": two})
    pairs = judged.as_pairs()
    assert list(zip(pairs.query_ids, pairs.passage_ids, strict=True)) == [
        ("q1", "a"), ("q1", "b"), ("q2", "d")
    ]  # fmt: skip
    # a against b and d: one wins both, two loses one and ties one
    assert values(evaluate(judged, ["AUC"], NO_RESAMPLES)) == {
        ("AUC", "one"): 1.0,
        ("AUC", "two"): 0.25,
    }


def test_pairs_are_ranked_query_by_query() -> None:
    pairs = JudgedPairs(
        ["q1", "q2", "q1", "q2"],
        ["a", "b", "c", "c"],
        np.array([1.0, 0.0, 0.0, 1.0]),
        {"one": np.array([1.0, 9.0, 5.0, 8.0])},
    )
    assert pairs.as_runs() == JudgedRuns(
        {"q1": {"a": 1, "c": 0}, "q2": {"b": 0, "c": 1}},
        {"one": {"q1": {"a": 1.0, "c": 5.0}, "q2": {"b": 9.0, "c": 8.0}}},
    )
    assert values(evaluate(pairs, ["RR@10"], NO_RESAMPLES)) == {("RR@10", "one"): 0.5}


def test_graded_labels_are_ranked_by_what_is_relevant() -> None:
    labels = np.array([0.7, 0.3, 1.0], np.float32)  # 0.7 in float32 is less than 0.7
    pairs = JudgedPairs(["q", "q", "q"], ["a", "b", "c"], labels, {"one": np.arange(3.0)})
    assert pairs.as_runs(0.7).qrels == {"q": {"a": 1, "b": 0, "c": 1}}
    assert relevant_pairs(labels, 0.7).tolist() == [True, False, True]
    with pytest.raises(SettingsError, match="labels such as 0.7: say with --relevant-from which"):
        evaluate(pairs, ["nDCG@10"], NO_RESAMPLES)


# ==== The bootstrap ====


def plainly(
    judged: JudgedPairs | JudgedRuns, name: str, bootstrap: Bootstrap
) -> tuple[float, float, float]:
    """Low, high and p by loops: each resample is written out and measured by other libraries."""
    queries = judged.queries
    draws = np.random.default_rng(bootstrap.seed).integers(
        len(queries), size=(bootstrap.resamples, len(queries))
    )

    def difference(rows: Any) -> float:
        found = []
        for system in ("two", "one"):
            if isinstance(judged, JudgedRuns):
                drawn = [(f"{row} {place}", queries[row]) for place, row in enumerate(rows)]
                found.append(
                    ir_measures.parse_measure(name).calc_aggregate(
                        {new: judged.qrels[old] for new, old in drawn},
                        {new: judged.runs[system].get(old, {"-": 0.0}) for new, old in drawn},
                    )
                )
                continue
            of = {query: [] for query in queries}
            for place, query in enumerate(judged.query_ids):
                of[query].append(place)
            places = [place for row in rows for place in of[queries[row]]]
            labels, scores = judged.labels[places], judged.scores[system][places]
            measure = roc_auc_score if name == "AUC" else lambda x, y: stats.pearsonr(x, y)[0]
            found.append(measure(labels, scores))
        return found[0] - found[1]

    real, resampled = difference(range(len(queries))), np.array([difference(r) for r in draws])
    far = sum(abs(each - real) >= abs(real) - 1e-12 for each in resampled)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high), (1 + far) / (1 + bootstrap.resamples)


@pytest.mark.parametrize(("name", "graded"), [("AUC", False), ("Pearson", True)])
def test_pairs_are_resampled_with_all_pairs_of_a_query(name: str, graded: bool) -> None:
    pairs, bootstrap = noisy_pairs(20, graded=graded), Bootstrap("one", resamples=200, seed=3)
    baseline, measured = evaluate(pairs, [name], bootstrap)
    assert measured[4:] == pytest.approx(plainly(pairs, name, bootstrap))
    assert measured.difference == pytest.approx(measured.value - baseline.value)


def test_ranking_measures_are_resampled_as_a_list_of_queries() -> None:
    random = np.random.default_rng(1)
    names = [f"p{number}" for number in range(12)]
    qrels = {
        f"q{query}": dict(zip(names, random.integers(0, 3, 12).tolist(), strict=True))
        for query in range(15)
    }
    runs = {
        system: {
            query: dict(zip(names, random.random(12).tolist(), strict=True))
            for query in list(qrels)[:13]
        }
        for system in ("one", "two")
    }
    judged, bootstrap = JudgedRuns(qrels, runs), Bootstrap("one", resamples=100, seed=2)
    measured = evaluate(judged, ["nDCG@10", "NumRet(rel=2)"], bootstrap)
    assert measured[1][4:] == pytest.approx(plainly(judged, "nDCG@10", bootstrap))
    # all twelve passages are ranked by both, so the totals cannot differ
    assert measured[3][3:] == (0, 0, 0, 1)


def test_the_interval_is_scipys_and_p_near_that_of_a_permutation_test() -> None:
    random = np.random.default_rng(5)
    one = random.random(150)
    two = np.clip(one + random.normal(0.02, 0.12, 150), 0, 1)
    names = [f"q{number}" for number in range(150)]
    # with ten relevant passages and n of them among the first ten, P@10 is n / 10
    one, two = one.round(1), two.round(1)
    qrels = {name: {f"p{place}": 1 for place in range(10)} for name in names}

    def run(found: Any) -> Run:
        return {
            name: {
                f"p{place}" if place < 10 * share else f"x{place}": -place for place in range(10)
            }
            for name, share in zip(names, found, strict=True)
        }

    judged = JudgedRuns(qrels, {"one": run(one), "two": run(two)})
    baseline, measured = evaluate(judged, ["P@10"], Bootstrap("one"))
    assert (baseline.value, measured.value) == pytest.approx((one.mean(), two.mean()))
    interval = stats.bootstrap(
        (two - one,), np.mean, method="percentile", n_resamples=9999, random_state=0
    ).confidence_interval
    assert (measured.low, measured.high) == pytest.approx(interval, abs=0.0015)
    permuted = stats.permutation_test(
        (one, two),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=9999,
        random_state=0,
    )
    assert 0.005 < permuted.pvalue < 0.2
    assert measured.p == pytest.approx(permuted.pvalue, abs=0.015)


def test_p_is_the_share_that_can_be_counted_by_hand() -> None:
    """One is better on one query of two, by 1; the real difference is -1/2.

    The four equally likely resamples differ by -1, -1/2, -1/2 and 0: two of them, the first and
    the last, lie 1/2 away from -1/2, as far as nought does. So p is 1/2.
    """
    runs = {"one": {"q1": {"a": 1.0}, "q2": {"b": 1.0}}, "two": {"q2": {"b": 1.0}}}
    judged = JudgedRuns({"q1": {"a": 1}, "q2": {"b": 1}}, runs)
    _, measured = evaluate(judged, ["RR@10"], Bootstrap("one", resamples=20_000))
    assert measured[2:6] == (0.5, -0.5, -1.0, 0.0)
    assert measured.p == pytest.approx(0.5, abs=0.015)  # four standard deviations


def test_a_system_equal_to_the_baseline_is_never_better() -> None:
    pairs = noisy_pairs()
    pairs = pairs._replace(scores={"one": pairs.scores["one"], "same": 2 * pairs.scores["one"]})
    for measured in evaluate(pairs, ["AUC", "nDCG@10"], Bootstrap("one", resamples=300))[1::2]:
        assert measured[3:] == (0, 0, 0, 1)


def test_the_seed_decides_and_the_size_of_a_block_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, measures = noisy_pairs(), ["AUC", "Pearson", "nDCG@10"]
    first = evaluate(pairs, measures, Bootstrap("one", resamples=300))
    assert evaluate(pairs, measures, Bootstrap("one", resamples=300, seed=1)) != first
    monkeypatch.setattr(evaluation, "CELLS_AT_ONCE", 1000)
    again = evaluate(pairs, measures, Bootstrap("one", resamples=300))
    for one, other in zip(first, again, strict=True):
        assert one[:2] == other[:2]
        compared = slice(2, 3 if one.p is None else None)
        assert one[compared] == pytest.approx(other[compared], rel=1e-9)


def test_resamples_without_both_classes_are_left_out() -> None:
    # q1 is drawn twice, or q2, in half of the resamples: only relevant pairs, or none
    pairs = JudgedPairs(
        ["q1", "q2"], ["a", "b"], np.array([1.0, 0.0]),
        {"one": np.array([1.0, 0.0]), "two": np.array([0.0, 1.0])},
    )  # fmt: skip
    _, measured = evaluate(pairs, ["AUC"], Bootstrap("one", resamples=500))
    assert measured[2:6] == (0.0, -1.0, -1.0, -1.0)
    assert measured.p == pytest.approx(1 / 251, rel=0.3)


def test_one_query_is_not_compared() -> None:
    runs = {"one": {"q": {"a": 1.0}}, "two": {"q": {"b": 1.0}}}
    measured = evaluate(JudgedRuns({"q": {"a": 1}}, runs), ["RR@10"], Bootstrap("one"))
    assert [each[2:] for each in measured] == [(1.0, *[None] * 4), (0.0, *[None] * 4)]


# ==== What cannot be measured ====


def test_measures_are_named_as_they_are_printed() -> None:
    assert check_measures(["auc", "MRR@10", "pearson", "RR@10", "P(rel=2)@5"]) == [
        "AUC", "RR@10", "Pearson", "P(rel=2)@5"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["F1", "nDCG@", "nDCG(k=3)", "nDCG@0", "P", "import os", ""])
def test_unknown_measures_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="unknown measure .*: expected AUC, Pearson or a name"):
        check_measures(["AUC", name])


def test_all_unknown_measures_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match="unknown measure F1, nDCG@ten: expected"):
        check_measures(["F1", "R@100", "nDCG@ten"])


def test_a_measure_that_needs_another_program_says_which() -> None:
    with pytest.raises(SettingsError, match="RBP.rel=1. cannot be computed here.*cwl_eval"):
        check_measures(["RBP(rel=1)"])


def test_without_ir_measures_auc_is_measured_and_others_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    assert len(evaluate(noisy_pairs(), ["AUC", "Pearson"], NO_RESAMPLES)) == 4
    with pytest.raises(MissingPackageError, match=r"nDCG@10.* needs ir-measures, which is not"):
        check_measures(["nDCG@10"])


def test_labels_that_fit_no_measure_are_refused_before_anything_is_scored() -> None:
    def labelled(*labels: float) -> JudgedPairs:
        names = [f"p{row}" for row in range(len(labels))]
        return JudgedPairs(["q"] * len(labels), names, np.array(labels), {})

    check_labels(labelled(1, 3), ["AUC", "Pearson", "nDCG@10"])
    check_labels(labelled(1, 2, 3), ["AUC"], relevant_from=2)
    with pytest.raises(SettingsError, match=r"there are 3 different labels \(0, 0.5, 1\): say"):
        check_labels(labelled(0, 0.5, 1), ["AUC"])
    with pytest.raises(FormatError, match="AUC needs .* but each label is 1: leave it out"):
        check_labels(labelled(1, 1), ["AUC"])
    with pytest.raises(FormatError, match="--relevant-from 4 makes none of the 3 .* from 1 to 3"):
        check_labels(labelled(1, 2, 3), ["AUC"], relevant_from=4)
    with pytest.raises(FormatError, match="Pearson needs .* the labels for 2 judged pairs do not"):
        check_labels(labelled(1, 1), ["Pearson"])
    twice = labelled(0, 1)._replace(passage_ids=["p", "p"])
    with pytest.raises(FormatError, match="query q and passage p have two labels"):
        check_labels(twice, ["nDCG@10"])


def test_scores_that_are_all_the_same_have_no_correlation_and_half_the_area() -> None:
    pairs = noisy_pairs()
    pairs = pairs._replace(scores={"one": np.zeros(len(pairs.labels))})
    assert values(evaluate(pairs, ["AUC"], NO_RESAMPLES)) == {("AUC", "one"): 0.5}
    with pytest.raises(FormatError, match="the scores of one for .* judged pairs do not"):
        evaluate(pairs, ["Pearson"], NO_RESAMPLES)


def test_runs_that_share_no_judged_pair_have_no_area() -> None:
    runs = {"one": {"q1": {"a": 1.0}}, "two": {"q1": {"b": 1.0}}}
    with pytest.raises(FormatError, match="AUC needs .* but there are none"):
        evaluate(JudgedRuns({"q1": {"a": 1, "b": 0}}, runs), ["AUC"], NO_RESAMPLES)
