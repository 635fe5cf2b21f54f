"""Scores texts, or passages of the index, for a query, in steps that the slot can interleave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.long_texts import best_window, windows_of
from dipair_index.rerank.scorer import micro_batches
from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.slot import Lane, Steps
from dipair_index.rerank.serving.state import Served
from dipair_index.stores.codecs import EncodedRows
from dipair_index.stores.snapshot import Snapshot
from dipair_index.threads import thread_count

ENCODED_A_THREAD = 16
"""Texts that a thread encodes in one step; more would not be faster."""
LARGE_STEPS = 4
"""A request that encodes in more steps than these waits for those with fewer."""
SCORED_AT_ONCE = 250


class Scored(NamedTuple):
    """What is known of the documents of a request after scoring."""

    passages: Sequence[Passage]  # a text of the request has no id
    logits: FloatArray  # (texts,)
    known: npt.NDArray[np.bool_]  # (texts,), whether a text did not have to be encoded

    @property
    def texts(self) -> list[str]:
        """What the encoder reads of each document."""
        return [passage.full_text for passage in self.passages]


def score_texts(
    served: Served, query: str, texts: Sequence[str], record: RequestRecord
) -> Steps[Scored]:
    """Scores texts, the same however their rows are come by."""
    served.refresh()
    with served.snapshot() as snapshot:
        windows, counts = list(texts), [1] * len(texts)
        if snapshot is not None:
            windows, counts = windows_of(served.encoder, snapshot.manifest, texts)
        rows, found = yield from _rows(served, windows, snapshot, record)
        logits = yield from _logits(served, query, rows, snapshot, record)
    owners = np.repeat(np.arange(len(texts)), counts)
    logits = best_window(logits, owners, len(texts))
    known = np.ones(len(texts), np.bool_)
    np.logical_and.at(known, owners, found)
    return Scored([Passage("", text) for text in texts], logits, known)


def score_passages(
    served: Served, query: str, ids: Sequence[str], record: RequestRecord
) -> Steps[Scored]:
    """Scores passages of the index; raises `MissingPassagesError` if some are not in it."""
    with served.needed_index().lent() as opened:
        with record.step("gather"):
            rows, owners = opened.snapshot.encoded_windows(ids)
            passages = opened.snapshot.passages(ids)
        record.documents += len(ids)
        record.from_index += len(ids)
        logits = yield from _logits(served, query, rows, opened.snapshot, record)
    logits = best_window(logits, owners, len(ids))
    return Scored(passages, logits, np.ones(len(ids), np.bool_))


def encoding_batches(texts: list[str]) -> Iterator[tuple[Lane, list[str]]]:
    """Yields texts in the batches that a step encodes, each with the lane of its step."""
    size = ENCODED_A_THREAD * thread_count()
    lane = Lane.LARGE if len(texts) > LARGE_STEPS * size else Lane.ENCODING
    for part in micro_batches(len(texts), size):
        yield lane, texts[part]


def _rows(
    served: Served, texts: Sequence[str], snapshot: Snapshot | None, record: RequestRecord
) -> Steps[tuple[EncodedRows, npt.NDArray[np.bool_]]]:
    """Returns the encoded rows of texts: from the index, from the cache, or encoded now.

    With them comes which did not have to be encoded.
    """
    codec = served.codec(snapshot)
    rows = np.empty((len(texts), codec.bytes_per_passage), np.uint8)
    with record.step("gather"):
        ids = [None] * len(texts) if snapshot is None else snapshot.find_texts(texts)
        known = [row for row, passage_id in enumerate(ids) if passage_id is not None]
        if snapshot is not None and known:
            rows[known] = snapshot.encoded_tokens([each for each in ids if each is not None])
        others = [row for row, passage_id in enumerate(ids) if passage_id is None]
        held = served.cache.held([texts[row] for row in others], served.encoder, codec)
        missing: dict[str, list[int]] = {}
        for row, encoded in zip(others, held, strict=True):
            if encoded is None:
                missing.setdefault(texts[row], []).append(row)
            else:
                rows[row] = encoded
    found = np.ones(len(texts), np.bool_)
    found[[row for same in missing.values() for row in same]] = False
    record.documents += len(texts)
    record.from_index += len(known)
    record.from_cache += int(found.sum()) - len(known)
    for lane, batch in encoding_batches(list(missing)):
        yield lane
        with record.step("encode"):
            for text, encoded in zip(
                batch, served.cache.rows(batch, served.encoder, codec), strict=True
            ):
                rows[missing[text]] = encoded
    return rows, found


def _logits(
    served: Served,
    query: str,
    rows: EncodedRows,
    snapshot: Snapshot | None,
    record: RequestRecord,
) -> Steps[FloatArray]:
    """Returns the logit of each row, (rows,); equal rows have equal logits."""
    with record.step("encode"):
        tokens = served.encoder.encode_queries([query]).tokens[0]
    first: dict[bytes, int] = {}
    places = [first.setdefault(row.tobytes(), len(first)) for row in rows]
    unique = np.frombuffer(b"".join(first), np.uint8).reshape(len(first), rows.shape[1])
    logits = np.empty(len(unique), np.float32)
    for part in micro_batches(len(unique), SCORED_AT_ONCE):
        if part.start:
            yield Lane.FAST
        with record.step("score"):
            codec = served.codec(snapshot)
            logits[part] = served.scorer.encoded_logits(tokens, unique[part], codec)
    scored: FloatArray = logits[places]
    return scored
