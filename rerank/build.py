"""Builds an index directory: each passage goes through the encoder once.

    passages ─► chunks ─► dual encoder ─┬─ tokens ─► token store
                                        └─ one vector a passage ─► file of vectors ─► FAISS

A build works in `<index>.building` and is moved into place at the end. After each chunk all of it
is on disk, so that an interrupted build goes on from there, and ends as it would have ended
undisturbed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dipair_index import __version__
from dipair_index.dataset_directory import link
from dipair_index.dual_encoder import DEFAULT_MODEL, DualEncoder
from dipair_index.errors import IndexDirectoryError, SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.unfinished import UnfinishedBuild, forget_progress
from dipair_index.sentence_vectors import SentenceEmbedder, open_embedder
from dipair_index.stores.ann import AnnInfo, FaissIndex, VectorSource
from dipair_index.stores.index_directory import (
    Layout,
    Manifest,
    publish,
    refuse_target,
    working_directory,
)
from dipair_index.stores.lmdb import LmdbTokenStore
from dipair_index.stores.packed_ids import PackedIds
from dipair_index.stores.passages import PassageStore

CHUNK = 2048
"""Passages a chunk. A constant, since rounding depends on which texts are encoded together."""

NAMED_VECTORS = ("model", "use")


class BuildSummary(NamedTuple):
    """What a build did; `encoded` of the `passages` were done this time, the others before."""

    passages: int
    encoded: int
    seconds: float
    token_bytes: int
    truncated: int


def build_index(
    passages: Iterable[Passage],
    index_dir: str | Path,
    encoder: DualEncoder,
    *,
    vectors: str = "model",
    codec: str = "int8",
    ann: str | None = None,
    ann_from: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[int], None] = lambda count: None,
) -> BuildSummary:
    """Encodes `passages`, whose ids are unique, into the index directory `index_dir`.

    `vectors` says whose vectors FAISS holds: those of the DiPair "model", of "use", or of a
    transformers encoder by name. `ann` is a kind of `FaissIndex`: that of `ann_from`, the dataset
    or index whose vectors are taken over, or "flat". `report` is told the passages done so far.

    Whatever ends the build, Ctrl-C included, leaves what is done for `resume`. Raises
    `IndexDirectoryError` for an index that exists and is not to be overwritten, and for an
    unfinished build or an `ann_from` that does not fit.
    """
    index_dir, started = Path(index_dir), time.monotonic()
    refuse_target(index_dir, overwrite=overwrite)
    embedder = open_embedder(vectors, dual_encoder=encoder, device=str(encoder.model.device))
    taken = None if ann_from is None else _taken_from(Path(ann_from), embedder)
    _refuse_kind(ann, embedder.dim)
    config = encoder.model.config
    settings = {
        "model": encoder.fingerprint,
        "vectors": embedder.fingerprint,
        "codec": codec,
        "ann_from": None if taken is None else str(taken.resolve()),
    }
    unfinished = UnfinishedBuild.open(
        working_directory(index_dir),
        settings,
        vector_dim=0 if taken else embedder.dim,
        resume=resume,
        overwrite=overwrite,
    )
    layout = Layout(unfinished.root)
    with ExitStack() as opened:
        opened.enter_context(unfinished)
        before = unfinished.progress.passages
        try:
            tokens = opened.enter_context(
                LmdbTokenStore.open(
                    layout.tokens,
                    tokens_per_passage=config.max_passage_tokens,
                    dim=config.dim,
                    codec=codec,
                )
            )
            texts = opened.enter_context(PassageStore.open(layout.passages))
            rows = iter(passages) if taken is None else _as_in(taken, iter(passages))
            _encode(rows, unfinished, encoder, embedder, tokens, texts, report)
            done = unfinished.progress
            source = VectorSource(embedder.name, embedder.fingerprint, done.digest)
            kind = _write_ann(layout.ann, unfinished, source, ann, taken, seed)
        except BaseException:
            if not unfinished.progress.passages:
                opened.close()
                unfinished.discard()
            raise
        Manifest(
            package_version=__version__,
            model=_lasting(encoder.name, DEFAULT_MODEL),
            model_fingerprint=encoder.fingerprint,
            max_query_tokens=config.max_query_tokens,
            max_passage_tokens=config.max_passage_tokens,
            dim=config.dim,
            vector_dim=embedder.dim,
            store="lmdb",
            codec=codec,
            embedder=_lasting(embedder.name, *NAMED_VECTORS),
            embedder_fingerprint=embedder.fingerprint,
            ann_kind=kind,
            passages=done.passages,
            truncated=done.truncated,
            seed=seed,
            passages_digest=done.digest,
            library_versions={name: version(name) for name in ("faiss-cpu", "lmdb", "torch")},
        ).write(layout.root)
    publish(layout.root, index_dir, overwrite=overwrite)
    forget_progress(index_dir)
    return BuildSummary(
        passages=done.passages,
        encoded=done.passages - before,
        seconds=time.monotonic() - started,
        token_bytes=sum(
            file.stat().st_size for file in Layout(index_dir).tokens.iterdir() if file.is_file()
        ),
        truncated=done.truncated,
    )


def _encode(
    passages: Iterator[Passage],
    unfinished: UnfinishedBuild,
    encoder: DualEncoder,
    embedder: SentenceEmbedder,
    tokens: LmdbTokenStore,
    texts: PassageStore,
    report: Callable[[int], None],
) -> None:
    """Stores chunk after chunk of the passages that are not stored yet."""
    unfinished.skip(passages)
    report(unfinished.progress.passages)
    while chunk := list(islice(passages, CHUNK)):
        ids = [passage.passage_id for passage in chunk]
        read = [passage.full_text for passage in chunk]
        truncated = encoder.truncated
        encoded = encoder.encode_passages(read)
        truncated = encoder.truncated - truncated
        vectors = encoded.vectors
        if not unfinished.keeps_vectors:
            vectors = np.empty((len(chunk), 0), np.float32)
        elif embedder.name != "model":
            vectors = embedder.embed_passages(read)
        tokens.put(ids, encoded.tokens)
        texts.put(chunk)
        unfinished.count(chunk, vectors, truncated=truncated)
        report(unfinished.progress.passages)
    if not unfinished.progress.passages:
        raise SettingsError("there is no passage to index: give a corpus that holds some")


def _write_ann(
    folder: Path,
    unfinished: UnfinishedBuild,
    source: VectorSource,
    kind: str | None,
    taken: Path | None,
    seed: int,
) -> str:
    """Builds the FAISS index, or takes over another's; returns its kind."""
    shutil.rmtree(folder, ignore_errors=True)
    if taken is None:
        kind = kind or "flat"
        ids, vectors = unfinished.ids(), unfinished.vectors()
        FaissIndex.build(ids, vectors, kind=kind, seed=seed, source=source).save(folder)
        return kind
    info = AnnInfo.read(taken)
    if info.source.passages_digest != source.passages_digest:
        raise _other_passages(taken)
    if kind in (None, info.kind):
        shutil.copytree(taken, folder, copy_function=link)
        return info.kind
    index = FaissIndex.load(taken)
    FaissIndex.build(index.ids, index.vectors(), kind=kind, seed=seed, source=source).save(folder)
    return kind


