"""Builds an index directory, and adds to one."""

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
from dipair_index.encoders.sentence_embedders import SentenceEmbedder, made_by, open_embedder
from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.models.sources import lasting_name
from dipair_index.optional import installed_versions
from dipair_index.rerank.arguments import GivenPassage, iter_passages
from dipair_index.rerank.fitting import open_fitting
from dipair_index.rerank.part_builder import BuildSummary, PartBuilder
from dipair_index.stores.ann import AnnInfo
from dipair_index.stores.faiss_kinds import check_kind
from dipair_index.stores.index_directory import Layout, check_target
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot
from dipair_index.words import counted

NAMED_VECTORS = ("model", "use")


def build_index(
    passages: Iterable[GivenPassage],
    index_dir: str | Path,
    encoder: TextEncoder,
    *,
    vectors: str = "model",
    store: str = "lmdb",
    store_url: str = "",
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
    transformers encoder by name. `store` is a kind of `open_token_store`, and with `store_url`
    tokens are kept below that URL. `ann` is a kind of `FaissIndex`: that of `ann_from`, the
    dataset or index whose vectors are taken over, or "flat". `report` is told the passages done
    so far.

    Whatever ends the build, Ctrl-C included, leaves what is done for `resume`, and an index that
    is to be overwritten as it was. Raises `DirectoryError` for an index that exists and is
    not to be overwritten, and for an unfinished build or an `ann_from` that does not fit;
    `SettingsError` for settings that cannot work, and for a model of tuples.

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
    refuse_tuples(encoder.sides)
    embedder = open_embedder(vectors, dual_encoder=encoder, device=encoder.device)
    taken = None if ann_from is None else _taken_from(Path(ann_from), embedder)
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
        ann_kind=ann or (AnnInfo.read(taken).kind if taken else "flat"),
        seed=int(seed),
        store_url=store_url,
        library_versions=installed_versions("faiss-cpu", "lmdb", "onnxruntime", "torch"),
    )
    with _writer_of_new(index_dir, overwrite=overwrite) as writer:
        building = PartBuilder(writer, manifest, encoder, embedder, taken)
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
    report: Callable[[int], None] = lambda count: None,
) -> BuildSummary:
    """Encodes `passages` into the index at `index_dir`; with `update` they may be in it already.

    Readers see all of them or none. Whatever ends it leaves the index as it was, and what is done
    for `resume`; `overwrite` throws away what an interrupted one has left. Raises
    `DirectoryError` naming passages that are in the index already, without `update`.
    """
    given = iter_passages(passages)
    with IndexWriter(index_dir) as writer:
        manifest = writer.current
        embedder = open_fitting(manifest, index_dir, encoder)
        writer.merge_small()
        with Snapshot.open(index_dir) as now:

            def refuse(ids: Sequence[str]) -> None:
                held = [] if update else np.flatnonzero(now.contains(ids)).tolist()
                if held:
                    raise DirectoryError(
                        f"{counted(len(held), 'of these passages is', 'of these passages are')} in "
                        f"{index_dir} already, such as "
                        f"{ids[held[0]]}: replace them with `dipair-index update`, or leave them "
                        "out"
                    )

            building = PartBuilder(writer, manifest, encoder, embedder, None)
            part, summary = building.run(
                given, "add", refuse, resume=resume, overwrite=overwrite, report=report
            )
            parts = writer.mark_deleted(now.parts, building.ids)
            replaced = len(now) - sum(each.live for each in parts)
            writer.replace_manifest(replace(writer.current, parts=(*parts, part)))
    return summary._replace(replaced=replaced)


@contextmanager
def _writer_of_new(index_dir: Path, *, overwrite: bool) -> Iterator[IndexWriter]:
    """A writer of an index that may not be there yet; nothing is left where nothing was stored."""
    made = not index_dir.exists()
    # where another process removes it at this moment, the writer's lock says so
    with suppress(FileExistsError):
        index_dir.mkdir(parents=True, exist_ok=True)
    with IndexWriter(index_dir, new=True) as writer:
        try:
            # another process may have built one while the models were loaded
            check_target(index_dir, overwrite=overwrite)
            yield writer
        finally:
            # while the lock is held: it may be another's as soon as it is let go
            if made and os.listdir(index_dir) == [Layout(index_dir).writer_lock.name]:
                # once its file is gone another may begin there, and keeps the folder
                shutil.rmtree(index_dir, ignore_errors=True)


def _taken_from(folder: Path, embedder: SentenceEmbedder) -> Path:
    """Returns the ANN folder in a dataset or an index; its vectors must be the embedder's."""
    if Layout(folder).is_finished():
        parts = Manifest.read(folder).parts
        if len(parts) != 1 or parts[0].deleted:
            raise DirectoryError(
                f"{folder} was changed since it was built, so its vectors cannot be taken over as "
                "they are: run `dipair-index compact` on it first"
            )
        folder = Layout(folder).part(parts[0].name).root
    if (folder / "ann").is_dir():
        folder = folder / "ann"
    source = AnnInfo.read(folder).source
    if not made_by(embedder, source.embedder_fingerprint):
        raise DirectoryError(
            f"{folder} holds vectors of {source.embedder} ({source.embedder_fingerprint}), not of "
            f"{embedder.name} ({embedder.fingerprint}): pass --vectors {source.embedder}, or leave "
            "--ann-from away"
        )
    return folder
