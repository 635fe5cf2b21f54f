"""Q2P-MAT after appendix B of DiPair: judged pairs, mined negatives, and a transfer set.

Positives are the judged pairs; negatives are drawn from the `top_k_negatives` passages nearest
to a query by sentence vectors, among those that score below a threshold, as many as positives;
the transfer set is the `transfer_top_k` nearest passages of every train and unlabelled query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dipair_index.data.directory import write_record
from dipair_index.data.layout import DatasetLayout
from dipair_index.data.mining import Pairs, candidates_of, sample_negatives
from dipair_index.data.neighbours import KeptIndex, KeptVectors
from dipair_index.data.splits import SplitQueries, split_queries
from dipair_index.digests import TextsDigest
from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import FormatError, SettingsError
from dipair_index.evaluation.measures import area_under_curve
from dipair_index.formats.judged_files import JudgedFiles
from dipair_index.formats.tables import ROWS_PER_GROUP, write_table, write_tables
from dipair_index.progress import Progress
from dipair_index.records import SPLITS, FloatArray, Passage, Qrels

MAX_SCORE_OF_USE = 0.53
"""Appendix B's threshold, which belongs to the scores of the Universal Sentence Encoder."""
LIKE_PERCENTILE = 92.0
"""For embedders of another scale: the percent of USE's candidates that score below 0.53, measured
with the 12 K train queries and 51 K passages of an MS MARCO subset (91.9)."""
QUERIES_PER_GROUP = 1024


@dataclass(frozen=True)
class DatasetSettings:
    """How negatives and transfer pairs are chosen; with no threshold, the embedder's default."""

    max_score: float | None = None
    max_score_percentile: float | None = None
    top_k_negatives: int = 30
    transfer_top_k: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_score is not None and self.max_score_percentile is not None:
            raise SettingsError("give --max-score or --max-score-percentile, not both")
        if self.max_score_percentile is not None and not 0 < self.max_score_percentile <= 100:
            raise SettingsError(
                f"--max-score-percentile {self.max_score_percentile:g} is out of range: "
                "expected more than 0 and at most 100"
            )
        if min(self.top_k_negatives, self.transfer_top_k) < 1:
            raise SettingsError("--top-k-negatives and --transfer-top-k must be 1 or more")
        if self.seed < 0:
            raise SettingsError(f"--seed must be 0 or more, got {self.seed}")


def build_dataset(
    files: JudgedFiles,
    layout: DatasetLayout,
    embedder: SentenceEmbedder,
    index: KeptIndex,
    settings: DatasetSettings,
    *,
    progress: Progress,
    unlabelled: Sequence[Path] = (),
) -> dict[str, Any]:
    """Fills the directory and returns what its `dataset.json` says.

    The same input, settings and seed give the same bytes in every file. What an interrupted or
    an earlier run has left in the directory is taken over where it was made from the same texts
    by the same embedder. Raises `FormatError` for files that do not fit together.
    """
    with progress("reading passages", "passages") as report:
        passages = _CollectedPassages(files.iter_passages(), layout, report)
    by_split = files.read_queries()
    qrels = files.read_qrels(by_split, passages.rows.keys())
    queries = split_queries(by_split, qrels, unlabelled, settings.seed)
    positives, judgements = _judged_positives(queries, qrels, passages.rows)
    if "train" not in {queries.splits[row] for row in positives.queries}:
        raise FormatError(f"{files.train_qrels} judges nothing 1 or more: there is no positive")
    columns = {"query_id": queries.ids, "text": queries.texts, "split": queries.splits}
    write_table(pa.table(columns), layout.queries)
    key = {
        "embedder": embedder.name,
        "embedder_fingerprint": embedder.fingerprint,
        "passages_digest": passages.digest,
    }
    kept = KeptVectors(layout, embedder, key, progress)
    if not index.take_over(key):
        vectors = kept.of_passages(len(passages.ids))
        with progress("building the index", "passages"):
            index.build(passages.ids, vectors, key)
    query_vectors = kept.of_queries(queries.texts, queries.digest)
    top_k = min(max(settings.top_k_negatives, settings.transfer_top_k), len(passages.ids))
    neighbours = kept.neighbours(query_vectors, queries.digest, index, passages.rows, top_k)
    scores = kept.scores(query_vectors, positives, judgements)
    pairs = _PairWriter(layout, queries, passages, neighbours)
    record = pairs.write_splits(positives._replace(scores=scores), embedder.name, settings)
    record["table"]["transfer"] = pairs.write_transfer(settings.transfer_top_k)
    record |= {
        "dataset": files.kind,
        "embedder": {**key, "dim": embedder.dim},
        "ann": index.kind,
        "passages": len(passages.ids),
        "queries": len(queries.ids),
        "queries_digest": queries.digest,
        "judgements_digest": judgements,
        "left_out": {
            "dev queries without a positive": queries.dev_without_positive,
            "unlabelled queries already there": queries.unlabelled_already_there,
            "unlabelled queries that are held out": queries.unlabelled_held_out,
        },
    }
    for suffix in (".npy", ".json"):  # the index holds the vectors, in its own way
        layout.kept("passage_vectors").with_suffix(suffix).unlink(missing_ok=True)
    return write_record(layout, record)


