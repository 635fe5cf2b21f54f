"""Measures as functions of query weights, which give both a value and its resamples.

A statistic takes weights (resamples, queries) and returns values (resamples, systems). Weights of
one give a measure's value; how often a query was drawn gives its value on a resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dipair_index.errors import FormatError, SettingsError
from dipair_index.optional import require
from dipair_index.records import Qrels, Run
from dipair_index.words import counted

Floats: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = npt.NDArray[np.floating[Any]]
"""Labels or scores in their own precision: 0.7 in float32 reaches a threshold of 0.7."""
Mask: TypeAlias = npt.NDArray[np.bool_]
Rows: TypeAlias = npt.NDArray[np.int64]

Statistic: TypeAlias = Callable[[Floats], Floats]

PAIR_MEASURES = ("AUC", "Pearson")
"""Measures over all judged pairs at once; the others are ir-measures', one value a query."""


def check_measures(names: Sequence[str]) -> list[str]:
    """Returns the names as they are printed, each once.

    Raises `SettingsError` if some are unknown, naming all of them, or if one cannot be computed.
    """
    of_pairs = {name.casefold(): name for name in PAIR_MEASURES}
    known = {name: of_pairs.get(name.casefold()) or _parsed(name) for name in names}
    unknown = [name for name, measure in known.items() if measure is None]
    if unknown:
        raise SettingsError(
            f"unknown measure {', '.join(unknown)}: expected AUC, Pearson or a name of ir-measures "
            "such as nDCG@10, RR(rel=2)@10 or R@100"
        )
    return list(dict.fromkeys(map(str, known.values())))


def relevant_pairs(labels: Values, relevant_from: float | None = None) -> Mask:
    """Which pairs are relevant: those from a grade on, or those with the higher of two labels.

    Raises `SettingsError` if there are more than two grades without `relevant_from`, and
    `FormatError` if there are not two classes.
    """
    grades = np.unique(labels)
    if relevant_from is None and len(grades) > 2:
        shown = ", ".join(f"{grade:g}" for grade in grades[:4])
        raise SettingsError(
            f"AUC needs two classes, and there are {len(grades)} different labels ({shown}"
            f"{', ...' if len(grades) > 4 else ''}): say with --relevant-from which are relevant"
        )
    if len(grades) < 2:
        found = f"each label is {grades[0]:g}" if len(grades) else "there are none"
        raise FormatError(f"AUC needs relevant and other judged pairs, but {found}: leave it out")
    relevant: Mask = labels >= (grades[-1] if relevant_from is None else relevant_from)
    if relevant.all() or not relevant.any():
        raise FormatError(
            f"--relevant-from {relevant_from:g} makes {'all' if relevant.all() else 'none'} of the "
            f"{counted(len(labels), 'judged pair')} relevant, and AUC needs both: choose one of "
            f"the labels, which go from {grades[0]:g} to {grades[-1]:g}"
        )
    return relevant


def auc_statistic(relevant: Mask, scores: Iterable[Values], rows: Rows) -> Statistic:
    """AUC-ROC of each system's `scores` (pairs,); `rows` (pairs,) are the indices of their queries.

    The share of (relevant, other) pairs in which the relevant one scores higher, ties half.
    """
    prepared = []
    for system in scores:
        order = np.argsort(system, kind="stable")
        positive, negative = order[relevant[order]], order[~relevant[order]]
        below = np.searchsorted(system[negative], system[positive], side="left")
        not_above = np.searchsorted(system[negative], system[positive], side="right")
        prepared.append((rows[positive], rows[negative], below, not_above))

    def statistic(weights: Floats) -> Floats:
        values = np.empty((len(weights), len(prepared)))
        for place, (positive, negative, below, not_above) in enumerate(prepared):
            up_to = np.zeros((len(weights), len(negative) + 1))
            np.cumsum(weights[:, negative], axis=1, out=up_to[:, 1:])
            wins, weight = (up_to[:, below] + up_to[:, not_above]) / 2, weights[:, positive]
            pairs = weight.sum(1) * up_to[:, -1]
            values[:, place] = _ratio(np.einsum("rp,rp->r", weight, wins), pairs)
        return values

    return statistic


