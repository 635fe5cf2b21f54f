"""The tables of a mined dataset: passages, pairs of a split, transfer pairs, and their counts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dipair_index.data.equal_texts import EqualTexts, first_of_each, text_key
from dipair_index.data.layout import DatasetLayout
from dipair_index.data.mining import (
    DatasetSettings,
    Pairs,
    candidates_of,
    sample_negatives,
    threshold,
)
from dipair_index.data.splits import SplitQueries
from dipair_index.digests import TextsDigest
from dipair_index.evaluation.measures import area_under_curve
from dipair_index.formats.tables import ROWS_PER_GROUP, write_table, write_tables
from dipair_index.records import SPLITS, Passage

QUERIES_PER_GROUP = 1024


class CollectedPassages:
    """The collection, copied to `passages.parquet`; `rows` maps an id to its row in that table."""

    def __init__(
        self, passages: Iterator[Passage], layout: DatasetLayout, report: Callable[[int], None]
    ) -> None:
        self.ids: list[str] = []
        self.text_keys = array("q")
        words: list[int] = []
        digest = TextsDigest()
        schema = pa.schema([("passage_id", pa.string()), ("text", pa.string())])

        def tables() -> Iterator[pa.Table]:
            while batch := list(islice(passages, ROWS_PER_GROUP)):
                ids = [passage.passage_id for passage in batch]
                texts = [passage.full_text for passage in batch]
                digest.update(ids, texts)
                self.ids.extend(ids)
                self.text_keys.extend(map(text_key, texts))
                words.extend(len(text.split()) for text in texts)
                report(len(self.ids))
                yield pa.table({"passage_id": ids, "text": texts}, schema=schema)

        write_tables(tables(), layout.passages, schema)
        self.rows = {passage_id: row for row, passage_id in enumerate(self.ids)}
        self.words = np.array(words, np.int64)
        self.digest = digest.hexdigest()


class PairWriter:
    """Writes the tables of pairs, and counts them as DiPair's table 1 does."""

    def __init__(
        self,
        layout: DatasetLayout,
        queries: SplitQueries,
        passages: CollectedPassages,
        neighbours: npt.NDArray[np.void],
        equal: EqualTexts,
    ) -> None:
        self._layout = layout
        self._equal = equal
        self._splits = np.array(queries.splits)
        self._neighbours = neighbours
        self._query_ids = pa.array(queries.ids, pa.string())
        self._passage_ids = pa.array(passages.ids, pa.string())
        self._query_words = np.array([len(text.split()) for text in queries.texts], np.int64)
        self._passage_words = passages.words

    def write_splits(
        self, positives: Pairs, known: Pairs, embedder: str, settings: DatasetSettings
    ) -> dict[str, Any]:
        """Writes train, valid and test; returns their counts, the threshold and the AUC.

        `known` are the positives whose words no negative of their query may have.
        """
        judged = {split: self._of_split(positives, split) for split in SPLITS}
        candidates = {
            split: candidates_of(
                np.unique(pairs.queries),
                self._neighbours,
                known,
                self._equal,
                settings.top_k_negatives,
            )
            for split, pairs in judged.items()
        }
        # one threshold for all splits, found without a look at the held-out ones
        max_score, percentile = threshold(candidates["train"].scores, embedder, settings)
        table = {}
        for number, split in enumerate(SPLITS):
            nearest = candidates[split]
            below = nearest.select(nearest.scores < max_score)
            random = np.random.default_rng([settings.seed, number])
            negatives = sample_negatives(below, judged[split], random)
            table[split] = self._write_split(split, judged[split], negatives)
            table[split]["candidates"] = len(nearest.scores)
            table[split]["share_below_threshold"] = (
                round(len(below.scores) / len(nearest.scores), 4) if nearest.scores.size else None
            )
        return {
            "table": table,
            "parameters": {
                "max_score": None if np.isinf(max_score) else max_score,
                "max_score_percentile": percentile,
                "top_k_negatives": settings.top_k_negatives,
                "transfer_top_k": settings.transfer_top_k,
                "seed": settings.seed,
            },
        }

    def write_transfer(self, top_k: int) -> dict[str, Any]:
        """Writes the `top_k` nearest passages of every query that is not held out; returns counts.

        Of passages with the same words, a query has the nearest one only.
        """
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
                found = nearest["passage"] >= 0
                texts = self._equal.passages[nearest["passage"]]
                kept = found & first_of_each(np.where(found, texts, -1))
                passages = nearest["passage"][kept]
                seen[passages] = True
                queries = np.repeat(block, kept.sum(1))
                ranks = kept.cumsum(1)[kept]
                columns = {
                    "query_id": self._query_ids.take(pa.array(queries)),
                    "passage_id": self._passage_ids.take(pa.array(passages)),
                    "rank": pa.array(ranks, pa.int32()),
                    "score": pa.array(nearest["score"][kept], pa.float32()),
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
        return pairs.select(self._splits[pairs.queries] == split)

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


def _mean(counts: npt.NDArray[np.int64]) -> float | None:
    return round(float(counts.mean()), 2) if len(counts) else None
