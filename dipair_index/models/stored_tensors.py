"""The places of tensors in a model's safetensors files, found without reading the tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

from dipair_index.errors import ModelError


class StoredTensor(NamedTuple):
    """The place of a tensor in the files of a model."""

    file: str
    offset: int
    length: int
    dtype: str
    shape: list[int]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Returns the tensors in a model's safetensors files, by name.

    Raises `ModelError` if the files are missing or damaged.
    """
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    try:
        if index.exists():
            content = json.loads(index.read_text(encoding="utf-8"))
            files = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(index, error) from error
    return {name: tensor for file in files for name, tensor in tensors_in(folder / file).items()}


def tensors_in(file: Path) -> dict[str, StoredTensor]:
    """Returns the tensors in one safetensors file, by name.

    Raises `ModelError` if the file is missing or damaged.
    """
    try:
        with file.open("rb") as data:
            (size,) = struct.unpack("<Q", data.read(8))
            header = json.loads(data.read(size))
        header.pop("__metadata__", None)
        return {
            name: StoredTensor(
                file.name, 8 + size + start, end - start, each["dtype"], each["shape"]
            )
            for name, each in header.items()
            for start, end in [each["data_offsets"]]
        }
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"the weights of {file.parent} cannot be read ({error}): name a folder that "
        "`dipair-index train` has written"
    )
