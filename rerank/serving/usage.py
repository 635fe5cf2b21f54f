"""The tokens that a request made the model read."""

from __future__ import annotations

from typing import NamedTuple

from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.scoring import Scored
from dipair_index.rerank.serving.state import Served

CACHE_HEADER = "X-DiPair-Cache"


class Usage(NamedTuple):
    """The tokens of a query and its documents; `cached_tokens` are of those already encoded."""

    tokens: int
    cached_tokens: int

    def plus(self, other: Usage) -> Usage:
        """Returns the sum of two."""
        return Usage(self.tokens + other.tokens, self.cached_tokens + other.cached_tokens)

    def as_openai(self) -> dict[str, int]:
        """Returns the usage in OpenAI's form."""
        return {"prompt_tokens": self.tokens, "total_tokens": self.tokens}


def usage_of(served: Served, query: str, scored: Scored, record: RequestRecord) -> Usage:
    """Returns the tokens of a query and what was scored for it; records the truncated texts."""
    counts = served.tokens.of_passages(scored.texts)
    record.truncated += sum(count.truncated for count in counts)
    of_documents = sum(count.tokens for count in counts)
    cached = sum(count.tokens for count, known in zip(counts, scored.known, strict=True) if known)
    return Usage(served.tokens.of_query(query) + of_documents, cached)


def cache_header(record: RequestRecord) -> dict[str, str]:
    """Returns the header that says how many of the documents did not have to be encoded."""
    return {CACHE_HEADER: f"{record.hits}/{record.documents}"}
