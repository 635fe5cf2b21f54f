"""`DiPairIndex`, the main class of the library: builds, opens, changes and searches an index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dipair_index.closing import Closing
from dipair_index.encoders.base import TextEncoder
from dipair_index.encoders.open import backend_for, open_encoder
from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import SettingsError
from dipair_index.locks import ForkSafeLock
from dipair_index.models.systems import Backend, EncodingPrecision, Precision
from dipair_index.progress import Report
from dipair_index.rerank.arguments import GivenPassage, checked_ids
from dipair_index.rerank.fitting import open_fitting, refuse_other_sides
from dipair_index.rerank.open_scorer import open_token_scorer
from dipair_index.rerank.opened import Current, Opened
from dipair_index.rerank.search import Searcher
from dipair_index.rerank.text_cache import SHARED_CACHE, TextCache
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.names import CUT, DEFAULT_CODEC
from dipair_index.stores.snapshot import Snapshot, joined_manifest
from dipair_index.words import listed

if TYPE_CHECKING:
    from dipair_index.rerank.part_builder import BuildSummary


class DiPairIndex(Searcher, Closing):
    """An index directory, opened with the model that built it.

    Threads may share it, even while one of them changes it: each search answers from the index as
    it was when the search began. Changes by other processes are seen after `refresh`. It is a
    context manager.

    Scores are in [0, 1]: the sigmoid of the head's logit, and (1 + cosine) / 2 if `rerank` is
    false. With `raw_scores` they are the logit and the cosine.

    Examples
    --------
    >>> from dipair_index import DiPairIndex, Passage
    >>> passages = [
    ...     Passage("p1", "Yeast eats sugar and gives off gas, which makes dough rise."),
    ...     Passage("p2", "Bees dance to tell where flowers are."),
    ... ]
    >>> with DiPairIndex.build(passages, "my.index", overwrite=True) as index:
    ...     [passage.id for passage in index.search("why does dough rise")]
    ['p1', 'p2']
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        snapshot: Snapshot,
        encoder: TextEncoder,
        embedder: SentenceEmbedder,
        precision: Precision = "float32",
        cache: TextCache | None = None,
    ) -> None:
        # absolute, since the working directory of the process may change
        self.paths = tuple(each.absolute() for each in _paths(path))
        current = Current(listed(map(str, _paths(path))), Opened(snapshot, embedder))
        super().__init__(
            encoder,
            open_token_scorer(encoder, precision),
            current,
            SHARED_CACHE if cache is None else cache,
        )
        self._current: Current = current
        self._refreshing, self._writing = ForkSafeLock(), ForkSafeLock()

    @classmethod
    def build(
        cls,
        passages: Iterable[GivenPassage],
        path: str | Path,
        *,
        model: str | Path | TextEncoder | None = None,
        device: str = "cpu",
        backend: Backend = "auto",
        batch_size: int | None = None,
        encode_precision: EncodingPrecision = "float32",
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
        report: Report = lambda count: None,
        precision: Precision = "float32",
        cache: TextCache | None = None,
    ) -> DiPairIndex:
        """Builds an index of passages in the directory `path`, and opens it.

        Parameters
        ----------
        passages : iterable
            `Passage` objects, (id, text) or (id, text, title) tuples, or mappings with `id`, `text`
            and perhaps `title`, whose other values become metadata. Ids are unique.
        path : str or Path
            The directory, which is made.
        model : str, Path or encoder, optional
            A DiPair model by folder or hub name, or as `open_encoder` opened it. The default is
            the one in the package.
        device, backend, batch_size, encode_precision
            As `open_encoder` takes them; the last is its `precision`.
        vectors : str
            The embedder of the vectors that are searched: "model", "use", or a transformers
            encoder by name.
        store, store_url, codec
            The token store ("lmdb" or "tensorstore"), the URL for the latter, and the codec of the
            token embeddings ("float32", "float16", "int8" or "int4").
        lexical : bool
            Whether to keep a BM25 index of the passages' words too, which needs tantivy, for
            `search` with `first_stage`.
        long : {"cut", "split"}
            Passages that are longer than the model reads lose their end, or are split into
            overlapping windows, of which the best counts.
        ann, ann_from, seed
            The kind of FAISS index ("flat", "hnsw", "ivf" or a factory string), the dataset or
            index whose vectors are reused, and the seed of its training.
        resume, overwrite : bool
            Continue an interrupted build, or replace an index that exists.
        report : callable
            Called with the count of passages that are done.
        precision, cache
            As in `open`.

        Returns
        -------
        DiPairIndex

        Raises
        ------
        DirectoryError
            If there is an index at `path` and `overwrite` is false, or if `path` is not an index.
        FormatError
            If a passage is invalid, or if its id is repeated.
        SettingsError
            If settings are invalid.
        ModelError
            If there is no such model.

        Examples
        --------
        >>> pairs = [("p1", "Yeast makes gas."), ("p2", "Bees dance.")]
        >>> index = DiPairIndex.build(pairs, "small.index", codec="float16", overwrite=True)
        >>> len(index)
        2
        """
        from dipair_index.rerank.build import build_index

        path = Path(path).absolute()
        encoder = _encoder(
            model, backend_for(precision, backend), device, batch_size, encode_precision
        )
        build_index(
            passages,
            path,
            encoder,
            vectors=vectors,
            store=store,
            store_url=store_url,
            codec=codec,
            lexical=lexical,
            long=long,
            ann=ann,
            ann_from=ann_from,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            report=report,
        )
        return cls.open(path, encoder, precision=precision, cache=cache)

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str | Path],
        model: str | Path | TextEncoder | None = None,
        *,
        device: str = "cpu",
        backend: Backend = "auto",
        precision: Precision = "float32",
        cache: TextCache | None = None,
    ) -> DiPairIndex:
        """Opens an index with the model its manifest names, or with `model`.

        Parameters
        ----------
        path : str, Path or list of them
            An index directory, or several that are searched as one: they have the same settings,
            and each passage is in one of them. Several cannot be changed through this object.
        model : str, Path or encoder, optional
            The model that built the index, if it is elsewhere now or is open already.
        device, backend
            As `open_encoder` takes them.
        precision : {"float32", "bfloat16"}
            The number type that the head computes in.
        cache : TextCache, optional
            The cache of encoded texts that are not in the index, for `rerank`. By default, all
            indexes and rerankers of a process share one.

        Returns
        -------
        DiPairIndex

        Raises
        ------
        DirectoryError
            If there is no index, if it is damaged, or if another model built it.
        ModelError
            If there is no such model.

        Examples
        --------
        >>> with DiPairIndex.open("my.index") as index:
        ...     index.manifest.codec
        'int6'
        """
        paths = _paths(path)
        snapshot = Snapshot.open(*paths)
        try:
            manifest = snapshot.manifest
            refuse_other_sides(manifest, paths[0])
            encoder = _encoder(model or manifest.model, backend_for(precision, backend), device)
            embedder = open_fitting(manifest, paths[0], encoder)
            return cls(path, snapshot, encoder, embedder, precision, cache)
        except BaseException:
            snapshot.close()
            raise

    def refresh(self) -> bool:
        """Reloads the index if it changed; searches that have begun use the old version to the end.

        Returns
        -------
        bool
            Whether it has changed since it was opened or refreshed.

        Examples
        --------
        >>> with DiPairIndex.open("my.index") as index:
        ...     index.refresh()
        False
        """
        with self._refreshing, self._current.lent() as before:
            manifests = [Manifest.read(path) for path in self.paths]
            if joined_manifest(self.paths, manifests) == before.snapshot.manifest:
                return False
            snapshot = Snapshot.open(*self.paths)
            try:
                embedder = open_fitting(
                    snapshot.manifest, self.paths[0], self._encoder, before.embedder
                )
            except BaseException:
                snapshot.close()
                raise
            self._current.replace(Opened(snapshot, embedder))
        return True

    def add(
        self,
        passages: Iterable[GivenPassage],
        *,
        update: bool = False,
        resume: bool = False,
        overwrite: bool = False,
        report: Report = lambda count: None,
    ) -> BuildSummary:
        """Adds passages, all or none, to the index.

        Parameters
        ----------
        passages : iterable
            As `build` takes them.
        update : bool
            Replace passages whose ids are in the index already, instead of raising an error.
        resume, overwrite : bool
            Continue an interrupted call with the same passages, or discard its unfinished part.
        report : callable
            Called with the count of passages that are done.

        Returns
        -------
        BuildSummary

        Raises
        ------
        DirectoryError
            If passages are in the index already, or another process is changing it.

        Examples
        --------
        >>> with DiPairIndex.open("my.index") as index:
        ...     summary = index.add([Passage("p3", "Tides follow the moon.")], update=True)
        ...     len(index)
        3
        """
        from dipair_index.rerank.build import add_passages

        with self._writing:
            summary = add_passages(
                passages,
                self.path,
                self._encoder,
                update=update,
                resume=resume,
                overwrite=overwrite,
                report=report,
            )
            self.refresh()
        return summary

    def delete(self, passage_ids: Iterable[str]) -> int:
        """Deletes passages, all or none, and returns their number.

        Raises `MissingPassagesError` if one is not in the index.

        Examples
        --------
        >>> with DiPairIndex.open("my.index") as index:
        ...     _ = index.add([("p9", "To be deleted.")], update=True)
        ...     index.delete(["p9"])
        1
        """
        ids = checked_ids(passage_ids)
        with self._writing:
            with IndexWriter(self.path) as writer:
                count = writer.delete(ids)
            self.refresh()
        return count

    def compact(self) -> bool:
        """Rewrites the index as one part without deleted passages.

        Returns whether that changed the index.

        Examples
        --------
        >>> with DiPairIndex.open("my.index") as index:
        ...     _ = index.compact()
        ...     index.compact()
        False
        """
        with self._writing, IndexWriter(self.path) as writer:
            changed = writer.compact()
            self.refresh()
            # the old parts, which this index has read until now
            writer.collect_garbage()
        return changed

    @property
    def path(self) -> Path:
        """The directory of the index; raises `SettingsError` if several are searched as one."""
        if len(self.paths) > 1:
            raise SettingsError(
                f"{listed(map(str, self.paths))} are searched as one: change each of them by "
                "itself, then call refresh"
            )
        return self.paths[0]

    @property
    def manifest(self) -> Manifest:
        """The settings and the parts of the index, or of all that are searched as one."""
        return self._current.latest.snapshot.manifest

    def close(self) -> None:
        """Closes the index after the searches that have begun; closing twice is fine."""
        self._current.replace(None)

    def __len__(self) -> int:
        return len(self._current.latest.snapshot)


def _encoder(
    model: str | Path | TextEncoder | None,
    backend: Backend,
    device: str,
    batch_size: int | None = None,
    precision: EncodingPrecision = "float32",
) -> TextEncoder:
    """Opens `model`, unless it is open already."""
    if model is not None and not isinstance(model, (str, Path)):
        return model
    return open_encoder(
        model, backend=backend, device=device, batch_size=batch_size, precision=precision
    )


def _paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Returns one path or several as a list; raises `SettingsError` if there is none."""
    found = [Path(path)] if isinstance(path, (str, Path)) else [Path(each) for each in path]
    if not found:
        raise SettingsError("there is no index to open: give one path or several")
    return found
