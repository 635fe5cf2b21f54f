"""What is closed at the end of a `with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

Closed = TypeVar("Closed", bound="Closing")


class Closing(ABC):
    """Gives a class with `close` the two methods of a context manager."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of what is held; closing twice is fine."""

    def __enter__(self: Closed) -> Closed:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
