"""LangChain: a retriever over an index, and a document compressor that reranks.

Needs langchain-core alone, the extra `[langchain]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dipair_index.optional import require

require("langchain", "dipair_index.rerank.toolkits.langchain")

from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.reranker import Reranker
from dipair_index.rerank.toolkits.texts import TextRanker, metadata_of, ranked_texts

SCORE = "relevance_score"
"""The metadata field of a document's score, as LangChain's other rerankers name it."""


class DiPairRetriever(BaseRetriever):
    """Retrieves passages of an index and reranks them, as `DiPairIndex.search` does.

    A document has the passage's id, text and metadata, its title if it has one, and its score as
    `relevance_score`.

    Parameters
    ----------
    index : DiPairIndex
        The open index.
    top_k : int or None
        The number of documents to return; None is all that were scored.
    candidates : int
        The number of passages that the head scores.
    search_settings : dict
        Further arguments of `DiPairIndex.search`, such as `filter` or `first_stage`.
    """

    index: DiPairIndex
    top_k: int | None = 10
    candidates: int = 100
    search_settings: Mapping[str, Any] = {}

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        found = self.index.search(query, self.top_k, self.candidates, **self.search_settings)
        return [
            Document(
                passage.text,
                id=passage.id,
                metadata={**metadata_of(passage), SCORE: passage.score},
            )
            for passage in found
        ]


class DiPairCompressor(BaseDocumentCompressor):
    """Returns the documents that are best for a query, best first, ties in the order given.

    Each has its score as `relevance_score` in its metadata; what is scored is its `page_content`.

    Parameters
    ----------
    ranker : Reranker or DiPairIndex
        What scores the texts; by default, a `Reranker` of the model in the package.
    top_k : int or None
        The number of documents to return; None is all of them.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    ranker: TextRanker = Field(default_factory=Reranker)
    top_k: int | None = 10

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Returns the best documents; raises `SettingsError` if the query is empty."""
        texts = [document.page_content for document in documents]
        ranking = ranked_texts(self.ranker, query, texts, self.top_k)
        return [
            documents[position].model_copy(
                update={"metadata": {**documents[position].metadata, SCORE: score}}
            )
            for position, score in ranking
        ]
