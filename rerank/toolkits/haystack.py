"""Haystack: a retriever over an index, and a ranker, as components of a pipeline.

Needs haystack-ai, the extra `[haystack]`. Both components can be written to YAML and read again:
they take names, and open what these name when they are warmed up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dipair_index.errors import FormatError
from dipair_index.optional import require

require("haystack", "dipair_index.rerank.toolkits.haystack")

from haystack import Document, component

from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.reranker import Reranker
from dipair_index.rerank.toolkits.texts import metadata_of, ranked_texts


@component
class DiPairRetriever:
    """Retrieves passages of an index and reranks them, as `DiPairIndex.search` does.

    A document has the passage's id, text, score and metadata, and its title, if it has one, as
    `title`.

    Parameters
    ----------
    index_dir : str
        The directory of the index.
    top_k : int or None
        The number of documents to return; None is all that were scored.
    candidates : int
        The number of passages that the head scores.
    search_settings : dict, optional
        Further arguments of `DiPairIndex.search`, such as `filter` or `first_stage`.
    """

    def __init__(
        self,
        index_dir: str,
        top_k: int | None = 10,
        candidates: int = 100,
        search_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.index_dir = index_dir
        self.top_k = top_k
        self.candidates = candidates
        self.search_settings = search_settings
        self._index: DiPairIndex | None = None

    def warm_up(self) -> None:
        """Opens the index, unless it is open; raises `DirectoryError` if there is none."""
        self._opened()

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """Returns the best documents for a query; `top_k` replaces the component's own."""
        found = self._opened().search(
            query,
            self.top_k if top_k is None else top_k,
            self.candidates,
            **(self.search_settings or {}),
        )
        return {
            "documents": [
                Document(
                    id=passage.id,
                    content=passage.text,
                    meta=metadata_of(passage),
                    score=passage.score,
                )
                for passage in found
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """As `run`, in another thread."""
        return await asyncio.to_thread(self.run, query, top_k)

    def _opened(self) -> DiPairIndex:
        if self._index is None:
            self._index = DiPairIndex.open(self.index_dir)
        return self._index


@component
class DiPairRanker:
    """Returns the documents that are best for a query with their scores, ties in the order given.

    Parameters
    ----------
    model : str, optional
        A DiPair model by folder or hub name; by default, the one in the package.
    top_k : int or None
        The number of documents to return; None is all of them.
    """

    def __init__(self, model: str | None = None, top_k: int | None = 10) -> None:
        self.model = model
        self.top_k = top_k
        self._reranker: Reranker | None = None

    def warm_up(self) -> None:
        """Loads the model, unless it is loaded; raises `ModelError` if there is none."""
        self._loaded()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Returns the best of the documents; `top_k` replaces the component's own.

        Raises `FormatError`, which names the document, if one has no text.
        """
        texts = []
        for document in documents:
            if document.content is None:
                raise FormatError(f"document {document.id} has no content to rank: leave it out")
            texts.append(document.content)
        count = self.top_k if top_k is None else top_k
        ranking = ranked_texts(self._loaded(), query, texts, count)
        return {"documents": [replace(documents[at], score=score) for at, score in ranking]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """As `run`, in another thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)

    def _loaded(self) -> Reranker:
        if self._reranker is None:
            self._reranker = Reranker(self.model)
        return self._reranker
