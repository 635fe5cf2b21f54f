"""The contract of an encoder: texts to token embeddings and vectors, and these to logits.

`DualEncoder` fulfils it with torch, `OnnxEncoder` with ONNX Runtime, which is imported in a
fraction of the time that torch takes.
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
    """An encoder of queries and passages that an index is built and searched with.

    A contract that any class can fulfil: nothing else is asked of an encoder. `fingerprint`
    changes when any weight does, and is the same whichever library computes. `backend` says what
    computes: "torch", "onnx", or a word of one's own. `device` is named as torch names it. All
    methods may be called from several threads at once.
    """

    name: str
    fingerprint: str
    backend: str

    @property
    def sizes(self) -> Sizes:
        """The shapes of token embeddings and vectors."""
        ...

    @property
    def sides(self) -> tuple[str, ...]:
        """The names of the texts that its model scores together: "query" and "passage"."""
        ...

    @property
    def device(self) -> str:
        """The device that computes."""
        ...

    def tokenised(self, side: str, texts: Sequence[str]) -> Tokenised:
        """Returns the token ids of texts, cut at the length that is read of a side's texts."""
        ...

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        """Returns the token embeddings and the vector of each text, in the order given."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the N token embeddings and the vector of each text, in the order given."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the M token embeddings and the vector of each text, in the order given."""
        ...

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns the head's logits, (passages,), from (N, dim) and (passages, M, dim) in float32.

        An index asks for micro-batches of one size, filled up with zeros, in several threads.
        """
        ...


def refuse_tuples(sides: Sequence[str]) -> None:
    """Raises `SettingsError` for a model of more than two sides, which no index can serve."""
    if len(sides) > 2:
        raise SettingsError(
            f"an index ranks passages for a query, but the model also reads "
            f"{', '.join(sides[2:])}: score its tuples with `dipair-index score`, measure it with "
            "`dipair-index evaluate`, or use a model of queries and passages"
        )
