"""A model's weights on disk: half precision, or its encoder's matrices in int8.

    config.json                      "weights": "float16" or "int8"
    frozen.safetensors               what training leaves as it is, word embeddings above all
    trained.safetensors              all else: a later model replaces this file alone
    model.safetensors.index.json     which tensor is in which file, as transformers writes it

int8 keeps a matrix W of the encoder as whole numbers `W` of -127 to 127 and a float32 scale a row,
`W.scale`: W is about `W * scale`, row by row.
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
"""The ending that makes a matrix's name that of its scales."""


def save_weights(
    model: DiPairModel, folder: Path, *, codec: WeightCodec = "float16", frozen: str = "embeddings"
) -> None:
    """Saves the weights and the config; those whose names hold `frozen` in a file of their own.

    A later model that leaves these as they are replaces the other file alone.
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

    Raises `ModelError` where there is none, where no model could have its config.json, and where
    its weights are not all there or do not fit that.
    """
    with loading(DIPAIR, str(source), DIPAIR_NEXT):
        check_there(str(source))
        try:
            config = DiPairConfig.from_pretrained(str(source))
        except SettingsError as error:
            raise ModelError(f"{source} has an invalid config.json: {error}") from error
        kept: dict[str, Any] = {"config": config}
        if getattr(config, "weights", "float16") == "int8":
            kept["state_dict"] = dequantised(_read(source))
    model: DiPairModel
    model, missing = load_weights(
        DiPairModel,
        None if "state_dict" in kept else str(source),
        str(source),
        DIPAIR,
        following=DIPAIR_NEXT,
        **kept,
    )
    if missing:
        raise ModelError(
            f"the weights of {source} do not fit its config.json: they lack {listed(missing)}, "
            f"which would be random: {DIPAIR_NEXT}"
        )
    return model


def round_weights(model: DiPairModel, codec: WeightCodec) -> None:
    """Sets a model's weights to what `load_model` would give once they are saved."""
    model.load_state_dict(dequantised(_stored(model, codec)))


def quantised(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns int8 (rows, columns) and float32 scales (rows,) nearest to a matrix."""
    scale = matrix.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (matrix.float() / scale[:, None]).round().to(torch.int8), scale


def dequantised(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns float32 tensors by name, those in int8 multiplied by their scales.

    Raises `ModelError` where one in int8 has no scales, of one number a row.
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
    """The tensors that are saved, by name."""
    stored: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        of_encoder = name.startswith(("encoder.", "other_encoders."))
        if codec == "int8" and of_encoder and tensor.ndim == 2:
            stored[name], stored[name + SCALE] = quantised(tensor)
        else:
            stored[name] = tensor.half().contiguous()
    return stored


def _read(source: str | Path) -> dict[str, Tensor]:
    """The tensors of all files of a model, by name."""
    index = json.loads(Path(_file(source, INDEX_FILE)).read_text(encoding="utf-8"))
    stored: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        stored |= load_file(_file(source, file))
    return stored


def _file(source: str | Path, name: str) -> str:
    """The path of one file of a model, fetched from the hub where `source` is no folder."""
    found = cached_file(str(source), name)
    if found is None:
        raise ModelError(f"{source} has no {name}: its model was saved incompletely")
    return str(found)


def fingerprint(
    model: torch.nn.Module, also: str = "", *, without: Collection[str] = frozenset()
) -> str:
    """Returns 16 hex digits that change when any weight does, or what is `also` told of them.

    The weights called `without` do not count, such as random ones that nothing is read of.
    """

    def pieces() -> Iterator[bytes]:
        yield also.encode()
        for name, tensor in sorted(model.state_dict().items()):
            if name not in without:
                yield name.encode()
                yield tensor.detach().cpu().contiguous().numpy().tobytes()

    return short_digest(pieces())