def _taken_from(folder: Path, embedder: SentenceEmbedder) -> Path:
    """Returns the ANN folder in a dataset or an index; its vectors must be the embedder's."""
    if (folder / "ann").is_dir():
        folder = folder / "ann"
    source = AnnInfo.read(folder).source
    if source.embedder_fingerprint != embedder.fingerprint:
        raise IndexDirectoryError(
            f"{folder} holds vectors of {source.embedder} ({source.embedder_fingerprint}), not of "
            f"{embedder.name} ({embedder.fingerprint}): pass --vectors {source.embedder}, or leave "
            "--ann-from away"
        )
    return folder


def _as_in(taken: Path, passages: Iterator[Passage]) -> Iterator[Passage]:
    """Passes passages on while their ids are those of the ANN index, row by row."""
    for passage, known in zip_longest(passages, PackedIds.load(taken)):
        if passage is None or passage.passage_id != known:
            raise _other_passages(taken)
        yield passage


def _other_passages(taken: Path) -> IndexDirectoryError:
    return IndexDirectoryError(
        f"{taken} holds other passages, or in another order, {AnnInfo.read(taken).count:,} in "
        "number: give the corpus that it was made from, or leave --ann-from away and pass "
        "--overwrite"
    )


def _refuse_kind(kind: str | None, dim: int) -> None:
    """Lets FAISS read the factory string before hours of encoding, not after."""
    if kind in (None, "flat", "hnsw", "ivf"):
        return
    import faiss

    try:
        faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise SettingsError(
            f"FAISS cannot make an index {kind!r}: choose flat, hnsw, ivf, or a FAISS factory "
            "string for inner products such as IVF1024,Flat"
        ) from error


def _lasting(name: str, *known: str) -> str:
    """A folder's full path, so that the index can be opened from elsewhere."""
    return str(Path(name).resolve()) if name not in known and Path(name).is_dir() else name
