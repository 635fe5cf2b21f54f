"""The names of architectures, backends and precisions; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from dipair_index.errors import SettingsError

SYSTEMS = ("tsf", "ffnn", "de-ffnn", "de-cos", "dse", "poly", "maxsim", "prettr", "aligned")
"""The architectures of the head, in the order of the papers; the last is this project's own."""

TUPLE_SYSTEMS = ("tsf", "ffnn", "de-ffnn")
"""The architectures that can read three sides or more; the others compare two."""

CLASS_SYSTEMS = ("tsf", "ffnn", "de-ffnn", "dse", "prettr")
"""The architectures with a linear output layer, one output per class; others have one logit."""

FIRST_TOKEN_SIDES = {
    "de-ffnn": ("query", "passage"),
    "de-cos": ("query", "passage"),
    "dse": ("query", "passage"),
    "poly": ("query",),
}
"""The sides of which an architecture reads only the first token; for de-ffnn, these are all."""

RESIDUALS = ("none", "cosine", "maxsim")
"""The similarity that is added to a head's logit: none, the cosine of the first tokens, or the mean
over the query's tokens of the largest cosine with a token of the passage."""

KEEP = ("first", "last", "spans", "clusters")
"""The truncation of an encoder's output, or the pooling of its tokens: `models.truncation`
describes the first three, and `models.clusters` the last."""

CLUSTER_SYSTEMS = ("tsf", "ffnn", "maxsim", "aligned")
"""The architectures that can read clusters of tokens, of which none is the first."""

POOLINGS = ("cls", "mean", "linear")
"""The vector of a text: its first hidden state, the mean of all, or a linear map of these two."""

Backend = Literal["auto", "torch", "onnx"]
"""The library that computes; "auto" is ONNX Runtime if the model has graphs, and torch if not."""

Precision = Literal["float32", "bfloat16"]
"""The precision of the head; bfloat16 changes a logit by about 0.01 and is faster."""

EncodingPrecision = Literal["float32", "int8"]
"""The precision of encoding passages; int8 is faster, at a cosine of about 0.997 with float32."""


class Sizes(NamedTuple):
    """The shapes of an encoder's output.

    `max_query_tokens` is N and `max_passage_tokens` M, the tokens of the truncated outputs; `dim`
    is the width of these tokens, and `vector_dim` that of the pooled vector.
    """

    max_query_tokens: int
    max_passage_tokens: int
    dim: int
    vector_dim: int


WeightCodec = Literal["float16", "int8"]
"""The format of saved weights, which `dipair_index.models.weights` describes."""


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raises `SettingsError` if `value` is none of the choices."""
    if value not in choices:
        raise SettingsError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")
