"""Opens a model's encoder with torch or with ONNX Runtime, whichever is asked for and there."""

from __future__ import annotations

from pathlib import Path

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.systems import Backend, EncodingPrecision, Precision


def open_encoder(
    name: str | Path | None = None,
    *,
    backend: Backend = "auto",
    device: str = "cpu",
    batch_size: int | None = None,
    precision: EncodingPrecision = "float32",
) -> TextEncoder:
    """Opens a DiPair model by folder or hub name; None is the one in the package.

    "auto" is ONNX Runtime where the model's folder holds graphs that fit its weights, and torch
    elsewhere; the precision "int8" is ONNX Runtime's alone. Raises `ModelError` where there is no
    such model, or, with "onnx" or "int8", no such graphs.
    """
    found = open_onnx_encoder(
        name, backend=backend, device=device, batch_size=batch_size, precision=precision
    )
    if found is not None:
        return found
    from dipair_index.encoders.dual_encoder import DualEncoder

    return DualEncoder.load(name, device=device, batch_size=batch_size)


def open_onnx_encoder(
    name: str | Path | None,
    *,
    backend: Backend,
    device: str = "cpu",
    batch_size: int | None = None,
    precision: EncodingPrecision = "float32",
) -> TextEncoder | None:
    """As `open_encoder`, but None where torch is to compute."""
    if precision == "int8":
        if backend == "torch":
            raise SettingsError("torch encodes in float32 here: use --backend onnx for int8")
        backend = "onnx"
    if backend == "torch":
        return None
    if device != "cpu":
        if backend == "auto":
            return None
        raise SettingsError(f"ONNX Runtime computes on the cpu here, not on {device!r}: choose one")
    from dipair_index.encoders.onnx_encoder import OnnxEncoder

    try:
        return OnnxEncoder.open(name, batch_size=batch_size, precision=precision)
    except ModelError:
        if backend == "onnx":
            raise
        return None


def backend_for(precision: Precision, backend: Backend) -> Backend:
    """Returns torch for "auto" where the head is to be in bfloat16, which ONNX Runtime lacks."""
    return "torch" if precision == "bfloat16" and backend == "auto" else backend
