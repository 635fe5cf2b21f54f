"""Whether a model scores the pair (a, b) as it scores (b, a)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dipair_index.encoders.base import TextEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.onnx.graphs import PASSAGE, QUERY

if TYPE_CHECKING:
    from torch import nn

    from dipair_index.models.dipair import DiPairModel


def reads_sides_alike(encoder: TextEncoder) -> bool:
    """Returns whether a text has the same token embeddings as a query and as a passage.

    So an index of either side serves as both. Of an encoder that is no DiPair model, nothing is
    known.
    """
    if isinstance(encoder, OnnxEncoder):
        record = encoder.graphs.record
        return (
            record.files[QUERY] == record.files[PASSAGE]
            and record.query_length == record.passage_length
            and record.query_prefix == record.passage_prefix
        )
    model = _dipair_model(encoder)
    if model is None:
        return False
    config = model.config
    return bool(
        config.shared_encoder
        and (config.shared_projections or config.dim is None)
        and config.max_query_tokens == config.max_passage_tokens
        and config.query_length == config.passage_length
        and config.query_prefix == config.passage_prefix
    )


def is_symmetric(encoder: TextEncoder) -> bool:
    """Returns whether a model reads its sides alike, and its head treats them alike.

    de-cos is symmetric by its formula, poly and maxsim where one token is kept of each text. Dense
    heads (ffnn, de-ffnn, dse) are where the first layer has the same weights for both texts, which
    training does not see to. tsf has positions, and is not.
    """
    model = _dipair_model(encoder)
    return model is not None and reads_sides_alike(encoder) and _has_symmetric_head(model)


def _has_symmetric_head(model: DiPairModel) -> bool:
    from dipair_index.models.heads import Cosine, DenseHead, MaxSim, Poly

    head, kept = model.head, model.config.max_query_tokens
    if isinstance(head, (Cosine, MaxSim, Poly)):
        return kept == 1 or isinstance(head, Cosine)
    if isinstance(head, DenseHead):
        width = kept * model.config.token_dim
        weight = cast("nn.Linear", head.layers[0]).weight
        same = bool((weight[:, :width] == weight[:, width : 2 * width]).all())
        return same and (kept == 1 or head.similarity_residual != "maxsim")
    return False


def _dipair_model(encoder: TextEncoder) -> DiPairModel | None:
    """Returns the model of an encoder that computes with torch."""
    if encoder.backend != "torch":
        return None
    from dipair_index.encoders.dual_encoder import DualEncoder

    return encoder.model if isinstance(encoder, DualEncoder) else None
