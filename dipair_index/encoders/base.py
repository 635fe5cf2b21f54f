"""What turns texts into tokens and vectors, whichever library computes it.

`DualEncoder` does with torch, `OnnxEncoder` with ONNX Runtime, which is there in a fraction of the
time that torch takes to be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from dipair_index.encoders.batches import Tokenised
from dipair_index.errors import ModelError, SettingsError
from dipair_index.records import FloatArray

DEFAULT_MODEL = "default"
"""The name of the model that ships inside the package."""

Backend = Literal["auto", "torch", "onnx"]

Precision = Literal["float32", "bfloat16"]
"""What the head computes in; bfloat16 trades about 0.01 of a logit for speed."""


EncodingPrecision = Literal["float32", "int8"]
"""What passages are encoded in; int8 is about twice as fast, at a cosine of 0.999."""


class EncodedTexts(NamedTuple):
    """Token embeddings and pooled vectors of some texts."""

    tokens: FloatArray  # (texts, kept, dim); zero rows where a text is shorter
    vectors: FloatArray  # (texts, vector_dim), unit length


class Sizes(NamedTuple):
    """The shapes of what an encoder gives: N of a query, M of a passage, and the widths."""

    max_query_tokens: int
    max_passage_tokens: int
    dim: int
    vector_dim: int


class TextEncoder(Protocol):
    """An encoder of both sides; `truncated` counts the texts cut at the maximum length.

    `fingerprint` changes when any weight does, and is the same whichever library computes.
    """

    name: str
    fingerprint: str
    truncated: int

    @property
    def sizes(self) -> Sizes:
        """The shapes of what it gives."""
        ...

    @property
    def sides(self) -> tuple[str, ...]:
        """The names of the texts that its model scores together."""
        ...

    @property
    def device(self) -> str:
        """Where it computes, as torch names it."""
        ...

    def tokenised(self, side: str, texts: Sequence[str]) -> Tokenised:
        """Returns the token ids of texts, cut at the length that is read of a side's texts."""
        ...

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        """Returns the kept tokens and the vector of each text, in the order given."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the N kept tokens and the vector of each text, in the order given."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the M kept tokens and the vector of each text, in the order given."""
        ...


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


def refuse_tuples(sides: Sequence[str]) -> None:
    """Raises `SettingsError` for a model of more than two sides, which no index can serve."""
    if len(sides) > 2:
        raise SettingsError(
            f"an index ranks passages for a query, but the model also reads "
            f"{', '.join(sides[2:])}: score its tuples with `dipair-index score`, measure it with "
            "`dipair-index evaluate`, or use a model of queries and passages"
        )


def model_folder(name: str | Path | None) -> Path:
    """Where a model called `name` would lie; None and "default" are the one in the package."""
    return default_model_folder() if name is None or str(name) == DEFAULT_MODEL else Path(name)


def default_model_folder() -> Path:
    """Returns the folder of the model that ships inside the package."""
    return Path(str(resources.files("dipair_index") / "models" / "default"))
