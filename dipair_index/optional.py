"""Optional packages, and the error that says which extra installs a missing one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from dipair_index.errors import MissingPackageError

Extra = Literal[
    "torch", "tensorstore", "lexical", "irds", "ray", "evaluate", "export", "inspect",
    "serve", "train",
    "pyterrier", "mteb", "langchain", "llamaindex", "haystack",
]  # fmt: skip

PACKAGES: dict[Extra, tuple[str, ...]] = {
    "torch": ("torch", "transformers", "safetensors"),
    "tensorstore": ("tensorstore",),
    "lexical": ("tantivy",),
    "irds": ("ir_datasets",),
    "ray": ("ray",),
    "evaluate": ("ir_measures",),
    "export": ("torch", "transformers", "safetensors", "onnx"),
    "inspect": ("torch", "transformers", "safetensors", "ir_measures", "matplotlib"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "train": ("torch", "transformers", "safetensors", "accelerate"),
    "pyterrier": ("pyterrier",),
    "mteb": ("mteb",),
    "langchain": ("langchain_core",),
    "llamaindex": ("llama_index.core",),
    "haystack": ("haystack",),
}
"""The packages of each extra of setup.cfg, by the names that are imported."""


def require(extra: Extra, what: str, *packages: str) -> None:
    """Checks that optional packages are installed, without importing them.

    `packages` are those of the extra by default; `what` names the feature that needs them, such as
    "training". Raises `MissingPackageError` if one is missing.
    """
    missing = [name for name in packages or PACKAGES[extra] if not is_installed(name)]
    if missing:
        raise MissingPackageError(
            f"{what} needs {_listed(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: {how_to_install(extra)}"
        )


def how_to_install(extra: Extra) -> str:
    """Returns the advice to install an extra, from a checkout, since no package is published."""
    return f"run `pip install '.[{extra}]'` in a checkout of dipair-index"


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a finder refuses it, or it is half imported
        return False


def installed_versions(*names: str) -> dict[str, str]:
    """Returns the versions of the installed ones among `names`, which are pip's names."""
    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _listed(names: Sequence[str]) -> str:
    """Joins pip's names of packages, as in "torch, transformers and accelerate"."""
    *others, last = (name.replace("_", "-").replace(".", "-") for name in names)
    return f"{', '.join(others)} and {last}" if others else last
