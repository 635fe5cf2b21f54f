"""Opens the scorer that fits an encoder: by torch or by ONNX Runtime."""

from __future__ import annotations

from dipair_index.encoders.base import TextEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.errors import SettingsError
from dipair_index.models.systems import Precision
from dipair_index.rerank.scorer import Scorer


def open_scorer(encoder: TextEncoder, precision: Precision = "float32") -> Scorer:
    """Returns what scores the tokens of `encoder`, by the library that it computes with.

    Raises `SettingsError` where that library has no such precision.
    """
    if isinstance(encoder, OnnxEncoder):
        if precision != "float32":
            raise SettingsError(f"ONNX Runtime has no head in {precision}: use --backend torch")
        from dipair_index.rerank.onnx_head import OnnxHeadScorer

        return OnnxHeadScorer(encoder.graphs)
    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.rerank.head import HeadScorer

    if not isinstance(encoder, DualEncoder):
        raise TypeError(f"expected an OnnxEncoder or a DualEncoder, got {type(encoder).__name__}")
    return HeadScorer(encoder.model, precision=precision)
