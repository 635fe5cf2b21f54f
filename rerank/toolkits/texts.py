"""What adapters share: texts that a toolkit has found are ranked, and passages described."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.ranking import RankedPassage
from dipair_index.rerank.reranker import Reranker

TextRanker: TypeAlias = Reranker | DiPairIndex
"""What scores texts: a model alone, or an index, which has the tokens of its own texts already."""


def ranked_texts(
    ranker: TextRanker, query: str, texts: Sequence[str], top_k: int | None
) -> list[tuple[int, float]]:
    """Returns position in `texts` and score in [0, 1] of the `top_k` best texts, best first.

    None for `top_k` is all of them. Ties are in the order given. Raises `SettingsError` if the
    query is empty, unless there are no texts.
    """
    if not texts:
        return []
    if isinstance(ranker, Reranker):
        return [(found["corpus_id"], found["score"]) for found in ranker.rank(query, texts, top_k)]
    ranking = ranker.rerank(query, texts=texts, top_k=top_k)
    return [(int(passage.id), passage.score) for passage in ranking]


def metadata_of(passage: RankedPassage) -> dict[str, Any]:
    """Returns the metadata of a passage, with its title, if it has one, as `title`."""
    return {**passage.metadata, **({"title": passage.title} if passage.title else {})}
