"""Makes a new part of an index: each passage goes through the encoder once.

    passages ─► chunks ─► dual encoder ─┬─ tokens ─► token store
                                        └─ one vector a passage ─► file of vectors ─► FAISS

After each chunk all of it is on disk, so that an interrupted build goes on from there, and ends
as it would have ended undisturbed.
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
from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import DirectoryError, FormatError, StoreError
from dipair_index.files import link
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.unfinished import UnfinishedPart
from dipair_index.stores.ann import AnnInfo, FaissIndex, VectorSource
from dipair_index.stores.backends import open_token_store
from dipair_index.stores.index_writer import IndexWriter, build_ann
from dipair_index.stores.manifest import Manifest, PartInfo
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.passages import PassageStore
from dipair_index.stores.token_store import TokenStore
from dipair_index.words import counted

Key = TypeVar("Key", str, tuple[int, ...])

CHUNK = 2048
"""Passages a chunk. A constant, since rounding depends on which texts are encoded together."""


class BuildSummary(NamedTuple):
    """What was done; `encoded` of the `passages` were done this time, the others before.

    `replaced` of them were in the index already.
    """

    passages: int
    encoded: int
    seconds: float
    token_bytes: int
    truncated: int
    replaced: int = 0


class PartBuilder:
    """The way of passages into a new part of the index that `manifest` describes."""

    def __init__(
        self,
        writer: IndexWriter,
        manifest: Manifest,
        encoder: TextEncoder,
        embedder: SentenceEmbedder,
        taken: Path | None,
    ) -> None:
        self._writer = writer
        self._manifest = manifest
        self._encoder = encoder
        self._embedder = embedder
        self._taken = taken
        self.ids: Sequence[str] = []

    def run(
        self,
        passages: Iterable[Passage],
        command: str,
        refuse: Callable[[Sequence[str]], None],
        *,
        resume: bool,
        overwrite: bool,
        report: Callable[[int], None],
    ) -> tuple[PartInfo, BuildSummary]:
        """Returns the part, in its place but not yet named by a manifest.

        `refuse` is shown ids before they are encoded, and all of them at the end.
        """
        started, manifest = time.monotonic(), self._manifest
        unfinished = UnfinishedPart.open(
            self._writer.layout.building,
            {
                "command": command,
                "model": manifest.model_fingerprint,
                "vectors": manifest.embedder_fingerprint,
                "store": manifest.store,
                "store_url": manifest.store_url,
                "codec": manifest.codec,
                "ann_from": None if self._taken is None else str(self._taken.resolve()),
            },
            vector_dim=0 if self._taken else self._embedder.dim,
            store_url=manifest.store_url,
            resume=resume,
            overwrite=overwrite,
        )
        before = unfinished.progress.passages
        rows = iter(passages) if self._taken is None else _as_in(self._taken, iter(passages))
        try:
            with (
                open_token_store(
                    manifest.store,
                    unfinished.part.tokens_location(),
                    tokens_per_passage=manifest.max_passage_tokens,
                    dim=manifest.dim,
                    codec=manifest.codec,
                ) as tokens,
                PassageStore.open(unfinished.part.passages) as texts,
            ):
                self._encode(rows, unfinished, tokens, texts, refuse, report)
                if not len(tokens) == len(texts) == unfinished.progress.passages:
                    raise StoreError(
                        f"{unfinished.part.root} holds tokens of {len(tokens):,} and texts of "
                        f"{counted(len(texts), 'passage')} where "
                        f"{unfinished.progress.passages:,} were stored (did the power fail?): "
                        "pass --overwrite to start over"
                    )
                size = tokens.stored_bytes()
            self.ids = unfinished.ids()
            for start in range(0, len(self.ids), CHUNK):
                refuse(self.ids[start : start + CHUNK])
            self._write_ann(unfinished)
        except BaseException:
            if not unfinished.progress.passages:
                # what it is about is the first error, not that a bucket out of reach stays as it is
                with suppress(StoreError):
                    unfinished.discard()
            raise
        done = unfinished.progress
        part = self._writer.install_part(
            unfinished.part, done.passages, done.truncated, done.digest
        )
        seconds = time.monotonic() - started
        encoded = done.passages - before
        return part, BuildSummary(done.passages, encoded, seconds, size, done.truncated)

    def _encode(
        self,
        passages: Iterator[Passage],
        unfinished: UnfinishedPart,
        tokens: TokenStore,
        texts: PassageStore,
        refuse: Callable[[Sequence[str]], None],
        report: Callable[[int], None],
    ) -> None:
        """Stores chunk after chunk of the passages that are not stored yet.

        While one is encoded, a thread beside stores the one before and tokenises the next.
        """
        unfinished.skip(passages)
        _forget_uncounted(unfinished, tokens, texts)
        report(unfinished.progress.passages)

        def tokenise(chunk: list[Passage]) -> Tokenised:
            ids = [passage.passage_id for passage in chunk]
            refuse(ids)
            _refuse_repeated(ids, texts)
            return self._encoder.tokenised("passage", [each.full_text for each in chunk])

        def store(chunk: list[Passage], encoded: EncodedTexts, truncated: int) -> None:
            ids = [passage.passage_id for passage in chunk]
            vectors = encoded.vectors
            if not unfinished.keeps_vectors:
                vectors = np.empty((len(chunk), 0), np.float32)
            elif self._embedder.name != "model":
                different, places = _different(each.full_text for each in chunk)
                vectors = self._embedder.embed_passages(different)[places]
            _refuse_repeated(ids, texts)  # the chunk before it was not stored the first time
            _refuse_not_finite(ids, vectors)
            tokens.put(ids, encoded.tokens)
            texts.put(chunk)
            unfinished.count(chunk, vectors, truncated=truncated)
            report(unfinished.progress.passages)

        with ThreadPoolExecutor(1) as beside:
            chunk, failure = _chunk(passages)
            ready, stored = beside.submit(tokenise, chunk), None
            while chunk:
                current, tokenised = chunk, ready.result()
                chunk, failure = ([], failure) if failure else _chunk(passages)
                ready = beside.submit(tokenise, chunk)
                encoded = _encoded_once(self._encoder, tokenised)
                if stored:
                    stored.result()
                stored = beside.submit(store, current, encoded, tokenised.truncated)
            if stored:
                stored.result()
        if failure:
            raise failure
        if not unfinished.progress.passages:
            raise FormatError("there is no passage to index: give a corpus that holds some")

    def _write_ann(self, unfinished: UnfinishedPart) -> None:
        """Builds the FAISS index, or takes over another's."""
        manifest, folder = self._manifest, unfinished.part.ann
        source = VectorSource(
            self._embedder.name, self._embedder.fingerprint, unfinished.progress.digest
        )
        shutil.rmtree(folder, ignore_errors=True)
        if self._taken is None:
            build_ann(
                self.ids,
                unfinished.vectors(),
                manifest,
                source,
                strict=unfinished.progress.settings["command"] == "build",
            ).save(folder)
            return
        info = AnnInfo.read(self._taken)
        if info.source.passages_digest != source.passages_digest:
            raise other_passages(self._taken)
        if manifest.ann_kind == info.kind:
            shutil.copytree(self._taken, folder, copy_function=link)
        else:
            index = FaissIndex.load(self._taken)
            build_ann(self.ids, index.vectors(), manifest, source, strict=True).save(folder)


