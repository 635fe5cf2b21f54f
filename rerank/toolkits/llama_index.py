"""LlamaIndex: a retriever over an index, and a node postprocessor that reranks.

Needs llama-index-core alone, the extra `[llamaindex]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from dipair_index.errors import SettingsError
from dipair_index.optional import require

require("llamaindex", "dipair_index.rerank.toolkits.llama_index")

from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import Field

from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.ranking import RankedPassage
from dipair_index.rerank.reranker import Reranker
from dipair_index.rerank.toolkits.texts import TextRanker, metadata_of, ranked_texts


class DiPairRetriever(BaseRetriever):
    """Retrieves passages of an index and reranks them, as `DiPairIndex.search` does.

    A node has the passage's id, text and metadata, and its title, if it has one, as `title`.

    Parameters
    ----------
    index : DiPairIndex
        The open index.
    top_k : int or None
        The number of nodes to return; None is all that were scored.
    candidates : int
        The number of passages that the head scores.
    search_settings : dict, optional
        Further arguments of `DiPairIndex.search`, such as `filter` or `first_stage`.
    callback_manager : CallbackManager, optional
        As other retrievers take it.
    """

    def __init__(
        self,
        index: DiPairIndex,
        top_k: int | None = 10,
        candidates: int = 100,
        search_settings: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        self.index = index
        self.top_k = top_k
        self.candidates = candidates
        self.search_settings = search_settings or {}
        super().__init__(callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self.index.search(
            query_bundle.query_str, self.top_k, self.candidates, **self.search_settings
        )
        return [NodeWithScore(node=_node(passage), score=passage.score) for passage in found]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # by default, the event loop would wait for the search
        return await asyncio.to_thread(self._retrieve, query_bundle)


class DiPairRerank(BaseNodePostprocessor):
    """Returns the nodes that are best for a query with their scores, ties in the order given.

    What is scored is what an embedding would be made of: the text and the metadata that are not in
    `excluded_embed_metadata_keys`.

    Parameters
    ----------
    ranker : Reranker or DiPairIndex
        What scores the texts; by default, a `Reranker` of the model in the package.
    top_k : int or None
        The number of nodes to return; None is all of them.
    """

    ranker: TextRanker = Field(default_factory=Reranker, exclude=True)
    top_k: int | None = 10

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex serialises the class."""
        return "DiPairRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise SettingsError("nodes are reranked for a query: pass query_str or query_bundle")
        texts = [each.node.get_content(MetadataMode.EMBED) for each in nodes]
        ranking = ranked_texts(self.ranker, query_bundle.query_str, texts, self.top_k)
        return [
            NodeWithScore(node=nodes[position].node, score=score) for position, score in ranking
        ]


def _node(passage: RankedPassage) -> TextNode:
    """Returns a passage as a node whose text alone is what a reranker reads."""
    metadata = metadata_of(passage)
    return TextNode(
        id_=passage.id,
        text=passage.text,
        metadata=metadata,
        excluded_embed_metadata_keys=list(metadata),
    )
