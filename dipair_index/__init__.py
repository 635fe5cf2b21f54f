"""Retrieve-then-rerank with DiPair: token embeddings, an ANN index and a small exact head.

    DiPairIndex, Reranker                              search and rerank, with and without an index
    Passage, Query, RankedPassage, Ranking, Rankings   what goes in and comes out
    TextCache                                          texts that are encoded once a process
    build_index, open_encoder                          the steps below `DiPairIndex.build`
    match_indexes                                      scores pairs of two indexes
    TokenStore, open_token_store                       the store of token embeddings alone
    DiPairError and its subclasses                     what can go wrong, in sentences

A name is imported when it is first used, so `import dipair_index` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dipair_index.encoders.open import open_encoder
    from dipair_index.errors import (
        DiPairError,
        DirectoryError,
        DownloadError,
        FormatError,
        MissingPackageError,
        MissingPassagesError,
        ModelError,
        OtherModelError,
        SettingsError,
        StoreError,
        TrainingError,
        WriteError,
    )
    from dipair_index.records import Passage, Query
    from dipair_index.rerank.build import build_index
    from dipair_index.rerank.index import DiPairIndex
    from dipair_index.rerank.offline.match import match_indexes
    from dipair_index.rerank.ranking import RankedPassage, Ranking, Rankings
    from dipair_index.rerank.reranker import Reranker
    from dipair_index.rerank.text_cache import TextCache
    from dipair_index.stores.backends import open_token_store
    from dipair_index.stores.token_store import TokenStore

__all__ = [
    "DiPairError",
    "DiPairIndex",
    "DirectoryError",
    "DownloadError",
    "FormatError",
    "MissingPackageError",
    "MissingPassagesError",
    "ModelError",
    "OtherModelError",
    "Passage",
    "Query",
    "RankedPassage",
    "Ranking",
    "Rankings",
    "Reranker",
    "SettingsError",
    "StoreError",
    "TextCache",
    "TokenStore",
    "TrainingError",
    "WriteError",
    "__version__",
    "build_index",
    "match_indexes",
    "open_encoder",
    "open_token_store",
]

_MODULES = {
    "DiPairIndex": "rerank.index",
    "Passage": "records",
    "Query": "records",
    "RankedPassage": "rerank.ranking",
    "Ranking": "rerank.ranking",
    "Rankings": "rerank.ranking",
    "Reranker": "rerank.reranker",
    "TextCache": "rerank.text_cache",
    "TokenStore": "stores.token_store",
    "build_index": "rerank.build",
    "match_indexes": "rerank.offline.match",
    "open_encoder": "encoders.open",
    "open_token_store": "stores.backends",
}
"""The module of each name; the names that are not here are those of `errors`."""


def __getattr__(name: str) -> object:
    """Imports a name of `__all__` when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
