"""Opens a model's encoder with the backend that is asked for: torch or ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from dipair_index.encoders.base import TextEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.sources import DIPAIR, DIPAIR_NEXT, model_folder
from dipair_index.models.systems import Backend, EncodingPrecision, Precision, check_choice
from dipair_index.models.torch_setup import prepare_torch, prepare_torch_for


def open_encoder(
    name: str | Path | None = None,
    *,
    backend: Backend = "auto",
    device: str = "cpu",
    batch_size: int | None = None,
    precision: EncodingPrecision = "float32",
) -> TextEncoder:
    """Opens the encoder of a DiPair model by folder or hub name; None is the model in the package.

    "auto" is ONNX Runtime if the model's folder has graphs that fit its weights, and torch if not;
    only ONNX Runtime has the precision "int8". Raises `ModelError` if there is no such model, or,
    with "onnx" or "int8", if it has no such graphs; `SettingsError` if settings exclude each other
    or there is no such device; `MissingPackageError` if torch is needed and not installed.

    Examples
    --------
    >>> from dipair_index import open_encoder
    >>> encoder = open_encoder()
    >>> encoder.encode_passages(["Yeast makes gas.", "Bees dance."]).tokens.shape
    (2, 32, 96)
    """
    backend, needed_by = _settled(backend, device, precision), "the torch backend"
    if batch_size is not None and batch_size < 1:
        raise SettingsError(f"batch_size must be 1 or more, got {batch_size}")
    if backend != "torch":
        try:
            return OnnxEncoder.open(name, batch_size=batch_size, precision=precision)
        except ModelError:
            if backend == "onnx":
                raise
            needed_by = f"the model {name}, which has no ONNX graphs that fit its weights,"
    if model_folder(name).is_dir():
        prepare_torch(device, needed_by=needed_by)
    else:
        needed_by = f"{name} is no folder here, and a model of the hub"
        prepare_torch_for(
            str(name), kind=DIPAIR, following=DIPAIR_NEXT, needed_by=needed_by, device=device
        )
    from dipair_index.encoders.dual_encoder import DualEncoder

    return DualEncoder.load(name, device=device, batch_size=batch_size)


def backend_for(precision: Precision, backend: Backend) -> Backend:
    """Returns "torch" for "auto" if the head's precision is bfloat16, which ONNX Runtime lacks."""
    return "torch" if precision == "bfloat16" and backend == "auto" else backend


def _settled(backend: Backend, device: str, precision: EncodingPrecision) -> Backend:
    """Returns the one backend that has the device and precision, or `backend` if both have.

    Raises `SettingsError` if a setting is unknown, or `backend` lacks the device or precision.
    """
    check_choice("backend", backend, get_args(Backend))
    check_choice("precision of encoding", precision, get_args(EncodingPrecision))
    if precision == "int8":
        if backend == "torch":
            raise SettingsError("torch encodes in float32 here: use --backend onnx for int8")
        backend = "onnx"
    if device != "cpu":
        if backend == "onnx":
            raise SettingsError(
                f"ONNX Runtime computes on the cpu here, not on {device!r}: choose one"
            )
        return "torch"
    return backend
