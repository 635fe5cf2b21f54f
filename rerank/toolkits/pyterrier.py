"""PyTerrier: an index as an artifact, with a retriever, a reranker and an indexer.

Needs pyterrier, the extra `[pyterrier]`, and no Java. `pt.Artifact.load` finds the artifact by the
entry points of setup.cfg.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dipair_index.optional import require

require("pyterrier", "dipair_index.rerank.toolkits.pyterrier")

import pandas as pd
import pyterrier as pt

from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.ranking import Ranking
from dipair_index.rerank.toolkits.raw_scores import with_raw_scores
from dipair_index.stores.index_directory import Layout

TYPE, FORMAT = "multi_vector_index", "dipair"
"""What PyTerrier knows the artifact by: `TYPE.FORMAT` is the name of its entry point."""


class DiPairArtifact(pt.Artifact):
    """An index directory as a PyTerrier artifact.

    Parameters
    ----------
    path : str or Path
        The directory of the index, which need not exist before `indexer` has made it.
    **settings
        Further arguments of `DiPairIndex.open`.

    Examples
    --------
    >>> artifact = DiPairArtifact("my.index")
    >>> pipeline = artifact.retriever() >> other_reranker
    >>> pipeline = pt.terrier.Retriever("terrier.index") >> artifact.reranker()
    """

    ARTIFACT_TYPE, ARTIFACT_FORMAT = TYPE, FORMAT
    ARTIFACT_PACKAGE_HINT = "dipair-index"

    def __init__(self, path: str | Path, **settings: Any) -> None:
        super().__init__(path)
        self._path, self._settings = Path(path), settings
        self._index: DiPairIndex | None = None

    @property
    def index(self) -> DiPairIndex:
        """The index, opened when it is first used; raises `DirectoryError` if there is none."""
        if self._index is None:
            self._index = DiPairIndex.open(self._path, **self._settings)
        return self._index

    def retriever(
        self, top_k: int | None = 100, candidates: int = 100, **search_settings: Any
    ) -> pt.Transformer:
        """Returns a transformer from queries to the results of `DiPairIndex.search`.

        Scores are logits, unless `search_settings`, further arguments, say otherwise.
        """
        return DiPairRetriever(self, top_k, candidates, with_raw_scores(search_settings))

    def reranker(self) -> pt.Transformer:
        """Returns a transformer that gives results the head's logits, by their `docno`.

        It raises `MissingPassagesError`, which names them, if some are not in the index.
        """
        return DiPairReranker(self)

    def indexer(self, **build_settings: Any) -> pt.Indexer:
        """Returns an indexer that builds the index, with the arguments of `DiPairIndex.build`."""
        return DiPairIndexer(self, build_settings)


class DiPairRetriever(pt.Transformer):
    """From `qid` and `query` to results, with their titles and texts: see `DiPairArtifact`."""

    def __init__(
        self,
        artifact: DiPairArtifact,
        top_k: int | None,
        candidates: int,
        search_settings: dict[str, Any],
    ) -> None:
        self.artifact = artifact
        self.top_k, self.candidates, self.search_settings = top_k, candidates, search_settings

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Returns the results of the queries, best first."""
        pt.validate.query_frame(inp, extra_columns=["query"])
        queries = inp[pt.model.query_columns(inp)]
        rankings: list[Ranking] = []
        if len(queries):
            rankings = self.artifact.index.search(
                [*queries["query"]], self.top_k, self.candidates, **self.search_settings
            )
        results = _results(queries["qid"], rankings, "title", "text")
        return queries.merge(results, on="qid")


class DiPairReranker(pt.Transformer):
    """From results to the same ones with the head's scores, best first: see `DiPairArtifact`."""

    def __init__(self, artifact: DiPairArtifact) -> None:
        self.artifact = artifact

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Returns the results in their new order, with their other columns."""
        pt.validate.result_frame(inp, extra_columns=["query"])
        groups = inp.groupby("qid", sort=False)
        rankings: list[Ranking] = []
        if len(inp):
            rankings = self.artifact.index.rerank(
                [*groups["query"].first()], [*groups["docno"].agg(list)], raw_scores=True
            )
        others = inp.drop(columns=["score", "rank"], errors="ignore")
        return _results(groups.groups, rankings).merge(others, on=["qid", "docno"])


class DiPairIndexer(pt.Indexer):
    """Builds an index of documents with `docno`, `text` and perhaps `title`.

    Their other columns become metadata.
    """

    def __init__(self, artifact: DiPairArtifact, build_settings: dict[str, Any]) -> None:
        self.artifact, self.build_settings = artifact, build_settings

    def index_inputs(self) -> list[list[str]]:
        """The columns without which there is no index."""
        return [["docno", "text"]]

    def index(self, iter: Iterable[dict[str, Any]], **kwargs: Any) -> DiPairArtifact:
        """Returns the artifact of the built index; raises what `DiPairIndex.build` does."""
        passages = (
            {"id": document["docno"], **{k: v for k, v in document.items() if k != "docno"}}
            for document in iter
        )
        settings = {**self.build_settings, **kwargs}
        self.artifact._index = DiPairIndex.build(passages, self.artifact._path, **settings)
        return self.artifact


def index_metadata(path: str, listing: Sequence[str]) -> dict[str, str] | None:
    """Returns by what name PyTerrier loads a directory, if it is an index of this package."""
    return {"type": TYPE, "format": FORMAT} if Layout(Path(path)).is_finished() else None


def _results(qids: Iterable[str], rankings: Sequence[Ranking], *fields: str) -> pd.DataFrame:
    """Returns the rankings of queries as rows, with further fields of the passages."""
    rows = [
        (
            qid,
            passage.id,
            passage.score,
            pt.model.FIRST_RANK + passage.rank - 1,
            *(getattr(passage, field) for field in fields),
        )
        for qid, ranking in zip(qids, rankings, strict=False)
        for passage in ranking
    ]
    return pd.DataFrame(rows, columns=["qid", "docno", "score", "rank", *fields])
