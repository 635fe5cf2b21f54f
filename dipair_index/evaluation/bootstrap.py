"""Measures of several systems, and the significance of their differences.

    judgements + every system's scores ─► measures ─► values ─► differences to a baseline
    resampled queries ─► the same measures ─► interval and p-value of each difference

Significance follows the paired bootstrap of Berg-Kirkpatrick et al. (2012), which DiPair uses: a
resample draws as many queries as there are, with replacement, and all systems see the same draws.
For AUC and Pearson queries are drawn with all their pairs, which depend on each other. Deviation:
p-values are two-sided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dipair_index.errors import FormatError, SettingsError
from dipair_index.evaluation.measures import (
    PAIR_MEASURES,
    Floats,
    Statistic,
    Values,
    auc_statistic,
    check_measures,
    pearson_statistic,
    ranking_statistics,
    relevant_pairs,
)
from dipair_index.records import Qrels, Run

CELLS_AT_ONCE = 2**21  # of a block of resamples: arrays of 16 MiB


class Bootstrap(NamedTuple):
    """The system that the others are compared with, and the number of resamples; 0 for none."""

    baseline: str
    resamples: int = 10_000
    seed: int = 0


class Measured(NamedTuple):
    """One system by one measure, and its difference to the baseline.

    `low` and `high` bound 95 % of the resampled differences. `p` is the share of resamples whose
    difference is as far from the observed difference as zero is. All are None without comparison.
    """

    measure: str
    system: str
    value: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


class JudgedPairs(NamedTuple):
    """Judged pairs, and the score that each system gives them, all of shape (pairs,)."""

    query_ids: Sequence[str]
    passage_ids: Sequence[str]
    labels: Values
    scores: Mapping[str, Values]

    @property
    def queries(self) -> list[str]:
        """The judged queries."""
        return list(dict.fromkeys(self.query_ids))

    @property
    def systems(self) -> list[str]:
        """The systems, in the order given."""
        return list(self.scores)

    def as_runs(self, relevant_from: float | None = None) -> JudgedRuns:
        """Each query's pairs as a ranking; labels that are no whole numbers become 0 and 1.

        Raises `SettingsError` if these lack `relevant_from`, from which on a label becomes 1, and
        `FormatError` if a pair has two labels.
        """
        grades = self.labels
        fractions = grades[grades != np.rint(grades)]
        if len(fractions):
            if relevant_from is None:
                raise SettingsError(
                    "ranking measures need whole grades, and there are labels such as "
                    f"{fractions[0]:g}: say with --relevant-from which are relevant, or measure "
                    "Pearson"
                )
            grades = (grades >= relevant_from).astype(grades.dtype)
        qrels: Qrels = {}
        runs: dict[str, Run] = {name: {} for name in self.scores}
        for place, (query_id, passage_id) in enumerate(
            zip(self.query_ids, self.passage_ids, strict=True)
        ):
            grade = int(grades[place])
            if qrels.setdefault(query_id, {}).setdefault(passage_id, grade) != grade:
                raise FormatError(
                    f"query {query_id} and passage {passage_id} have two labels, which ranking "
                    "measures cannot use: keep one, or measure AUC or Pearson"
                )
            for name, scores in self.scores.items():
                runs[name].setdefault(query_id, {})[passage_id] = float(scores[place])
        return JudgedRuns(qrels, runs)


class JudgedRuns(NamedTuple):
    """Judgements, and the run of each system.

    Every judged query counts, as 0 where a run does not rank it: trec_eval's `-c`, and what
    ir-measures does. Queries without judgements are left out.
    """

    qrels: Qrels
    runs: Mapping[str, Run]

    @property
    def queries(self) -> list[str]:
        """The judged queries."""
        return list(self.qrels)

    @property
    def systems(self) -> list[str]:
        """The systems, in the order given."""
        return list(self.runs)

    def as_pairs(self) -> JudgedPairs:
        """The judged pairs that every run ranks: others have no scores to compare."""
        pairs = [
            (query_id, passage_id, relevance)
            for query_id, judged in self.qrels.items()
            for passage_id, relevance in judged.items()
            if all(passage_id in run.get(query_id, {}) for run in self.runs.values())
        ]
        return JudgedPairs(
            [query_id for query_id, _, _ in pairs],
            [passage_id for _, passage_id, _ in pairs],
            np.array([relevance for _, _, relevance in pairs], np.float64),
            {
                name: np.array([run[query_id][passage_id] for query_id, passage_id, _ in pairs])
                for name, run in self.runs.items()
            },
        )


def evaluate(
    judged: JudgedPairs | JudgedRuns,
    measures: Sequence[str],
    bootstrap: Bootstrap,
    relevant_from: float | None = None,
) -> list[Measured]:
    """Measures every system, measure by measure, and compares it with the baseline.

    `relevant_from` is the label from which on a pair is relevant, for AUC. Raises `FormatError` if
    a measure is not defined for these judgements and scores, and what `check_measures`,
    `relevant_pairs` and `pearson_statistic` raise.
    """
    measures = check_measures(measures)
    queries, systems = len(judged.queries), judged.systems
    baseline = systems.index(bootstrap.baseline)
    statistics, cells = _statistics(judged, measures, relevant_from)
    resamples: dict[str, list[Floats]] = {name: [] for name in measures}
    # one query is each of its own resamples, which would look certain
    if min(queries, len(systems)) > 1:
        for weights in _drawn(queries, bootstrap, rows=max(1, CELLS_AT_ONCE // cells)):
            for name in measures:
                resamples[name].append(statistics[name](weights))
    measured: list[Measured] = []
    for name in measures:
        values = statistics[name](np.ones((1, queries)))[0]
        if not np.isfinite(values).all():
            raise FormatError(f"{name} has no value for these judgements and scores: leave it out")
        resampled = np.concatenate(resamples[name] or [np.empty((0, len(systems)))])
        measured += _compared(name, systems, values, resampled, baseline)
    return measured


def check_labels(
    pairs: JudgedPairs, measures: Sequence[str], relevant_from: float | None = None
) -> None:
    """Raises the errors of `evaluate` about labels, before models spend hours on scores."""
    _statistics(pairs._replace(scores={}), check_measures(measures), relevant_from)


def _statistics(
    judged: JudgedPairs | JudgedRuns, measures: Sequence[str], relevant_from: float | None
) -> tuple[dict[str, Statistic], int]:
    """Returns each measure's statistic, and the numbers a resample takes to compute."""
    statistics: dict[str, Statistic] = {}
    cells = len(judged.queries)
    if of_rankings := [name for name in measures if name not in PAIR_MEASURES]:
        runs = judged if isinstance(judged, JudgedRuns) else judged.as_runs(relevant_from)
        statistics |= ranking_statistics(of_rankings, *runs)
    if set(measures) & set(PAIR_MEASURES):
        pairs = judged if isinstance(judged, JudgedPairs) else judged.as_pairs()
        cells = max(cells, len(pairs.labels))
        row_of = {query_id: row for row, query_id in enumerate(judged.queries)}
        rows = np.array([row_of[query_id] for query_id in pairs.query_ids], np.int64)
    if "AUC" in measures:
        relevant = relevant_pairs(pairs.labels, relevant_from)
        statistics["AUC"] = auc_statistic(relevant, pairs.scores.values(), rows)
    if "Pearson" in measures:
        statistics["Pearson"] = pearson_statistic(pairs.labels, pairs.scores, rows, len(row_of))
    return statistics, cells


