"""An index: how alike its tokens are, which of them queries meet, and how many could be dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.evaluation.measures import ranking_statistics
from dipair_index.records import FloatArray, Qrels, Query, Run
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.inspection.pair import Redundancy, token_similarities
from dipair_index.rerank.inspection.words import present
from dipair_index.stores.snapshot import Snapshot

SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)
"""The shares of each passage's tokens that are kept, for `UsedTokens.kept`."""
MEASURE = "nDCG@10"
CUT = 10


class Kept(NamedTuple):
    """The ranking with a share of each passage's tokens, on average `tokens` of them."""

    share: float
    tokens: float
    measure: float


class UsedTokens(NamedTuple):
    """What is found of a sample of an index's passages, and of the candidates of queries.

    `met` is the share of a candidate's tokens that are the most similar one to some token of a
    query, over all queries whose candidate it is. `judged` tells whether nDCG@10 is by judgements;
    otherwise it is by the order with all tokens, whose first ten have the gains ten to one.
    """

    passages: int
    tokens: float
    mean_cosine: float
    effective_rank: float
    queries: int
    candidates: int
    met: float
    judged: bool
    kept: list[Kept]

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        return {**self._asdict(), "kept": [each._asdict() for each in self.kept]}


def inspect_index(
    index: DiPairIndex,
    snapshot: Snapshot,
    encoder: DualEncoder,
    queries: Sequence[Query],
    qrels: Qrels | None,
    *,
    sample: int,
    candidates: int,
    report: Callable[[int], None] = lambda count: None,
) -> UsedTokens:
    """Inspects `sample` passages of an index, evenly spaced, and the candidates of queries.

    `snapshot` is of the same index, and `encoder` its model's. A head that knows no absent tokens,
    such as `tsf`, reads zeros in place of those that are dropped. `report` is called with the
    number of queries done. Raises `SettingsError` if ir-measures cannot compute the measure.
    """
    alike = [Redundancy.of(each) for each in snapshot.tokens(evenly_spaced(snapshot, sample))]
    runs: dict[float, Run] = {share: {} for share in SHARES}
    left: dict[float, list[int]] = {share: [] for share in SHARES}
    met: dict[str, npt.NDArray[np.bool_]] = {}
    for done, query in enumerate(queries, start=1):
        ids = [hit.id for hit in index.search(query.text, candidates, candidates, rerank=False)]
        asked = encoder.encode_queries([query.text]).tokens[0]
        tokens = snapshot.tokens(ids)
        for passage_id, each in zip(ids, tokens, strict=True):
            nearest = token_similarities(encoder, asked, each).argmax(1)
            met.setdefault(passage_id, np.zeros(each.any(-1).sum(), bool))[nearest] = True
        for share in SHARES:
            fewer = np.stack([without_the_most_alike(each, share) for each in tokens])
            left[share] += fewer.any(-1).sum(-1).tolist()
            logits = index.scorer.logits(asked, fewer)
            runs[share][query.query_id] = dict(zip(ids, logits.tolist(), strict=True))
        report(done)
    gains = qrels if qrels is not None else _gains(runs[1.0])
    gains = {query.query_id: gains[query.query_id] for query in queries if query.query_id in gains}
    statistic = ranking_statistics([MEASURE], gains, {str(s): run for s, run in runs.items()})
    values = statistic[MEASURE](np.ones((1, len(gains))))[0]
    used = np.concatenate(list(met.values()))
    return UsedTokens(
        len(alike),
        float(np.mean([each.tokens for each in alike])),
        float(np.mean([each.mean_cosine for each in alike])),
        float(np.mean([each.effective_rank for each in alike])),
        len(queries),
        len(met),
        float(used.mean()),
        qrels is not None,
        [
            Kept(share, float(np.mean(left[share])), float(value))
            for share, value in zip(SHARES, values, strict=True)
        ],
    )


def evenly_spaced(snapshot: Snapshot, count: int) -> list[str]:
    """Returns the ids of `count` passages of an index, evenly spaced; of all if it has fewer."""
    places = range(0, len(snapshot), max(1, len(snapshot) // count))[:count]
    return [passage_id for at in places for passage_id in snapshot.ids_between(at, at + 1)]


def without_the_most_alike(tokens: FloatArray, share: float) -> FloatArray:
    """Returns tokens (kept, dim) with all but a share of those that are there set to zero.

    One after the other, the shorter one of the two most similar tokens is dropped.
    """
    there = np.flatnonzero(tokens.any(-1))
    drop = len(there) - max(1, round(share * len(there)))
    if drop <= 0:
        return tokens
    unit = present(tokens)
    lengths = np.linalg.norm(tokens[there], axis=-1)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    fewer = tokens.copy()
    for _ in range(drop):
        pair = np.array(np.unravel_index(int(cosines.argmax()), cosines.shape))
        worst = pair[lengths[pair].argmin()]
        cosines[worst] = cosines[:, worst] = -np.inf
        fewer[there[worst]] = 0
    return fewer


def _gains(run: Run) -> Qrels:
    """Returns the first ten of each ranking with the gains ten to one."""
    return {
        query_id: {
            passage_id: CUT - place
            for place, passage_id in enumerate(sorted(scores, key=lambda each: -scores[each])[:CUT])
        }
        for query_id, scores in run.items()
    }
