"""Opens the scorer of an encoder."""

from __future__ import annotations

from typing import get_args

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import SettingsError
from dipair_index.models.systems import Precision, check_choice
from dipair_index.rerank.encoder_scorer import EncoderScorer
from dipair_index.rerank.scorer import TokenScorer


def open_token_scorer(encoder: TextEncoder, precision: Precision = "float32") -> TokenScorer:
    """Returns a scorer of the token embeddings of `encoder`.

    It calls the encoder's own `logits`; for a `DualEncoder`, it is the same head, rearranged to be
    faster, in a choice of precisions. Raises `SettingsError` if the backend does not have the
    precision, and `ModelError` if the encoder's logits have the wrong shape.
    """
    check_choice("precision", precision, get_args(Precision))
    if encoder.backend == "torch":
        from dipair_index.encoders.dual_encoder import DualEncoder
        from dipair_index.rerank.head import HeadScorer

        if isinstance(encoder, DualEncoder):
            return HeadScorer(encoder.model, precision=precision)
    if precision != "float32":
        raise SettingsError(
            f"the backend {encoder.backend} has no head in {precision}: use --backend torch"
        )
    return EncoderScorer(encoder)
