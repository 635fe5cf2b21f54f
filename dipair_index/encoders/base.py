"""What turns texts into tokens and vectors, whichever library computes it.

`DualEncoder` does with torch, `OnnxEncoder` with ONNX Runtime, which is there in a fraction of the
time that torch takes to be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dipair_index.encoders.batches import Tokenised
from dipair_index.errors import SettingsError
from dipair_index.models.systems import Sizes
from dipair_index.records import FloatArray


class EncodedTexts(NamedTuple):
    """Token embeddings and pooled vectors of some texts."""

    tokens: FloatArray  # (texts, kept, dim); zero rows where a text is shorter
    vectors: FloatArray  # (texts, vector_dim), unit length


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


def refuse_tuples(sides: Sequence[str]) -> None:
    """Raises `SettingsError` for a model of more than two sides, which no index can serve."""
    if len(sides) > 2:
        raise SettingsError(
            f"an index ranks passages for a query, but the model also reads "
            f"{', '.join(sides[2:])}: score its tuples with `dipair-index score`, measure it with "
            "`dipair-index evaluate`, or use a model of queries and passages"
        )