class _CollectedPassages:
    """The collection, copied to `passages.parquet`; a row is a place in that table."""

    def __init__(
        self, passages: Iterator[Passage], layout: DatasetLayout, report: Callable[[int], None]
    ) -> None:
        self.ids: list[str] = []
        words: list[int] = []
        digest = TextsDigest()
        schema = pa.schema([("passage_id", pa.string()), ("text", pa.string())])

        def tables() -> Iterator[pa.Table]:
            while batch := list(islice(passages, ROWS_PER_GROUP)):
                ids = [passage.passage_id for passage in batch]
                texts = [passage.full_text for passage in batch]
                digest.update(ids, texts)
                self.ids.extend(ids)
                words.extend(len(text.split()) for text in texts)
                report(len(self.ids))
                yield pa.table({"passage_id": ids, "text": texts}, schema=schema)

        write_tables(tables(), layout.passages, schema)
        self.rows = {passage_id: row for row, passage_id in enumerate(self.ids)}
        self.words = np.array(words, np.int64)
        self.digest = digest.hexdigest()


def _judged_positives(
    queries: SplitQueries, qrels: Qrels, rows: dict[str, int]
) -> tuple[Pairs, str]:
    """Judged pairs of relevance 1 or more, by query and then row, and a digest of them."""
    found = [
        (query_row, rows[passage_id])
        for query_row, query_id in enumerate(queries.ids)
        for passage_id, relevance in qrels.get(query_id, {}).items()
        if relevance >= 1 and queries.splits[query_row] != "unlabelled"
    ]
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    digest = hashlib.sha256(queries.digest.encode() + pairs.tobytes()).hexdigest()[:16]
    return Pairs(pairs[:, 0], pairs[:, 1], np.zeros(len(pairs), np.float32)), digest