def area_under_curve(relevant: Mask, scores: Values) -> float | None:
    """AUC-ROC of one system's scores, (pairs,); None if there is one class only."""
    if relevant.all() or not relevant.any():
        return None
    statistic = auc_statistic(relevant, [scores], np.zeros(len(scores), np.int64))
    return float(statistic(np.ones((1, 1)))[0, 0])


def pearson_statistic(
    labels: Values, scores: Mapping[str, Values], rows: Rows, queries: int
) -> Statistic:
    """Pearson's correlation of labels and scores, as `auc_statistic`, from sums over each query.

    Raises `FormatError` if labels or scores are all equal.
    """
    for what, values in (("labels", labels), *scores.items()):
        if not len(values) or np.ptp(values) == 0:
            what = what if what == "labels" else f"scores of {what}"
            raise FormatError(
                f"Pearson needs values that differ, and the {what} for "
                f"{counted(len(values), 'judged pair')} do not: leave it out"
            )

    def sums(values: Floats) -> Floats:
        return np.bincount(rows, weights=values, minlength=queries).astype(np.float64)

    x = _standardised(labels)
    of_labels = np.stack([sums(np.ones_like(x)), sums(x), sums(x * x)], axis=1)
    of_scores = [
        np.stack([sums(y), sums(y * y), sums(x * y)], axis=1)
        for y in map(_standardised, scores.values())
    ]

    def statistic(weights: Floats) -> Floats:
        n, x, xx = (weights @ of_labels).T
        values = []
        for system in of_scores:
            y, yy, xy = (weights @ system).T
            spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
            values.append(_ratio(n * xy - x * y, np.sqrt(spread)))
        return np.stack(values, axis=1)

    return statistic


def ranking_statistics(
    names: Sequence[str], qrels: Qrels, runs: Mapping[str, Run]
) -> dict[str, Statistic]:
    """ir-measures' values of each query of `qrels`, averaged (or added up, as its counts are)."""
    measures = {_parsed(name): name for name in names}
    import ir_measures

    row_of = {query_id: row for row, query_id in enumerate(qrels)}
    values = {name: np.full((len(qrels), len(runs)), np.nan) for name in names}
    for place, (system, run) in enumerate(runs.items()):
        try:
            for query_id, measure, value in ir_measures.iter_calc(list(measures), qrels, run):
                values[measures[measure]][row_of[query_id], place] = value
        except Exception as error:  # it calls programs and libraries of many kinds
            bad = _uncomputable(measures, qrels, run)
            raise SettingsError(
                f"ir-measures cannot compute {', '.join(bad or names)} of {system} ({error}): "
                "leave it out"
            ) from error
    return {
        name: _aggregated(values[name], isinstance(measure.aggregator(), ir_measures.SumAgg))
        for measure, name in measures.items()
    }


def _uncomputable(measures: Mapping[Any, str], qrels: Qrels, run: Run) -> list[str]:
    """The names of the measures that fail one by one, too."""
    import ir_measures

    failed = []
    for measure, name in measures.items():
        try:
            list(ir_measures.iter_calc([measure], qrels, run))
        except Exception:  # of the same kinds
            failed.append(name)
    return failed


def _aggregated(values: Floats, total: bool) -> Statistic:
    """Statistic of values (queries, systems), NaN if missing: their mean, or their total."""
    known = np.isfinite(values)
    filled, present = np.where(known, values, 0.0), known.astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        summed: Floats = weights @ filled
        return summed if total else _ratio(summed, weights @ present)

    return statistic


def _parsed(name: str) -> Any:
    """The object of ir-measures, None if there is no such measure."""
    require("evaluate", f"the measure {name}, unlike AUC and Pearson,")
    import ir_measures

    try:
        measure: Any = ir_measures.parse_measure(name)
        measure.validate_params()
    except (ValueError, NameError, KeyError, AssertionError):
        return None
    if measure.params.get("cutoff", 1) < 1:  # trec_eval would end the whole process
        return None
    try:
        ir_measures.evaluator([measure], {})
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"{name} cannot be computed here: {reason}") from error
    return measure


def _standardised(values: Values) -> Floats:
    """Centred and of unit spread, so that sums of squares lose no digits."""
    exact = values.astype(np.float64)
    standardised: Floats = (exact - exact.mean()) / exact.std()
    return standardised


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio = np.full_like(above, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio
