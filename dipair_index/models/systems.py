"""Names of what can be chosen, for those who need no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from dipair_index.errors import SettingsError

SYSTEMS = ("tsf", "ffnn", "de-ffnn", "de-cos", "dse", "poly", "maxsim")
"""What scores the tokens of a tuple, in the order of the papers."""

TUPLE_SYSTEMS = ("tsf", "ffnn", "de-ffnn")
"""Those that read three sides and more; the others compare two."""

CLASS_SYSTEMS = ("tsf", "ffnn", "de-ffnn", "dse")
"""Those that end in a linear layer, which can have an output a class; the others are one number."""

FIRST_TOKEN_SIDES = {
    "de-ffnn": ("query", "passage"),
    "de-cos": ("query", "passage"),
    "dse": ("query", "passage"),
    "poly": ("query",),
}
"""The sides of which a system reads the first token alone; with de-ffnn the extra ones too."""

RESIDUALS = ("none", "cosine", "maxsim")
"""What a head may begin at: the cosine of the first tokens, or the mean over the query's tokens of
the largest cosine with a passage's."""

KEEP = ("first", "last", "spans")
"""Which tokens of a text are kept; `dipair_index.models.truncation` says how."""


Backend = Literal["auto", "torch", "onnx"]


Precision = Literal["float32", "bfloat16"]
"""The precision of the head; bfloat16 changes a logit by about 0.01 and is faster."""


EncodingPrecision = Literal["float32", "int8"]
"""The precision of encoding passages; int8 is faster, at a cosine of about 0.999 with float32."""


class Sizes(NamedTuple):
    """The shapes of what an encoder gives: N of a query, M of a passage, and the widths."""

    max_query_tokens: int
    max_passage_tokens: int
    dim: int
    vector_dim: int


WeightCodec = Literal["float16", "int8"]
"""How a trained model is saved; `dipair_index.models.weights` says more."""


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raises `SettingsError` if `value` is none of the choices."""
    if value not in choices:
        raise SettingsError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")
