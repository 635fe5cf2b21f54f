"""The protocol of an encoder: token embeddings and vectors of texts, and logits of these.

`DualEncoder` implements it with torch, and `OnnxEncoder` with ONNX Runtime, whose import takes a
fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dipair_index.encoders.batches import Tokenised
from dipair_index.errors import SettingsError
from dipair_index.models.systems import Sizes
from dipair_index.records import FloatArray


class EncodedTexts(NamedTuple):
    """The token embeddings and pooled vectors of texts."""

    tokens: FloatArray  # (texts, kept, dim); zero rows pad short texts
    vectors: FloatArray  # (texts, vector_dim), unit length


class TextEncoder(Protocol):
    """An encoder of queries and passages, with which an index is built and searched.

    Any class with these members can be used. `fingerprint` changes if any weight does, and is the
    same with every backend. `backend` names what computes: "torch", "onnx", or any other word.
    `device` is named as in torch. All methods may be called from several threads at once.
    """

    name: str
    fingerprint: str
    backend: str

    @property
    def sizes(self) -> Sizes:
        """The shapes of the token embeddings and vectors."""
        ...

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides of the tuples that the model scores: "query" and "passage"."""
        ...

    @property
    def device(self) -> str:
        """The device on which the encoder computes, as torch names it."""
        ...

    def tokenised(self, side: str, texts: Sequence[str]) -> Tokenised:
        """Returns the token ids of texts, truncated to the maximum length of their side."""
        ...

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        """Returns the token embeddings and the vector of each text, in their order."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the N token embeddings and the vector of each query, in their order."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the M token embeddings and the vector of each passage, in their order."""
        ...

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns the head's logits, (passages,), from (N, dim) and (passages, M, dim) in float32.

        An index calls it in several threads, with micro-batches of one size, padded with zeros.
        """
        ...


def refuse_tuples(sides: Sequence[str]) -> None:
    """Raises `SettingsError` if a model has more than two sides, which an index cannot serve."""
    if len(sides) > 2:
        raise SettingsError(
            f"an index ranks passages for a query, but the model also reads "
            f"{', '.join(sides[2:])}: score its tuples with `dipair-index score`, measure it with "
            "`dipair-index evaluate`, or use a model of queries and passages"
        )
