"""Opens the scorer that fits an encoder."""

from __future__ import annotations

from typing import get_args

from dipair_index.encoders.base import TextEncoder
from dipair_index.errors import SettingsError
from dipair_index.models.systems import Precision, check_choice
from dipair_index.rerank.encoder_scorer import EncoderScorer
from dipair_index.rerank.scorer import Scorer


def open_scorer(encoder: TextEncoder, precision: Precision = "float32") -> Scorer:
    """Returns what scores the tokens of `encoder`.

    That is its own `logits`; for a `DualEncoder` the same head, rearranged so that it is faster
    and has a choice of precision. Raises `SettingsError` for a precision that there is not.
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
