"""A context-manager mixin for classes with `close`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

Closed = TypeVar("Closed", bound="Closing")


class Closing(ABC):
    """Closes itself at the end of a `with` statement."""

    @abstractmethod
    def close(self) -> None:
        """Releases files and other resources; closing twice is fine."""

    def __enter__(self: Closed) -> Closed:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