class _PairWriter:
    """Writes the tables of pairs, and counts them in the shape of DiPair's table 1."""

    def __init__(
        self,
        layout: DatasetLayout,
        queries: SplitQueries,
        passages: _CollectedPassages,
        neighbours: npt.NDArray[np.void],
    ) -> None:
        self._layout = layout
        self._splits = np.array(queries.splits)
        self._neighbours = neighbours
        self._query_ids = pa.array(queries.ids, pa.string())
        self._passage_ids = pa.array(passages.ids, pa.string())
        self._query_words = np.array([len(text.split()) for text in queries.texts], np.int64)
        self._passage_words = passages.words

    def write_splits(
        self, positives: Pairs, embedder: str, settings: DatasetSettings
    ) -> dict[str, Any]:
        """Writes train, valid and test; returns their counts, the threshold and the AUC."""
        judged = {split: self._of_split(positives, split) for split in SPLITS}
        near = {
            split: candidates_of(
                np.unique(pairs.queries), self._neighbours, pairs, settings.top_k_negatives
            )
            for split, pairs in judged.items()
        }
        # one threshold for all splits, found without a look at the held-out ones
        threshold, percentile = _threshold(near["train"].scores, embedder, settings)
        table = {}
        for number, split in enumerate(SPLITS):
            below = near[split].of(near[split].scores < threshold)
            random = np.random.default_rng([settings.seed, number])
            negatives = sample_negatives(below, judged[split], random)
            table[split] = self._write_split(split, judged[split], negatives)
            table[split]["candidates"] = len(near[split].scores)
            table[split]["share_below_threshold"] = (
                round(len(below.scores) / len(near[split].scores), 4)
                if near[split].scores.size
                else None
            )
        return {
            "table": table,
            "parameters": {
                "max_score": None if np.isinf(threshold) else threshold,
                "max_score_percentile": percentile,
                "top_k_negatives": settings.top_k_negatives,
                "transfer_top_k": settings.transfer_top_k,
                "seed": settings.seed,
            },
        }

    def write_transfer(self, top_k: int) -> dict[str, Any]:
        """Writes the nearest passages of every query that is not held out."""
        rows = np.flatnonzero(np.isin(self._splits, ("train", "unlabelled")))
        schema = pa.schema(
            [
                ("query_id", pa.string()),
                ("passage_id", pa.string()),
                ("rank", pa.int32()),
                ("score", pa.float32()),
            ]
        )
        seen = np.zeros(len(self._passage_words), bool)

        def tables() -> Iterator[pa.Table]:
            for start in range(0, len(rows), QUERIES_PER_GROUP):
                block = rows[start : start + QUERIES_PER_GROUP]
                nearest = self._neighbours[block, :top_k]
                place = nearest["passage"] >= 0
                passages = nearest["passage"][place]
                seen[passages] = True
                queries = np.repeat(block, place.sum(1))
                ranks = np.broadcast_to(np.arange(1, nearest.shape[1] + 1), place.shape)[place]
                columns = {
                    "query_id": self._query_ids.take(pa.array(queries)),
                    "passage_id": self._passage_ids.take(pa.array(passages)),
                    "rank": pa.array(ranks, pa.int32()),
                    "score": pa.array(nearest["score"][place], pa.float32()),
                }
                yield pa.table(columns, schema=schema)

        return {
            "pairs": write_tables(tables(), self._layout.transfer, schema),
            "queries": len(rows),
            "unlabelled_queries": int((self._splits == "unlabelled").sum()),
            "mean_passage_words": _mean(self._passage_words[seen]),
            "mean_query_words": _mean(self._query_words[rows]),
        }

    def _of_split(self, pairs: Pairs, split: str) -> Pairs:
        return pairs.of(self._splits[pairs.queries] == split)

    def _write_split(self, split: str, positives: Pairs, negatives: Pairs) -> dict[str, Any]:
        both = Pairs(
            np.concatenate([positives.queries, negatives.queries]),
            np.concatenate([positives.passages, negatives.passages]),
            np.concatenate([positives.scores, negatives.scores]),
        )
        labels = np.repeat(
            np.array([1, 0], np.float32), [len(positives.scores), len(negatives.scores)]
        )
        order = np.lexsort((-labels, both.queries))  # stable: each query's positives first
        columns = {
            "query_id": self._query_ids.take(pa.array(both.queries[order])),
            "passage_id": self._passage_ids.take(pa.array(both.passages[order])),
            "label": pa.array(labels[order]),
            "score": pa.array(both.scores[order].astype(np.float32)),
        }
        write_table(pa.table(columns), self._layout.pairs(split))
        auc = area_under_curve(labels > 0, both.scores)
        return {
            "pairs": len(labels),
            "positives": len(positives.scores),
            "negatives_missing": len(positives.scores) - len(negatives.scores),
            "queries": len(np.unique(both.queries)),
            "mean_passage_words": _mean(self._passage_words[np.unique(both.passages)]),
            "mean_query_words": _mean(self._query_words[np.unique(both.queries)]),
            "miner_auc": None if auc is None else round(auc, 4),
        }


def _threshold(
    scores: FloatArray, embedder: str, settings: DatasetSettings
) -> tuple[float, float | None]:
    """The score below which a candidate may be a negative, and the percentile it comes from."""
    percentile = settings.max_score_percentile
    if settings.max_score is not None:
        return settings.max_score, None
    if percentile is None and embedder == "use":
        return MAX_SCORE_OF_USE, None
    percentile = LIKE_PERCENTILE if percentile is None else percentile
    if percentile == 100 or not len(scores):
        return float("inf"), percentile
    return float(np.percentile(scores, percentile)), percentile


def _mean(counts: npt.NDArray[np.int64]) -> float | None:
    return round(float(counts.mean()), 2) if len(counts) else None
