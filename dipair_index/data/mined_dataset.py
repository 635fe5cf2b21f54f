"""Q2P-MAT after appendix B of DiPair: judged pairs, mined negatives, and a transfer set.

Positives are the judged pairs; negatives are drawn from the `top_k_negatives` passages nearest
to a query by sentence vectors, among those that score below a threshold, as many as positives;
the transfer set is the `transfer_top_k` nearest passages of every train and unlabelled query.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dipair_index.data.directory import write_record
from dipair_index.data.equal_texts import (
    EqualTexts,
    Rows,
    first_rows,
    plain_text,
    text_key,
)
from dipair_index.data.layout import DatasetLayout
from dipair_index.data.mined_tables import CollectedPassages, PairWriter
from dipair_index.data.mining import DatasetSettings, Pairs
from dipair_index.data.neighbours import KeptIndex, KeptVectors
from dipair_index.data.splits import SplitQueries, split_queries
from dipair_index.digests import short_digest
from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import FormatError
from dipair_index.formats.judged_files import JudgedFiles
from dipair_index.formats.tables import write_table
from dipair_index.progress import Progress
from dipair_index.records import Qrels, Query


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
        passages = CollectedPassages(files.iter_passages(), layout, report)
    by_split = files.read_queries()
    qrels = files.read_qrels(by_split, passages.rows.keys())
    queries = split_queries(by_split, qrels, unlabelled, settings.seed)
    positives, judgements = _judged_positives(queries, qrels, passages.rows)
    known = _known_positives(queries, by_split, qrels, passages.rows)
    equal = EqualTexts(_first_queries(queries.texts), first_rows(passages.text_keys))
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
    pairs = PairWriter(layout, queries, passages, neighbours, equal)
    positives = positives._replace(scores=scores)
    record = pairs.write_splits(positives, known, embedder.name, settings)
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
    if queries.read_like_held_out:  # else the record is what it was before these were looked for
        record["left_out"]["queries that read like a held-out one"] = queries.read_like_held_out
    for suffix in (".npy", ".json"):  # the index holds the vectors, in its own way
        layout.kept("passage_vectors").with_suffix(suffix).unlink(missing_ok=True)
    return write_record(layout, record)


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
    digest = short_digest(queries.digest.encode() + pairs.tobytes())
    return Pairs(pairs[:, 0], pairs[:, 1], np.zeros(len(pairs), np.float32)), digest


def _known_positives(
    queries: SplitQueries, by_split: dict[str, list[Query]], qrels: Qrels, rows: dict[str, int]
) -> Pairs:
    """The positives of all queries that were read, each under a kept query with the same words."""
    row_of = {plain_text(text): row for row, text in enumerate(queries.texts)}
    found = [
        (row_of[plain_text(query.text)], rows[passage_id])
        for query in chain(*by_split.values())
        if plain_text(query.text) in row_of
        for passage_id, relevance in qrels.get(query.query_id, {}).items()
        if relevance >= 1
    ]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return Pairs(pairs[:, 0], pairs[:, 1], np.zeros(len(pairs), np.float32))


def _first_queries(texts: Sequence[str]) -> Rows:
    return first_rows(array("q", map(text_key, texts)))
