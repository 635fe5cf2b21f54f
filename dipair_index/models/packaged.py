"""The models in the package: the default one, and one of texts that may be used commercially.

    models/default/                     a whole model
    models/permissive/own.safetensors   the weights that differ: centre, map of the vectors, head
    models/permissive/*                 the files that differ

Both have the same encoder, which stayed as it was in both trainings and makes nearly all of their
bytes. The permissive model is put together in the user's cache when it is first named.
"""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from dipair_index.errors import ModelError, WriteError
from dipair_index.files import sync, unwritable
from dipair_index.models.stored_tensors import tensors_in

DEFAULT_MODEL = "default"
"""The name of the model that is used where none is named."""

PERMISSIVE_MODEL = "permissive"
"""The name of the model whose own training texts allow commercial use."""

PACKAGED_MODELS = (DEFAULT_MODEL, PERMISSIVE_MODEL)
"""The names of the models in the package; a folder of such a name is reached as ./default."""

RECORD = "onnx.json"
TRAINED = "trained.safetensors"
OWN = "own.safetensors"


def default_model_folder() -> Path:
    """Returns the folder of the default model."""
    return _in_package(DEFAULT_MODEL)


def card_folder(name: str) -> Path:
    """Returns the folder of a model's card in the package, where the model need not be whole."""
    return default_model_folder() if name == DEFAULT_MODEL else _in_package(name)


def permissive_model_folder() -> Path:
    """Returns the folder of the permissive model, which is put together first if it is not there.

    Raises `WriteError` if the user's cache cannot be written.
    """
    from huggingface_hub import cached_assets_path

    own = _in_package(PERMISSIVE_MODEL)
    # another version's model has another folder
    fingerprint = json.loads((own / RECORD).read_text(encoding="utf-8"))["fingerprint"]
    try:
        folder = Path(cached_assets_path("dipair-index", PERMISSIVE_MODEL, fingerprint))
    except OSError as error:
        raise unwritable(Path(str(error.filename)), error) from error
    except ValueError as error:  # a file stands where the folder would be
        raise WriteError(f"the permissive model cannot be put together: {error}") from error
    if not (folder / RECORD).exists():
        put_together(own, default_model_folder(), folder)
    return folder


def put_together(own: Path, base: Path, folder: Path) -> None:
    """Writes the model of which `own` holds what differs from the model in `base`.

    It appears in `folder` when it is whole. Raises `ModelError` if the two do not fit, and
    `WriteError` if `folder` cannot be written.
    """
    try:
        with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as made:
            whole = Path(made) / folder.name
            shutil.copytree(base, whole, copy_function=shutil.copyfile)
            for file in own.iterdir():
                if file.name != OWN:
                    shutil.copyfile(file, whole / file.name)
            _set_tensors(whole / TRAINED, own / OWN)
            for file in whole.iterdir():
                sync(file)
            try:
                whole.rename(folder)
            except OSError:
                if not (folder / RECORD).exists():  # unless another process was faster
                    raise
    except OSError as error:
        raise unwritable(folder, error) from error


def _set_tensors(file: Path, source: Path) -> None:
    """Overwrites tensors of one safetensors file with those of the same names of another."""
    places = tensors_in(file)
    with file.open("r+b") as written, source.open("rb") as read:
        for name, tensor in tensors_in(source).items():
            place = places.get(name)
            if place is None or (place.dtype, place.shape) != (tensor.dtype, tensor.shape):
                raise ModelError(
                    f"{source} does not fit the default model beside it ({name}): install "
                    "dipair-index again"
                )
            read.seek(tensor.offset)
            written.seek(place.offset)
            written.write(read.read(tensor.length))


def _in_package(name: str) -> Path:
    return Path(str(resources.files("dipair_index") / "models" / name))
