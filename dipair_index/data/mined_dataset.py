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
from dipair_index.data.neighbours import CachedIndex, CachedVectors
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
    index: CachedIndex,
    settings: DatasetSettings,
    *,
    progress: Progress,
    unlabelled: Sequence[Path] = (),
) -> dict[str, Any]:
    """Writes a mined dataset into `layout`, and returns the contents of its `dataset.json`.

    The same input, settings and seed give the same bytes in every file. Arrays that an earlier or
    interrupted run left in the directory are reused if they were computed from the same texts by
    the same embedder. `unlabelled` are files of further queries for the transfer set. Raises
    `FormatError` if the files contradict each other, or if there are too few judged queries.
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
        raise FormatError(
            f"{files.train_qrels} has no positive: expected a relevance of 1 or more for some pair"
        )
    columns = {"query_id": queries.ids, "text": queries.texts, "split": queries.splits}
    write_table(pa.table(columns), layout.queries)
    key = {
        "embedder": embedder.name,
        "embedder_fingerprint": embedder.fingerprint,
        "passages_digest": passages.digest,
    }
    cached = CachedVectors(layout, embedder, key, progress)
    if not index.reuse(key):
        vectors = cached.passage_vectors(len(passages.ids))
        with progress("building the index", "passages"):
            index.build(passages.ids, vectors, key)
    query_vectors = cached.query_vectors(queries.texts, queries.digest)
    top_k = min(max(settings.top_k_negatives, settings.transfer_top_k), len(passages.ids))
    neighbours = cached.neighbours(query_vectors, queries.digest, index, passages.rows, top_k)
    scores = cached.pair_scores(query_vectors, positives, judgements)
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
    if queries.read_like_held_out:  # otherwise the record, and its fingerprint, stay as before
        record["left_out"]["queries that read like a held-out one"] = queries.read_like_held_out
    for suffix in (".npy", ".json"):  # the index holds the vectors
        layout.cached("passage_vectors").with_suffix(suffix).unlink(missing_ok=True)
    return write_record(layout, record)


def _judged_positives(
    queries: SplitQueries, qrels: Qrels, rows: dict[str, int]
) -> tuple[Pairs, str]:
    """Returns the pairs of relevance 1 or more, sorted by query and passage row, and a digest."""
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
    """Returns the positives of all queries in the files, by the row of a query with its words.

    They include those of queries that were left out of the dataset.
    """
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