def _drawn(queries: int, bootstrap: Bootstrap, rows: int) -> Iterator[Floats]:
    """Yields how often each query is drawn, (up to `rows` resamples, queries)."""
    random = np.random.default_rng(bootstrap.seed)
    for start in range(0, bootstrap.resamples, rows):
        count = min(rows, bootstrap.resamples - start)
        drawn = random.integers(queries, size=(count, queries))
        drawn += queries * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * queries)
        yield counts.reshape(count, queries).astype(np.float64)


def _compared(
    measure: str, systems: Sequence[str], values: Floats, resampled: Floats, baseline: int
) -> Iterator[Measured]:
    """Yields each system with what its resampled (resamples, systems) differences say."""
    for place, system in enumerate(systems):
        measured = Measured(measure, system, float(values[place]))
        differences = resampled[:, place] - resampled[:, baseline]
        # a resample without both classes has no AUC
        differences = differences[np.isfinite(differences)]
        if place == baseline or not len(differences):
            yield measured
            continue
        difference = values[place] - values[baseline]
        # less a little, for sums that differ in their last digits only
        far = np.abs(differences - difference) >= abs(difference) - 1e-12
        low, high = np.percentile(differences, [2.5, 97.5])
        yield measured._replace(
            difference=float(difference),
            low=float(low),
            high=float(high),
            # the real sample counts as one more resample, so that p is never zero
            p=float((1 + far.sum()) / (1 + len(differences))),
        )
