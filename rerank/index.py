"""Retrieve, then rerank: the index directory as a user of the library holds it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from dipair_index.closing import Closing
from dipair_index.encoders.base import EncodedTexts, TextEncoder
from dipair_index.encoders.open import backend_for, open_encoder
from dipair_index.encoders.sentence_embedders import SentenceEmbedder
from dipair_index.errors import MissingPassagesError, SettingsError
from dipair_index.models.systems import Backend, Precision
from dipair_index.records import FloatArray, Passage, Query, Run
from dipair_index.rerank.fitting import open_fitting
from dipair_index.rerank.open_scorer import open_scorer
from dipair_index.rerank.ranking import (
    RankedPassage,
    Ranking,
    Rankings,
    Stopwatch,
    best_first,
    probability,
)
from dipair_index.rerank.scorer import Scorer
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot

if TYPE_CHECKING:
    from dipair_index.rerank.part_builder import BuildSummary


class DiPairIndex(Closing):
    """An index directory, with the model that it was built by.

        with DiPairIndex.open("dipair.index") as index:
            for passage in index.search("why does dough rise", top_k=3):
                ...

    Scores are in [0, 1]: the sigmoid of the head's logit, and (1 + cosine) / 2 where `rerank` is
    false. With `raw_scores` they are the logit and the cosine. Results carry their `timings`.
    """

    def __init__(
        self,
        path: Path,
        snapshot: Snapshot,
        encoder: TextEncoder,
        embedder: SentenceEmbedder,
        precision: Precision = "float32",
    ) -> None:
        self.path = path
        self._encoder = encoder
        self._embedder = embedder
        self._scorer: Scorer = open_scorer(encoder, precision)
        self._snapshot = snapshot

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: str | Path | TextEncoder | None = None,
        *,
        device: str = "cpu",
        backend: Backend = "auto",
        precision: Precision = "float32",
    ) -> DiPairIndex:
        """Opens an index with the model its manifest names, or with `model`.

        `backend` is that of `open_encoder`, `precision` that of the head. Raises
        `DirectoryError` where there is no index, where it is damaged, and where `model` is
        not the one that it was built by.
        """
        snapshot = Snapshot.open(path)
        try:
            manifest = snapshot.manifest
            if model is None or isinstance(model, (str, Path)):
                backend = backend_for(precision, backend)
                model = open_encoder(model or manifest.model, backend=backend, device=device)
            embedder = open_fitting(manifest, path, model)
        except BaseException:
            snapshot.close()
            raise
        return cls(Path(path), snapshot, model, embedder, precision)

    def refresh(self) -> bool:
        """Goes over to what the index is now; returns whether it has changed since it was opened.

        Until then, every call answers from the index as it was opened, whoever changes it.
        """
        if Manifest.read(self.path) == self.manifest:
            return False
        now = Snapshot.open(self.path)
        try:
            self._embedder = open_fitting(now.manifest, self.path, self._encoder)
        except BaseException:
            now.close()
            raise
        self._snapshot.close()
        self._snapshot = now
        return True

    def add(
        self,
        passages: Iterable[Passage],
        *,
        update: bool = False,
        resume: bool = False,
        overwrite: bool = False,
    ) -> BuildSummary:
        """Adds passages as `add_passages` does; with `update` they may be in the index already."""
        from dipair_index.rerank.build import add_passages

        summary = add_passages(
            passages, self.path, self._encoder, update=update, resume=resume, overwrite=overwrite
        )
        self.refresh()
        return summary

    def delete(self, passage_ids: Iterable[str]) -> int:
        """Takes passages out for good; `MissingPassagesError` where one is not in the index."""
        with IndexWriter(self.path) as writer:
            count = writer.delete(passage_ids)
        self.refresh()
        return count

    def compact(self) -> bool:
        """Makes the index what a build of its passages would make; false if it is that already."""
        with IndexWriter(self.path) as writer:
            changed = writer.compact()
            self.refresh()
            # this index read the old parts until now
            writer.tidy()
        return changed

    @property
    def manifest(self) -> Manifest:
        """What the index is."""
        return self._snapshot.manifest

    @overload
    def search(
        self,
        query: str,
        top_k: int = 10,
        candidates: int = 100,
        *,
        rerank: bool = True,
        raw_scores: bool = False,
    ) -> Ranking: ...

    @overload
    def search(
        self,
        query: list[str],
        top_k: int = 10,
        candidates: int = 100,
        *,
        rerank: bool = True,
        raw_scores: bool = False,
    ) -> Rankings: ...

    def search(
        self,
        query: str | list[str],
        top_k: int = 10,
        candidates: int = 100,
        *,
        rerank: bool = True,
        raw_scores: bool = False,
    ) -> Ranking | Rankings:
        """Returns the `top_k` best of the `candidates` nearest passages, best first, ties by id.

        One query gives one list, a list of queries a list of lists. Without `rerank` the
        `top_k` nearest passages are returned as they are.
        """
        queries = [query] if isinstance(query, str) else query
        _refuse(queries, top_k)
        if rerank and candidates < top_k:
            raise SettingsError(f"candidates must be top_k ({top_k}) or more, got {candidates}")
        watch = Stopwatch()
        encoded, vectors = self._encode(queries, watch)
        with watch.part("retrieve"):
            ids, similarities = self._snapshot.search(vectors, candidates if rerank else top_k)
        shared, rankings = watch.share(len(queries)), Rankings()
        for row, found in enumerate(ids):
            watch = Stopwatch(shared)
            retrieval = dict(zip(found, similarities[row].tolist(), strict=False))
            if rerank:
                logits = self._logits(encoded.tokens[row], found, watch)
                ranking = self._ranked(found, logits, top_k, raw_scores, retrieval)
            else:
                scores = [s if raw_scores else (1 + s) / 2 for s in retrieval.values()]
                ranking = self._described(found, np.clip(scores, -1, 1).tolist(), retrieval)
            rankings.append(Ranking(ranking, watch.timings))
        return rankings[0] if isinstance(query, str) else rankings

    def rerank(
        self,
        query: str,
        passage_ids: Iterable[str],
        top_k: int = 10,
        *,
        raw_scores: bool = False,
    ) -> Ranking:
        """Returns the `top_k` best of the given passages; `MissingPassagesError` names absent ones.

        An id that is given twice is ranked once.
        """
        _refuse([query], top_k)
        watch, ids = Stopwatch(), list(dict.fromkeys(passage_ids))
        with watch.part("encode"):
            encoded = self._encoder.encode_queries([query])
        logits = self._logits(encoded.tokens[0], ids, watch)
        return Ranking(self._ranked(ids, logits, top_k, raw_scores), watch.timings)

    def rerank_run(
        self,
        queries: Iterable[Query],
        run: Run,
        top_k: int = 10,
        *,
        raw_scores: bool = False,
    ) -> dict[str, Ranking]:
        """Reranks for each query the passages that the run names, and no others.

        `MissingPassagesError` names the query and the passages that are not in the index.
        """
        asked = list(queries)
        _refuse([query.text for query in asked], top_k)
        watch, rankings = Stopwatch(), {}
        with watch.part("encode"):
            encoded = self._encoder.encode_queries([query.text for query in asked])
        shared = watch.share(len(asked))
        for (query_id, _), tokens in zip(asked, encoded.tokens, strict=True):
            watch, scores = Stopwatch(shared), run.get(query_id, {})
            ids = sorted(scores, key=lambda passage_id: (-scores[passage_id], passage_id))
            try:
                logits = self._logits(tokens, ids, watch)
            except MissingPassagesError as error:
                raise MissingPassagesError(
                    f"the run ranks for query {query_id} what the index does not hold "
                    f"({error}): index these passages too, or take them out of the run"
                ) from error
            retrieval = {passage_id: scores[passage_id] for passage_id in ids}
            ranking = self._ranked(ids, logits, top_k, raw_scores, retrieval)
            rankings[query_id] = Ranking(ranking, watch.timings)
        return rankings

    def close(self) -> None:
        """Closes the stores; closing twice is fine."""
        self._snapshot.close()

    def __len__(self) -> int:
        return len(self._snapshot)

    def _encode(self, queries: list[str], watch: Stopwatch) -> tuple[EncodedTexts, FloatArray]:
        """Returns what the head reads of the queries, and the vectors that FAISS searches with."""
        with watch.part("encode"):
            encoded = self._encoder.encode_queries(queries)
            # the model's own vectors come from the same pass
            same = self.manifest.embedder == "model"
            return encoded, encoded.vectors if same else self._embedder.embed_queries(queries)

    def _logits(self, query_tokens: FloatArray, ids: list[str], watch: Stopwatch) -> FloatArray:
        with watch.part("gather"):
            rows = self._snapshot.encoded_tokens(ids)
        with watch.part("score"):
            logits = self._scorer.encoded_logits(query_tokens, rows, self._snapshot.codec)
            # equal passages have equal scores, though rounding depends on the place in a batch
            first: dict[bytes, int] = {}
            places = [first.setdefault(row.tobytes(), place) for place, row in enumerate(rows)]
            return logits[places]

    def _ranked(
        self,
        ids: list[str],
        logits: FloatArray,
        top_k: int,
        raw_scores: bool,
        retrieval: dict[str, float] | None = None,
    ) -> list[RankedPassage]:
        """Sorts by logit, since two logits may have the same sigmoid."""
        best = best_first(ids, logits, top_k)
        scores = [float(logits[place]) for place in best]
        if not raw_scores:
            scores = [probability(score) for score in scores]
        return self._described([ids[place] for place in best], scores, retrieval or {})

    def _described(
        self, ids: list[str], scores: list[float], retrieval: dict[str, float]
    ) -> list[RankedPassage]:
        """Adds texts and what the first stage said; `retrieval` is in its order."""
        before = {passage_id: rank for rank, passage_id in enumerate(retrieval, start=1)}
        return [
            RankedPassage(
                id=passage.passage_id,
                score=score,
                rank=rank,
                text=passage.text,
                title=passage.title,
                metadata=passage.metadata,
                retrieval_rank=before.get(passage.passage_id),
                retrieval_score=retrieval.get(passage.passage_id),
            )
            for rank, (passage, score) in enumerate(
                zip(self._snapshot.passages(ids), scores, strict=True), start=1
            )
        ]


def _refuse(queries: list[str], top_k: int) -> None:
    if top_k < 1:
        raise SettingsError(f"top_k must be 1 or more, got {top_k}")
    if not all(query.strip() for query in queries):
        raise SettingsError("a query is empty: give it some text")