def _chunk(passages: Iterator[Passage]) -> tuple[list[Passage], BaseException | None]:
    """The next passages, or what went wrong: those before them are stored before it is raised."""
    try:
        return list(islice(passages, CHUNK)), None
    except BaseException as failure:
        return [], failure


def _encoded_once(encoder: TextEncoder, texts: Tokenised) -> EncodedTexts:
    """Encodes each different text once, so that equal passages have equal scores.

    In torch, rows of a batch with equal tokens may differ in their last digits.
    """
    different, places = _different(map(tuple, texts.ids))
    encoded = encoder.encode_tokenised(texts._replace(ids=[list(ids) for ids in different]))
    return EncodedTexts(*(of_each[places] for of_each in encoded))


def _different(keys: Iterable[Key]) -> tuple[list[Key], list[int]]:
    """Returns the keys without repetitions, in their order, and the place of each key there."""
    different: dict[Key, int] = {}
    places = [different.setdefault(key, len(different)) for key in keys]
    return list(different), places


def _forget_uncounted(unfinished: UnfinishedPart, tokens: TokenStore, texts: PassageStore) -> None:
    """Takes out what was stored but not counted: another passage may come in its place."""
    counted = unfinished.progress.passages
    if len(tokens) == len(texts) == counted:
        return
    known = set(unfinished.ids())
    for store in (tokens, texts):
        store.delete([each for each in store if each not in known])
        if len(store) < counted:
            raise unfinished.lossy()


def _refuse_repeated(ids: list[str], texts: PassageStore) -> None:
    """Says which id stands twice in a chunk, or in a chunk and in those stored before it."""
    passage_id, times = Counter(ids).most_common(1)[0]
    if times == 1:
        known = np.flatnonzero(texts.contains(ids))
        passage_id, times = (ids[known[0]], 2) if len(known) else ("", 1)
    if times > 1:
        raise FormatError(f"the passage id {passage_id!r} is given twice: ids must be unique")


def _refuse_not_finite(ids: list[str], vectors: FloatArray) -> None:
    """Before they are counted: at the end it would be too late to leave the passage out."""
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise StoreError(
            f"the vector of passage {ids[int(wrong[0])]!r} holds NaN or infinity: nothing of this "
            "batch was stored"
        )


def _as_in(taken: Path, passages: Iterator[Passage]) -> Iterator[Passage]:
    """Passes passages on while their ids are those of the ANN index, row by row."""
    for passage, known in zip_longest(passages, PackedIds.load(taken)):
        if passage is None or passage.passage_id != known:
            raise other_passages(taken)
        yield passage


def other_passages(taken: Path) -> DirectoryError:
    """What to say where the vectors in `taken` are not of the passages that are given."""
    return DirectoryError(
        f"{taken} holds other passages, or in another order, {AnnInfo.read(taken).count:,} in "
        "number: give the corpus that it was made from, or leave --ann-from away and pass "
        "--overwrite"
    )
