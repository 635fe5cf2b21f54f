"""Builds a new part of an index; each passage is encoded once.

    passages ─► chunks ─► dual encoder ─┬─ tokens ─► token store
                                        └─ one vector per passage ─► file of vectors ─► FAISS
    stored texts ─► words ─► BM25 index, if asked for

Each chunk is flushed to disk before it is counted, so an interrupted build can resume, with the
same result as an uninterrupted one.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from dipair_index.encoders.base import EncodedTexts, TextEncoder
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.given_sides import TakesTokens
from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import DirectoryError, FormatError, StoreError
from dipair_index.files import link
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.long_texts import windows_of
from dipair_index.rerank.unfinished import UnfinishedPart
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.ann_info import AnnInfo, VectorSource
from dipair_index.stores.backends import open_token_store
from dipair_index.stores.index_writer import IndexWriter, build_ann
from dipair_index.stores.lexical import check_lexical
from dipair_index.stores.manifest import PASSAGE, QUERY, Manifest, PartInfo
from dipair_index.stores.names import CUT, SPLIT
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.passages import PassageStore
from dipair_index.stores.token_store import TokenStore
from dipair_index.stores.windows import check_separable, window_keys
from dipair_index.words import counted

Key = TypeVar("Key", str, tuple[int, ...])

PASSAGES_PER_CHUNK = 2048
"""The passages of a chunk; constant, since rounding depends on which texts are encoded together."""


class BuildSummary(NamedTuple):
    """Counts of a build: of its `passages`, `encoded` were encoded in this call, the others before.

    `replaced` is the number of passages that were in the index already, `seconds` the duration of
    this call, `token_bytes` the size of the tokens, and `truncated` or `split` the number of texts
    that are longer than the model reads.
    """

    passages: int
    encoded: int
    seconds: float
    token_bytes: int
    truncated: int
    replaced: int = 0
    split: int = 0


class Windows(NamedTuple):
    """The windows of a chunk of passages; `long` passages were split, or truncated."""

    texts: list[str]
    counts: list[int]  # of each passage
    long: int


class PartBuilder:
    """Builds a new part of the index that `manifest` describes.

    With `reused`, the folder of an ANN index over the same passages, its vectors are reused.
    """

    def __init__(
        self,
        writer: IndexWriter,
        manifest: Manifest,
        encoder: TextEncoder,
        embedder: SentenceEmbedder,
        reused: Path | None,
    ) -> None:
        self._writer = writer
        self._manifest = manifest
        self._encoder = encoder
        self._embedder = embedder
        self._reused = reused
        self.ids: Sequence[str] = []

    def run(
        self,
        passages: Iterable[Passage],
        command: str,
        check_ids: Callable[[Sequence[str]], None],
        *,
        resume: bool,
        overwrite: bool,
        report: Callable[[int], None],
    ) -> tuple[PartInfo, BuildSummary]:
        """Builds the part and moves it into the index; returns its entry for the manifest.

        `check_ids` is called with ids before they are encoded, and with all of them at the end; it
        raises an error if they are not allowed. Raises `DirectoryError` if there is an unfinished
        part and neither `resume` nor `overwrite`, or if it does not fit; `FormatError` if a
        passage is invalid or repeated, or if there is none; `StoreError` if writing fails.
        """
        started, manifest = time.monotonic(), self._manifest
        if manifest.lexical:
            check_lexical()
        unfinished = UnfinishedPart.open(
            self._writer.layout.building,
            {
                "command": command,
                "model": manifest.model_fingerprint,
                "vectors": manifest.embedder_fingerprint,
                "store": manifest.store,
                "store_url": manifest.store_url,
                "codec": manifest.codec,
                "lexical": manifest.lexical or None,
                "ann_from": None if self._reused is None else str(self._reused.resolve()),
                # not of passages, so that what earlier versions began can be resumed
                **({} if manifest.side == PASSAGE else {"side": manifest.side}),
                **self._given_tokens(),
                **({} if manifest.long == CUT else {"long": manifest.long}),
            },
            vector_dim=0 if self._reused else self._embedder.dim,
            store_url=manifest.store_url,
            resume=resume,
            overwrite=overwrite,
        )
        before = unfinished.progress.passages
        rows = (
            iter(passages) if self._reused is None else _checked_order(self._reused, iter(passages))
        )
        try:
            with (
                open_token_store(
                    manifest.store,
                    unfinished.part.tokens_location(),
                    tokens_per_passage=manifest.kept_tokens,
                    dim=manifest.dim,
                    codec=manifest.codec,
                ) as tokens,
                PassageStore.open(unfinished.part.passages) as texts,
            ):
                self._encode(rows, unfinished, tokens, texts, check_ids, report)
                stored = unfinished.progress
                if (len(tokens), len(texts)) != (stored.rows, stored.passages):
                    raise StoreError(
                        f"{unfinished.part.root} holds tokens of {len(tokens):,} and texts of "
                        f"{counted(len(texts), 'passage')} where "
                        f"{stored.passages:,} were stored (did the power fail?): "
                        "pass --overwrite to start over"
                    )
                size = tokens.stored_bytes()
            self.ids = unfinished.ids()
            for start in range(0, len(self.ids), PASSAGES_PER_CHUNK):
                check_ids(self.ids[start : start + PASSAGES_PER_CHUNK])
            self._write_ann(unfinished)
        except BaseException:
            if not unfinished.progress.passages:
                # the first error is raised, not that of a bucket that cannot be reached
                with suppress(StoreError):
                    unfinished.discard()
            raise
        done = unfinished.progress
        part = self._writer.install_part(
            unfinished.part, done.passages, done.truncated, done.digest, manifest
        )
        seconds = time.monotonic() - started
        encoded = done.passages - before
        split = done.truncated if manifest.long == SPLIT else 0
        truncated = done.truncated - split
        return part, BuildSummary(done.passages, encoded, seconds, size, truncated, split=split)

    def _encode(
        self,
        passages: Iterator[Passage],
        unfinished: UnfinishedPart,
        tokens: TokenStore,
        texts: PassageStore,
        check_ids: Callable[[Sequence[str]], None],
        report: Callable[[int], None],
    ) -> None:
        """Encodes and stores the passages that are not stored yet, chunk by chunk.

        While a chunk is encoded, a second thread stores the previous one and tokenises the next.
        """
        unfinished.skip(passages)
        _delete_uncounted(unfinished, tokens, texts)
        report(unfinished.progress.passages)

        side, embedder = self._manifest.side, self._embedder
        embed = embedder.embed_queries if side == QUERY else embedder.embed_passages

        def tokenise(chunk: list[Passage]) -> tuple[Tokenised, Windows]:
            ids = [passage.passage_id for passage in chunk]
            check_ids(ids)
            _check_unique(ids, texts)
            if self._manifest.long == SPLIT:
                check_separable(ids)
            full = [each.full_text for each in chunk]
            windows, counts = windows_of(self._encoder, self._manifest, full)
            tokenised = self._encoder.tokenised(side, windows)
            split = sum(count > 1 for count in counts)
            return tokenised, Windows(windows, counts, split or tokenised.truncated)

        def store(chunk: list[Passage], encoded: EncodedTexts, windows: Windows) -> None:
            ids = [passage.passage_id for passage in chunk]
            keys = window_keys(ids, windows.counts)
            vectors = encoded.vectors
            if not unfinished.keeps_vectors:
                vectors = np.empty((len(keys), 0), np.float32)
            elif embedder.name != "model":
                different, indexes = _different(windows.texts)
                vectors = embed(different)[indexes]
            _check_unique(ids, texts)  # again, since the previous chunk is stored only now
            _check_finite(keys, vectors)
            tokens.put(keys, encoded.tokens)
            texts.put(chunk, windows.counts)
            unfinished.count(chunk, keys, vectors, truncated=windows.long)
            report(unfinished.progress.passages)

        with ThreadPoolExecutor(1) as worker:
            chunk, failure = _chunk(passages)
            ready, stored = worker.submit(tokenise, chunk), None
            while chunk:
                current, (tokenised, windows) = chunk, ready.result()
                chunk, failure = ([], failure) if failure else _chunk(passages)
                ready = worker.submit(tokenise, chunk)
                encoded = _encoded_once(self._encoder, tokenised)
                if stored:
                    stored.result()
                stored = worker.submit(store, current, encoded, windows)
            if stored:
                stored.result()
        if failure:
            raise failure
        if not unfinished.progress.passages:
            raise FormatError("there is no passage to index: give a corpus that holds some")

    def _given_tokens(self) -> dict[str, str]:
        """Returns the digest of the tokens that the encoder was given for the side, if any."""
        if not isinstance(self._encoder, TakesTokens):
            return {}
        digest = self._encoder.given_digest(self._manifest.side)
        return {"given tokens": digest} if digest else {}

    def _write_ann(self, unfinished: UnfinishedPart) -> None:
        """Builds the FAISS index, or copies the reused one."""
        manifest, folder = self._manifest, unfinished.part.ann
        source = VectorSource(
            self._embedder.name, self._embedder.fingerprint, unfinished.progress.digest
        )
        shutil.rmtree(folder, ignore_errors=True)
        if self._reused is None:
            build_ann(
                self.ids,
                unfinished.vectors(),
                manifest,
                source,
                strict=unfinished.progress.settings["command"] == "build",
            ).save(folder)
            return
        info = AnnInfo.read(self._reused)
        if info.source.passages_digest != source.passages_digest:
            raise _differing_passages(self._reused)
        if manifest.ann_kind == info.kind:
            shutil.copytree(self._reused, folder, copy_function=link)
        else:
            index = FaissIndex.load(self._reused)
            build_ann(self.ids, index.vectors(), manifest, source, strict=True).save(folder)


def _chunk(passages: Iterator[Passage]) -> tuple[list[Passage], BaseException | None]:
    """Returns the next passages, or the error of reading them, which is raised after storing."""
    try:
        return list(islice(passages, PASSAGES_PER_CHUNK)), None
    except BaseException as failure:
        return [], failure


def _encoded_once(encoder: TextEncoder, texts: Tokenised) -> EncodedTexts:
    """Encodes each distinct text once, so that equal passages have equal scores.

    In torch, rows of a batch with equal tokens may differ in their last digits.
    """
    different, indexes = _different(map(tuple, texts.ids))
    encoded = encoder.encode_tokenised(texts._replace(ids=[list(ids) for ids in different]))
    return EncodedTexts(*(of_each[indexes] for of_each in encoded))


def _different(keys: Iterable[Key]) -> tuple[list[Key], list[int]]:
    """Returns the distinct keys in order of appearance, and the index of each key among them."""
    different: dict[Key, int] = {}
    indexes = [different.setdefault(key, len(different)) for key in keys]
    return list(different), indexes


def _delete_uncounted(unfinished: UnfinishedPart, tokens: TokenStore, texts: PassageStore) -> None:
    """Deletes passages that were stored but not counted, since others may follow instead.

    Raises `DirectoryError` if counted passages are missing.
    """
    counted_rows: list[tuple[TokenStore | PassageStore, int]] = [
        (tokens, unfinished.progress.rows), (texts, unfinished.progress.passages)
    ]  # fmt: skip
    if all(len(store) == count for store, count in counted_rows):
        return
    known = set(unfinished.ids())
    for store, count in counted_rows:
        store.delete([each for each in store if each not in known])
        if len(store) < count:
            raise unfinished.lost_data()


def _check_unique(ids: list[str], texts: PassageStore) -> None:
    """Raises `FormatError` if an id is repeated in a chunk, or stored already."""
    passage_id, times = Counter(ids).most_common(1)[0]
    if times == 1:
        known = np.flatnonzero(texts.contains(ids))
        passage_id, times = (ids[known[0]], 2) if len(known) else ("", 1)
    if times > 1:
        raise FormatError(f"the passage id {passage_id!r} is given twice: ids must be unique")


def _check_finite(ids: list[str], vectors: FloatArray) -> None:
    """Raises `StoreError`, before the passages are counted, if a vector is not finite."""
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise StoreError(
            f"the vector of passage {ids[int(wrong[0])]!r} holds NaN or infinity: nothing of this "
            "batch was stored"
        )


def _checked_order(reused: Path, passages: Iterator[Passage]) -> Iterator[Passage]:
    """Yields passages; raises `DirectoryError` if their ids are not those of the ANN index."""
    for passage, known in zip_longest(passages, PackedIds.load(reused)):
        if passage is None or passage.passage_id != known:
            raise _differing_passages(reused)
        yield passage


def _differing_passages(reused: Path) -> DirectoryError:
    """Returns the error for vectors in `reused` that are not those of the given passages."""
    return DirectoryError(
        f"{reused} holds the vectors of {counted(AnnInfo.read(reused).count, 'passage')}, which "
        "are others than the given ones, or in another order: give the corpus that it was made "
        "from, or omit --ann-from and pass --overwrite"
    )
