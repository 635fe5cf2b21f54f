"""The files of an index: token embeddings by passage id, passages, and the ANN index.

`TokenStore`, `DictTokenStore` and `open_token_store` can be imported from here; their modules are
imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dipair_index.stores.backends import open_token_store
    from dipair_index.stores.token_store import DictTokenStore, TokenStore

__all__ = ["DictTokenStore", "TokenStore", "open_token_store"]


def __getattr__(name: str) -> object:
    """Imports a name of `__all__` when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "backends" if name == "open_token_store" else "token_store"
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
