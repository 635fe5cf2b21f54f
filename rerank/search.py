"""Answers queries from an open index: retrieve, gather, score, sort."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import overload

import numpy as np

from dipair_index.encoders.base import EncodedTexts, TextEncoder
from dipair_index.errors import MissingPassagesError, SettingsError
from dipair_index.records import FloatArray, Passage, Query, Run
from dipair_index.rerank.arguments import (
    checked_count,
    checked_queries,
    checked_run_queries,
    checked_top_k,
)
from dipair_index.rerank.candidates import Candidate, candidates_of, candidates_of_each
from dipair_index.rerank.first_stage import checked_first_stage, retrieve, shown_score
from dipair_index.rerank.fusion import checked_fusion
from dipair_index.rerank.long_texts import best_window, windows_of
from dipair_index.rerank.metadata_filter import Filter, checked_filter
from dipair_index.rerank.names import FirstStage, FusionMethod
from dipair_index.rerank.opened import Lender, Opened, Pinned
from dipair_index.rerank.ranking import Ranking, Rankings, Stopwatch
from dipair_index.rerank.results import best_candidates, described, ranked_candidates
from dipair_index.rerank.scorer import TokenScorer
from dipair_index.rerank.text_cache import TextCache
from dipair_index.stores.codecs import EncodedRows
from dipair_index.stores.id_table import Integers
from dipair_index.stores.snapshot import Snapshot


class Searcher:
    """The base class of `DiPairIndex` that answers queries."""

    def __init__(
        self, encoder: TextEncoder, scorer: TokenScorer, current: Lender, cache: TextCache
    ) -> None:
        self._encoder = encoder
        self._scorer = scorer
        self._current = current
        self._cache = cache

    @overload
    def search(
        self,
        query: str,
        top_k: int | None = 10,
        candidates: int = 100,
        *,
        rerank: bool = True,
        raw_scores: bool = False,
        first_stage: FirstStage = "vectors",
        fusion: FusionMethod | None = None,
        weight: float | None = None,
        filter: Filter | None = None,
    ) -> Ranking: ...

    @overload
    def search(
        self,
        query: list[str],
        top_k: int | None = 10,
        candidates: int = 100,
        *,
        rerank: bool = True,
        raw_scores: bool = False,
        first_stage: FirstStage = "vectors",
        fusion: FusionMethod | None = None,
        weight: float | None = None,
        filter: Filter | None = None,
    ) -> Rankings: ...

    def search(
        self,
        query: str | list[str],
        top_k: int | None = 10,
        candidates: int = 100,
        *,
        rerank: bool = True,
        raw_scores: bool = False,
        first_stage: FirstStage = "vectors",
        fusion: FusionMethod | None = None,
        weight: float | None = None,
        filter: Filter | None = None,
    ) -> Ranking | Rankings:
        """Returns the best of the passages that a first stage finds, best first, ties by id.

        Parameters
        ----------
        query : str or list of str
            One query, or several, which are encoded together.
        top_k : int or None
            The number of passages to return per query; None is all that were scored.
        candidates : int
            The number of passages to retrieve per query, which the head then scores.
        rerank : bool
            If false, passages are returned as they were retrieved.
        raw_scores : bool
            Return logits, cosines or BM25, instead of scores in [0, 1].
        first_stage : {"vectors", "lexical", "both"}
            Retrieve the nearest passages, those with the highest BM25, or a fusion of the two; the
            last two need an index that was built with `lexical`.
        fusion : {"rrf", "weighted"}, optional
            Order passages by the first stage and the head together, instead of by the head alone:
            by reciprocal ranks, or by the weighted sum of both scores, each mapped to [0, 1] among
            the query's candidates. Scores are the fused ones. With "both", vectors and words are
            fused by the same method, by default "weighted".
        weight : float, optional
            The head's share of a weighted fusion, from 0 to 1.
        filter : dict, optional
            Conditions on the metadata of the passages, all of which must hold: a value that a field
            equals, a list of values of which it equals one, or bounds, as in
            `{"language": ["en", "fr"], "year": {"gte": 2000, "lt": 2010}}`. The best
            `candidates` that fulfil them are retrieved, and fewer only if no more do. See
            `dipair_index.rerank.metadata_filter` for the details.

        Returns
        -------
        Ranking or Rankings
            A list of `RankedPassage` with its `timings`; of several queries, a list of such lists.

        Raises
        ------
        SettingsError
            If a query is empty or not a str, if a number or the filter is invalid, or if
            settings contradict each other.

        Examples
        --------
        >>> with DiPairIndex.open("my.index") as index:
        ...     best = index.search("why does dough rise", top_k=1)
        ...     best[0].id, best[0].rank, best.timings.score > 0
        ('p1', 1, True)
        """
        queries, top_k = checked_queries(query), checked_top_k(top_k)
        candidates = checked_count("candidates", candidates)
        matches = checked_filter(filter)
        if rerank and top_k is not None and candidates < top_k:
            raise SettingsError(f"candidates must be top_k ({top_k}) or more, got {candidates}")
        stage = checked_first_stage(first_stage)
        fused = checked_fusion(fusion, weight, raw_scores=raw_scores)
        if not rerank and (weight is not None or (fused and stage != "both")):
            raise SettingsError("fusion needs the head's ranking: leave out rerank=False or fusion")
        watch, rankings = Stopwatch(), Rankings()
        with self._current.lent() as opened:
            if rerank or stage != "lexical":
                encoded, vectors = self._encode(queries, opened, watch)
            else:
                vectors = np.empty((len(queries), 0), np.float32)
            with watch.step("retrieve"):
                count = candidates if rerank or top_k is None else top_k
                method = fused.method if fused else "weighted"
                found = retrieve(opened.snapshot, stage, queries, vectors, count, method, matches)
            shared = watch.share(len(queries))
            for row, retrieval in enumerate(found):
                watch = Stopwatch(shared)
                named = [*map(Candidate.named, retrieval)]
                if rerank:
                    logits = self._logits(encoded.tokens[row], named, opened.snapshot, watch)
                    ranked = ranked_candidates(named, logits, retrieval, fused, top_k, raw_scores)
                else:
                    ranked = [
                        (each, shown_score(stage, retrieval[each.id], raw=raw_scores))
                        for each in named
                    ]
                rankings.append(described(ranked, opened.snapshot, watch, retrieval))
        return rankings[0] if isinstance(query, str) else rankings

    @overload
    def rerank(
        self,
        query: str,
        passages: Iterable[str | Passage] | None = None,
        top_k: int | None = None,
        *,
        texts: Iterable[str] | None = None,
        raw_scores: bool = False,
    ) -> Ranking: ...

    @overload
    def rerank(
        self,
        query: list[str],
        passages: Iterable[Iterable[str | Passage]] | None = None,
        top_k: int | None = None,
        *,
        texts: Iterable[Iterable[str]] | None = None,
        raw_scores: bool = False,
    ) -> Rankings: ...

    def rerank(
        self,
        query: str | list[str],
        passages: Iterable[str | Passage] | Iterable[Iterable[str | Passage]] | None = None,
        top_k: int | None = None,
        *,
        texts: Iterable[str] | Iterable[Iterable[str]] | None = None,
        raw_scores: bool = False,
    ) -> Ranking | Rankings:
        """Returns the best of the given passages, best first, whatever else the index holds.

        Texts, and passages given as `Passage`, are looked up by their text in the index, then in
        the cache, and encoded otherwise. Their scores are the same in all three cases.

        Parameters
        ----------
        query : str or list of str
            One query, or several with a list of passages or texts each.
        passages : list of str or Passage
            Ids of indexed passages, or `Passage` objects. Repeated ones are ranked once.
        top_k : int or None
            The number of passages to return per query; None is all of them.
        texts : list of str
            Texts instead of `passages`; their ids are their positions ("0", "1" and so on).
        raw_scores : bool
            Return logits instead of scores in [0, 1].

        Returns
        -------
        Ranking or Rankings
            As `search` does. Ties are in the order of ids, those of texts in the order given.

        Raises
        ------
        MissingPassagesError
            If ids are not in the index; the message names them.
        SettingsError
            If a query, a passage or a number is invalid.

        Examples
        --------
        >>> with DiPairIndex.open("my.index") as index:
        ...     [passage.id for passage in index.rerank("why does dough rise", ["p2", "p1"])]
        ['p1', 'p2']
        >>> with DiPairIndex.open("my.index") as index:
        ...     best = index.rerank("why does dough rise", texts=["Bees dance.", "Yeast gas."])
        ...     best[0].text
        'Yeast gas.'
        """
        queries, top_k = checked_queries(query), checked_top_k(top_k)
        one = isinstance(query, str)
        given = (
            [candidates_of(passages, texts)]
            if one
            else (candidates_of_each(queries, passages, texts))
        )
        watch, rankings = Stopwatch(), Rankings()
        with self._current.lent() as opened:
            with watch.step("encode"):
                encoded = self._encoder.encode_queries(queries)
            shared = watch.share(len(queries))
            for tokens, candidates in zip(encoded.tokens, given, strict=True):
                watch = Stopwatch(shared)
                logits = self._logits(tokens, candidates, opened.snapshot, watch)
                best = best_candidates(candidates, logits, top_k, raw_scores)
                rankings.append(described(best, opened.snapshot, watch))
        return rankings[0] if one else rankings

    def rerank_run(
        self,
        queries: Iterable[Query],
        run: Run,
        top_k: int | None = None,
        *,
        raw_scores: bool = False,
        fusion: FusionMethod | None = None,
        weight: float | None = None,
    ) -> dict[str, Ranking]:
        """Reranks the passages that a run has for each query; returns rankings by query id.

        `top_k` and `raw_scores` are those of `rerank`. `fusion` and `weight` are those of `search`,
        with the run's scores in place of the vector search's. Raises `MissingPassagesError`, which
        names the query and the passages, if passages of the run are not in the index, and
        `SettingsError` if a query is not a `Query`, if the run has another type, or if settings are
        invalid.

        Examples
        --------
        >>> from dipair_index import Query
        >>> run = {"q1": {"p1": 12.5, "p2": 12.0}}
        >>> with DiPairIndex.open("my.index") as index:
        ...     ranked = index.rerank_run([Query("q1", "why does dough rise")], run)
        ...     [passage.retrieval_score for passage in ranked["q1"]]
        [12.5, 12.0]
        """
        asked, top_k = checked_run_queries(queries, run), checked_top_k(top_k)
        fused = checked_fusion(fusion, weight, raw_scores=raw_scores)
        texts = checked_queries([query.text for query in asked])
        watch, rankings = Stopwatch(), {}
        with self._current.lent() as opened:
            with watch.step("encode"):
                encoded = self._encoder.encode_queries(texts)
            shared = watch.share(len(asked))
            for (query_id, _), tokens in zip(asked, encoded.tokens, strict=True):
                watch, scores = Stopwatch(shared), run.get(query_id, {})
                ids = sorted(scores, key=lambda passage_id: (-scores[passage_id], passage_id))
                named = [Candidate.named(passage_id) for passage_id in ids]
                try:
                    logits = self._logits(tokens, named, opened.snapshot, watch)
                except MissingPassagesError as error:
                    raise MissingPassagesError(
                        f"the run has passages for query {query_id} that the index does not have "
                        f"({error}): index these passages too, or remove them from the run"
                    ) from error
                retrieval = {passage_id: scores[passage_id] for passage_id in ids}
                best = ranked_candidates(named, logits, retrieval, fused, top_k, raw_scores)
                rankings[query_id] = described(best, opened.snapshot, watch, retrieval)
        return rankings

    @property
    def encoder(self) -> TextEncoder:
        """The encoder of the model that built the index."""
        return self._encoder

    @property
    def scorer(self) -> TokenScorer:
        """The head, as a scorer of a query's tokens against passages' tokens."""
        return self._scorer

    def lent(self) -> AbstractContextManager[Opened]:
        """Lends the index as it is now for a block, whatever changes meanwhile."""
        return self._current.lent()

    @contextmanager
    def pinned(self) -> Iterator[Searcher]:
        """Lends the index as it is now, for several searches that answer from one state of it."""
        with self.lent() as opened:
            yield Searcher(self._encoder, self._scorer, Pinned(opened), self._cache)

    def _encode(
        self, queries: list[str], opened: Opened, watch: Stopwatch
    ) -> tuple[EncodedTexts, FloatArray]:
        """Returns the encoded queries, and the vectors for the vector search."""
        with watch.step("encode"):
            encoded = self._encoder.encode_queries(queries)
            # the model's own vectors come from the same pass
            same = opened.snapshot.manifest.embedder == "model"
            return encoded, encoded.vectors if same else opened.embedder.embed_queries(queries)

    def _logits(
        self,
        query_tokens: FloatArray,
        candidates: Sequence[Candidate],
        snapshot: Snapshot,
        watch: Stopwatch,
    ) -> FloatArray:
        with watch.step("gather"):
            rows, owners = self._rows(candidates, snapshot)
        with watch.step("score"):
            logits = self._scorer.encoded_logits(query_tokens, rows, snapshot.codec)
            return best_window(logits, owners, len(candidates))

    def _rows(
        self, candidates: Sequence[Candidate], snapshot: Snapshot
    ) -> tuple[EncodedRows, Integers]:
        """Returns the encoded tokens of windows, and the candidate that each belongs to.

        They are from the index by id or text, from the cache, or computed.
        """
        given = [each.passage.full_text for each in candidates if each.passage is not None]
        ids = [each.id for each in candidates if each.passage is None]
        stored, owners = snapshot.encoded_windows(ids)
        if not given:
            return stored, owners
        named = np.array([each.passage is None for each in candidates], bool)
        texts, counts = windows_of(self._encoder, snapshot.manifest, given)
        rows = np.empty((len(texts), snapshot.codec.bytes_per_passage), np.uint8)
        held = snapshot.find_texts(texts)
        known = [index for index, passage_id in enumerate(held) if passage_id is not None]
        others = [index for index, passage_id in enumerate(held) if passage_id is None]
        rows[known] = snapshot.encoded_tokens([each for each in held if each is not None])
        unknown = [texts[index] for index in others]
        rows[others] = self._cache.rows(unknown, self._encoder, snapshot.codec)
        places = np.flatnonzero(named)[owners], np.repeat(np.flatnonzero(~named), counts)
        return np.concatenate([stored, rows]), np.concatenate(places)
