"""Optional packages: which extra installs them, and the sentence where one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from dipair_index.errors import MissingPackageError

Extra = Literal["torch", "tensorstore", "evaluate", "export", "train"]

PACKAGES: dict[Extra, tuple[str, ...]] = {
    "torch": ("torch", "transformers", "safetensors"),
    "tensorstore": ("tensorstore",),
    "evaluate": ("ir_measures",),
    "export": ("torch", "transformers", "safetensors", "onnx"),
    "train": ("torch", "transformers", "safetensors", "accelerate"),
}
"""What each extra of setup.cfg is needed for, by the names that are imported."""


def require(extra: Extra, what: str, *packages: str) -> None:
    """Raises `MissingPackageError` unless all of `packages`, or all of the extra's, are installed.

    `what` is the noun that needs them, such as "training". Nothing is imported.
    """
    missing = [name for name in packages or PACKAGES[extra] if not is_installed(name)]
    if missing:
        raise MissingPackageError(
            f"{what} needs {_listed(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: {how_to_install(extra)}"
        )


def how_to_install(extra: Extra) -> str:
    """The advice that installs an extra. The package is not published: a checkout is the way."""
    return f"run `pip install '.[{extra}]'` in a checkout of dipair-index"


def is_installed(package: str) -> bool:
    """Whether a package can be imported, found without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a finder refuses it, or it is half imported
        return False


def installed_versions(*names: str) -> dict[str, str]:
    """Returns the versions of packages, by the names that pip knows, without what is missing."""
    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _listed(names: Sequence[str]) -> str:
    """As in "torch, transformers and accelerate", by the names that pip knows."""
    *others, last = (name.replace("_", "-") for name in names)
    return f"{', '.join(others)} and {last}" if others else last
