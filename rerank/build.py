"""Builds an index, and adds passages to one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from dipair_index import __version__
from dipair_index.encoders.base import TextEncoder, refuse_tuples
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.sentence_embedders import SentenceEmbedder, made_by, open_embedder
from dipair_index.encoders.windows import OVERLAP
from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.models.sources import lasting_name
from dipair_index.models.systems import check_choice
from dipair_index.optional import installed_versions
from dipair_index.records import PAIR
from dipair_index.rerank.arguments import GivenPassage, iter_passages
from dipair_index.rerank.fitting import open_fitting
from dipair_index.rerank.part_builder import BuildSummary, PartBuilder
from dipair_index.rerank.unfinished import DISPOSABLE
from dipair_index.stores.ann_info import AnnInfo
from dipair_index.stores.faiss_kinds import check_kind
from dipair_index.stores.index_directory import Layout, check_target
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import PASSAGE, Manifest
from dipair_index.stores.names import CUT, DEFAULT_CODEC, LONG, SPLIT
from dipair_index.stores.snapshot import Snapshot
from dipair_index.words import counted

NAMED_VECTORS = ("model", "use")


def build_index(
    passages: Iterable[GivenPassage],
    index_dir: str | Path,
    encoder: TextEncoder,
    *,
    side: str | None = None,
    vectors: str = "model",
    store: str = "lmdb",
    store_url: str = "",
    codec: str = DEFAULT_CODEC,
    lexical: bool = False,
    long: str = CUT,
    ann: str | None = None,
    ann_from: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[int], None] = lambda count: None,
) -> BuildSummary:
    """Encodes `passages`, whose ids are unique, into a new index.

    A build that ends early, by Ctrl-C included, can be resumed, and leaves an index that was to be
    overwritten as it was.

    Parameters
    ----------
    passages : iterable
        As `DiPairIndex.build` takes them.
    index_dir : str or Path
        The directory of the index.
    encoder : TextEncoder
        The DiPair model.
    side : str, optional
        The side of the model's tuples whose texts these are, such as "query": pairs of two indexes
        are scored by `match_indexes`. The default is the passages of a model of pairs.
    vectors : str
        The embedder of the vectors: "model" (the DiPair model), "use", or a transformers encoder
        by name.
    store, store_url, codec : str
        A kind of `open_token_store`, the URL below which it stores tokens, and its codec.
    lexical : bool
        Whether to keep a BM25 index of the passages' words too, which needs tantivy.
    long : {"cut", "split"}
        What becomes of passages that are longer than the model reads: their end is not read, or
        they are split into overlapping windows, of which the best counts.
    ann, ann_from
        A kind of `FaissIndex`, and a dataset or index whose vectors are reused. The default kind
        is that of `ann_from`, or "flat".
    seed : int
        The seed of the FAISS index's training.
    resume, overwrite : bool
        Continue an interrupted build, or replace an index that exists.
    report : callable
        Called with the number of passages stored so far.

    Returns
    -------
    BuildSummary

    Raises
    ------
    DirectoryError
        If there is an index and `overwrite` is false, if an unfinished build has other settings
        or passages, or if `ann_from` has other vectors or passages.
    FormatError
        If a passage is invalid or repeated, or if there is none.
    SettingsError
        If settings are invalid, if the model does not read the side, or if it reads more than a
        query and a passage and no side is named.

    Examples
    --------
    >>> from dipair_index import build_index, open_encoder
    >>> passages = [("p1", "Yeast makes gas."), ("p2", "Bees dance.")]
    >>> build_index(passages, "other.index", open_encoder(), overwrite=True).passages
    2
    """
    given, index_dir = iter_passages(passages), Path(index_dir)
    check_target(index_dir, overwrite=overwrite)
    if store_url and store != "tensorstore":
        raise SettingsError(f"the store {store} keeps no tokens at a URL: choose tensorstore")
    check_choice("long", long, LONG)
    if long == SPLIT and ann_from is not None:
        raise SettingsError("reused vectors are not those of windows: leave out ann_from or long")
    side, side_tokens = _checked_side(side, encoder)
    embedder = open_embedder(vectors, dual_encoder=encoder, device=encoder.device)
    reused = None if ann_from is None else _reusable_vectors(Path(ann_from), embedder)
    check_kind(ann or "flat", embedder.dim)
    manifest = Manifest(
        package_version=__version__,
        model=lasting_name(encoder.name),
        model_fingerprint=encoder.fingerprint,
        max_query_tokens=encoder.sizes.max_query_tokens,
        max_passage_tokens=encoder.sizes.max_passage_tokens,
        dim=encoder.sizes.dim,
        vector_dim=embedder.dim,
        store=store,
        codec=codec,
        embedder=embedder.name if embedder.name in NAMED_VECTORS else lasting_name(embedder.name),
        embedder_fingerprint=embedder.fingerprint,
        ann_kind=ann or (AnnInfo.read(reused).kind if reused else "flat"),
        seed=int(seed),
        store_url=store_url,
        lexical=bool(lexical),
        long=long,
        overlap=OVERLAP if long == SPLIT else 0,
        library_versions=installed_versions("faiss-cpu", "lmdb", "onnxruntime", "tantivy", "torch"),
        side=side,
        side_tokens=side_tokens,
    )
    with _writer_of_new(index_dir, overwrite=overwrite) as writer:
        building = PartBuilder(writer, manifest, encoder, embedder, reused)
        part, summary = building.run(
            given, "build", lambda ids: None, resume=resume, overwrite=overwrite, report=report
        )
        writer.replace_manifest(replace(manifest, parts=(part,)))
    return summary


def add_passages(
    passages: Iterable[GivenPassage],
    index_dir: str | Path,
    encoder: TextEncoder,
    *,
    update: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    disposable: bool = False,
    report: Callable[[int], None] = lambda count: None,
) -> BuildSummary:
    """Encodes `passages` into the index at `index_dir`; with `update`, replaces those in it.

    Readers see all of them or none. A call that ends early leaves the index as it was; `resume`
    continues it, and `overwrite` discards its unfinished part, as the next call does by itself if
    it is `disposable`. `report` is called with the number of passages stored so far. Raises
    `DirectoryError` if a passage is in the index already and `update` is false, or if the encoder
    is not the one that built the index; `FormatError` as `build_index` does.
    """
    given = iter_passages(passages)
    with IndexWriter(index_dir) as writer:
        manifest = writer.current
        embedder = open_fitting(manifest, index_dir, encoder)
        writer.merge_small()
        with Snapshot.open(index_dir) as snapshot:

            def check_new(ids: Sequence[str]) -> None:
                held = [] if update else np.flatnonzero(snapshot.contains(ids)).tolist()
                if held:
                    raise DirectoryError(
                        f"{counted(len(held), 'of these passages is', 'of these passages are')} in "
                        f"{index_dir} already, such as "
                        f"{ids[held[0]]}: replace them with `dipair-index update`, or leave them "
                        "out"
                    )

            building = PartBuilder(writer, manifest, encoder, embedder, None)
            part, summary = building.run(
                given,
                DISPOSABLE if disposable else "add",
                check_new,
                resume=resume,
                overwrite=overwrite,
                report=report,
            )
            parts = writer.mark_deleted(snapshot.parts, building.ids)
            replaced = len(snapshot) - sum(each.live for each in parts)
            writer.replace_manifest(replace(writer.current, parts=(*parts, part)))
    return summary._replace(replaced=replaced)


def _checked_side(side: str | None, encoder: TextEncoder) -> tuple[str, int]:
    """Returns the side of the texts, and the kept tokens of each if `Sizes` does not tell them.

    Raises `SettingsError` if the model has no such side, or if it must be named.
    """
    if side is None:
        refuse_tuples(encoder.sides)
        return PASSAGE, 0
    if side not in encoder.sides:
        raise SettingsError(
            f"{encoder.name} reads {', '.join(encoder.sides)}, and no {side}: name one of these "
            "sides"
        )
    if side in PAIR:
        return side, 0
    return side, encoder.encode_tokenised(Tokenised(side, [], 0)).tokens.shape[1]


@contextmanager
def _writer_of_new(index_dir: Path, *, overwrite: bool) -> Iterator[IndexWriter]:
    """Opens the writer of a new index; a directory in which nothing was stored is removed again."""
    made = not index_dir.exists()
    # if another process removes the directory meanwhile, WriterLock raises the error
    with suppress(FileExistsError):
        index_dir.mkdir(parents=True, exist_ok=True)
    with IndexWriter(index_dir, new=True) as writer:
        try:
            # another process may have built one while the models were loaded
            check_target(index_dir, overwrite=overwrite)
            yield writer
        finally:
            # while the lock is held, since another process may use the directory afterwards
            if made and os.listdir(index_dir) == [Layout(index_dir).writer_lock.name]:
                # another process may begin an index once the lock file is removed: errors ignored
                shutil.rmtree(index_dir, ignore_errors=True)


def _reusable_vectors(folder: Path, embedder: SentenceEmbedder) -> Path:
    """Returns the ANN folder in a dataset or an index.

    Raises `DirectoryError` if its vectors are not those of `embedder`.
    """
    if Layout(folder).is_finished():
        parts = Manifest.read(folder).parts
        if len(parts) != 1 or parts[0].deleted:
            raise DirectoryError(
                f"{folder} was changed since it was built, so its vectors cannot be reused: run "
                "`dipair-index compact` on it first"
            )
        folder = Layout(folder).part(parts[0].name).root
    if (folder / "ann").is_dir():
        folder = folder / "ann"
    source = AnnInfo.read(folder).source
    if not made_by(embedder, source.embedder_fingerprint):
        raise DirectoryError(
            f"{folder} holds vectors of {source.embedder} ({source.embedder_fingerprint}), not of "
            f"{embedder.name} ({embedder.fingerprint}): pass --vectors {source.embedder}, or omit "
            "--ann-from"
        )
    return folder
