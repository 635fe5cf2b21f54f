"""What the handlers of the server share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import Request

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import DiPairError, OtherModelError
from dipair_index.models.licences import Licence, licence_of_model
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.open_scorer import open_token_scorer
from dipair_index.rerank.scorer import TokenScorer
from dipair_index.rerank.serving.errors import OF_ANOTHER_MODEL, ApiError
from dipair_index.rerank.serving.record import LOG
from dipair_index.rerank.serving.settings import ServerSettings
from dipair_index.rerank.serving.slot import ModelSlot
from dipair_index.rerank.serving.token_counts import TokenCounts
from dipair_index.rerank.text_cache import TextCache
from dipair_index.stores.codecs import Codec, open_codec
from dipair_index.stores.names import DEFAULT_CODEC
from dipair_index.stores.snapshot import Snapshot


@dataclass
class Served:
    """The model with its index, if there is one, and the slot in which both are used."""

    settings: ServerSettings
    encoder: TextEncoder
    scorer: TokenScorer
    cache: TextCache
    index: DiPairIndex | None
    slot: ModelSlot = field(init=False)
    tokens: TokenCounts = field(init=False)
    licence: Licence | None = field(init=False)
    stopping: bool = False
    in_flight: int = 0
    """The requests that have not been answered yet."""
    stale: str = ""
    """Why the index on disk cannot be served, while answers are from an earlier state of it."""

    def __post_init__(self) -> None:
        self.slot = ModelSlot(self.settings.queue)
        self.tokens = TokenCounts(self.encoder)
        self.licence = licence_of_model(self.encoder.name)

    @classmethod
    def of_index(cls, index: DiPairIndex, cache: TextCache, settings: ServerSettings) -> Served:
        """Returns the state of a server of an index."""
        return cls(settings, index.encoder, index.scorer, cache, index)

    @classmethod
    def of_model(cls, encoder: TextEncoder, cache: TextCache, settings: ServerSettings) -> Served:
        """Returns the state of a server of a model alone."""
        return cls(settings, encoder, open_token_scorer(encoder), cache, None)

    def warm_up(self) -> None:
        """Encodes and scores once, so that the first request does not wait for what is loaded."""
        with self.snapshot() as snapshot:
            codec = self.codec(snapshot)
            rows = TextCache(0).rows(["passage"], self.encoder, codec)
            query = self.encoder.encode_queries(["query"]).tokens[0]
            self.scorer.encoded_logits(query, rows, codec)

    def needed_index(self) -> DiPairIndex:
        """Returns the index, as it is on disk now; raises `ApiError` if a model is served alone.

        It is called in the slot, since it reads the disk.
        """
        if self.index is None:
            raise ApiError(
                404,
                "this server has a model and no index: start it with --index-dir, or send texts "
                "to /v2/rerank",
                code="no_index",
            )
        self.refresh()
        return self.index

    def refresh(self) -> None:
        """Reloads the index if it has changed; if it cannot be read, the earlier state stays."""
        if self.index is None:
            return
        try:
            self.index.refresh()
            self.stale = ""
        except DiPairError as error:
            if not self.stale:
                LOG.warning("%s", error)
            self.stale = (
                OF_ANOTHER_MODEL
                if isinstance(error, OtherModelError)
                else "cannot be read: the server's log says why"
            )

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot | None]:
        """Lends the index as it is now for a block; None if a model is served alone."""
        if self.index is None:
            yield None
            return
        with self.index.lent() as opened:
            yield opened.snapshot

    def codec(self, snapshot: Snapshot | None) -> Codec:
        """Returns the codec of encoded passages."""
        if snapshot is not None:
            return snapshot.codec
        sizes = self.encoder.sizes
        return open_codec(DEFAULT_CODEC, tokens_per_passage=sizes.max_passage_tokens, dim=sizes.dim)

    def close(self) -> None:
        """Ends what is computed, and closes the index."""
        self.slot.close()
        if self.index is not None:
            self.index.close()


def served(request: Request) -> Served:
    """Returns the state of the server that received a request."""
    found = request.app.state.served
    assert isinstance(found, Served)
    return found
