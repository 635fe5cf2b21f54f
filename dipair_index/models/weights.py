"""Saves and loads a model's weights: in half precision, or the encoder's matrices in int8.

    config.json                      "weights": "float16" or "int8"
    frozen.safetensors               weights that training does not change, such as embeddings
    trained.safetensors              all other weights: a later model replaces this file alone
    model.safetensors.index.json     the file of each tensor, in the format of transformers

In int8, a matrix of the encoder is stored as integers from -127 to 127 under its own name, say `W`,
and one float32 scale per row under `W.scale`: a row is about its integers times its scale.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils.hub import cached_file

from dipair_index.digests import short_digest
from dipair_index.errors import ModelError, SettingsError
from dipair_index.files import replacing, write_whole
from dipair_index.models.config import DiPairConfig
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.hub import check_there
from dipair_index.models.pretrained import load_weights
from dipair_index.models.sources import DIPAIR, DIPAIR_NEXT, loading
from dipair_index.models.systems import WeightCodec
from dipair_index.words import listed

INDEX_FILE = "model.safetensors.index.json"
SCALE = ".scale"
"""The suffix of a matrix's name that gives the name of its scales."""


def save_weights(
    model: DiPairModel, folder: Path, *, codec: WeightCodec = "float16", frozen: str = "embeddings"
) -> None:
    """Saves the weights and the configuration.

    Weights whose names contain `frozen` go to a file of their own, so that a later model in which
    they are the same replaces only the other file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Tensor]] = {"frozen.safetensors": {}, "trained.safetensors": {}}
    for name, tensor in _stored(model, codec).items():
        parts["frozen.safetensors" if frozen in name else "trained.safetensors"][name] = tensor
    for file, tensors in parts.items():
        with replacing(folder / file) as unfinished:
            save_file(tensors, str(unfinished), metadata={"format": "pt"})
    weight_map = {name: file for file, tensors in parts.items() for name in tensors}
    size = sum(tensor.nbytes for tensors in parts.values() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_whole(folder / INDEX_FILE, f"{json.dumps(index, indent=2)}\n".encode())
    model.config.weights = codec
    with replacing(folder / "config.json") as unfinished:
        model.config.to_json_file(unfinished)


def load_model(source: str | Path) -> DiPairModel:
    """Loads a model from a folder or from the hub, in float32.

    Raises `ModelError` if there is none, if its config.json is invalid, and if weights are missing
    or do not fit the config.json.
    """
    with loading(DIPAIR, str(source), DIPAIR_NEXT):
        check_there(str(source))
        try:
            config = DiPairConfig.from_pretrained(str(source))
        except SettingsError as error:
            raise ModelError(f"{source} has an invalid config.json: {error}") from error
        options: dict[str, Any] = {"config": config}
        if getattr(config, "weights", "float16") == "int8":
            options["state_dict"] = dequantised(_read(source))
    model: DiPairModel
    model, missing = load_weights(
        DiPairModel,
        None if "state_dict" in options else str(source),
        str(source),
        DIPAIR,
        following=DIPAIR_NEXT,
        **options,
    )
    if missing:
        raise ModelError(
            f"the weights of {source} do not fit its config.json: they lack {listed(missing)}, "
            f"which would be random: {DIPAIR_NEXT}"
        )
    return model


def round_weights(model: DiPairModel, codec: WeightCodec) -> None:
    """Rounds a model's weights to the values that saving and loading them would give."""
    model.load_state_dict(dequantised(_stored(model, codec)))


def quantised(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a matrix in int8, (rows, columns), and its float32 scales, (rows,)."""
    scale = matrix.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (matrix.float() / scale[:, None]).round().to(torch.int8), scale


def dequantised(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns float32 tensors by name, those in int8 multiplied by their scales.

    Raises `ModelError` if a tensor in int8 does not have one scale per row.
    """
    for name, tensor in stored.items():
        scales = stored.get(name + SCALE, torch.empty(0))
        if tensor.dtype == torch.int8 and scales.shape != tensor.shape[:1]:
            raise ModelError(
                f"{name} is stored in int8 without the scales of its {tensor.shape[0]} rows: save "
                "the whole model again"
            )
    return {
        name: tensor.float() * stored[name + SCALE][:, None]
        if name + SCALE in stored
        else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(SCALE)
    }


def _stored(model: DiPairModel, codec: WeightCodec) -> dict[str, Tensor]:
    """Returns the tensors to save, by name."""
    stored: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        of_encoder = name.startswith(("encoder.", "other_encoders."))
        if codec == "int8" and of_encoder and tensor.ndim == 2:
            stored[name], stored[name + SCALE] = quantised(tensor)
        else:
            stored[name] = tensor.half().contiguous()
    return stored


def _read(source: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of all files of a model, by name."""
    index = json.loads(Path(_file(source, INDEX_FILE)).read_text(encoding="utf-8"))
    stored: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        stored |= load_file(_file(source, file))
    return stored


def _file(source: str | Path, name: str) -> str:
    """Returns the path of one file of a model, which is downloaded if `source` is a hub name.

    Raises `ModelError` if the model has no such file.
    """
    found = cached_file(str(source), name)
    if found is None:
        raise ModelError(f"{source} has no {name}: its model was saved incompletely")
    return str(found)


def fingerprint(
    model: torch.nn.Module, also: str = "", *, without: Collection[str] = frozenset()
) -> str:
    """Returns a digest of a model's weights and of `also`, as 16 hex digits.

    The weights named in `without` do not count, such as random ones on which no output depends.
    """

    def pieces() -> Iterator[bytes]:
        yield also.encode()
        for name, tensor in sorted(model.state_dict().items()):
            if name not in without:
                yield name.encode()
                yield tensor.detach().cpu().contiguous().numpy().tobytes()

    return short_digest(pieces())
