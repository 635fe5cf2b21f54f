"""Sides of a model whose tokens come from outside: their files, and what they must fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dipair_index.errors import SettingsError

if TYPE_CHECKING:
    from dipair_index.encoders.base import TextEncoder
    from dipair_index.formats.token_files import GivenTokens
    from dipair_index.models.config import DiPairConfig


@runtime_checkable
class TakesTokens(Protocol):
    """An encoder of a model that may have given sides."""

    def give(self, side: str, tokens: GivenTokens) -> None:
        """Gives the tokens of a side's items."""
        ...

    def given_digest(self, side: str) -> str:
        """Returns the digest of the tokens that were given for a side; empty if none were."""
        ...


def read_given(options: Iterable[str]) -> dict[str, GivenTokens]:
    """Reads SIDE=FILE, such as image=images.parquet, and returns the tokens by side.

    Raises `SettingsError` if one is something else or names a side twice, and `FormatError` as
    `GivenTokens.read` does.
    """
    given: dict[str, GivenTokens] = {}
    for option in options:
        from dipair_index.formats.token_files import GivenTokens  # imports pyarrow

        side, equals, file = option.partition("=")
        if not (side and equals and file):
            raise SettingsError(f"--side {option}: expected SIDE=FILE, such as passage=images.npy")
        if side in given:
            raise SettingsError(f"--side gives {side} twice: give it once")
        given[side] = GivenTokens.read(file)
    return given


def give_all(encoder: TextEncoder, given: Mapping[str, GivenTokens]) -> None:
    """Gives an encoder the tokens of its given sides.

    Raises `SettingsError` if the model makes the tokens of a side of texts, or if they do not fit.
    """
    for side, tokens in given.items():
        if not isinstance(encoder, TakesTokens):
            raise _reads_texts(encoder.name, side, tokens)
        encoder.give(side, tokens)


def check_given(config: DiPairConfig, name: str, side: str, tokens: GivenTokens) -> None:
    """Raises `SettingsError` if the model `name` cannot read these tokens as a side's."""
    if side not in config.given_sides:
        raise _reads_texts(name, side, tokens)
    kept, width = config.given_sides[side]
    if (tokens.kept, tokens.width) != (kept, width):
        raise SettingsError(
            f"{tokens.source} has {tokens.kept} tokens of {tokens.width} numbers an item, and "
            f"{name} was trained on {kept} of {width} as its {side}: make the tokens as those"
        )


def _reads_texts(name: str, side: str, tokens: GivenTokens) -> SettingsError:
    return SettingsError(
        f"{name} makes no tokens of {side} from a file such as {tokens.source}: train a model with "
        f"`dipair-index train --side {side}=FILE`, or leave --side {side} out"
    )
