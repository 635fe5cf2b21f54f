"""The licence of a model, as its card states it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dipair_index.models.packaged import PACKAGED_MODELS, card_folder

CARD = "README.md"
"""The name of a model's card, whose first lines are its metadata in YAML, as the hub reads them."""


class Licence(NamedTuple):
    """A licence by the hub's name of it, or by the card's own, and where its text stands."""

    name: str
    link: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.link})" if self.link else self.name


def licence_of_model(name: str) -> Licence | None:
    """Returns the licence of a model by the name of a folder or of a model in the package."""
    return licence_of(card_folder(name) if name in PACKAGED_MODELS else Path(name))


def licence_of(folder: Path) -> Licence | None:
    """Returns the licence of the model in a folder; None if its card states none that is readable.

    Only a folder is read: the card of a model by hub name is not downloaded for it.
    """
    from huggingface_hub import metadata_load
    from yaml import YAMLError  # type: ignore[import-untyped]  # what the hub's client reads with

    try:
        stated = metadata_load(folder / CARD) or {}
    except (OSError, ValueError, YAMLError):  # no card, or metadata that is no mapping
        return None
    name = stated.get("license_name") or stated.get("license")
    return Licence(str(name), stated.get("license_link")) if name else None
