"""Exports the ONNX graphs of a model, and checks that they compute the same as torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.errors import ModelError, WriteError
from dipair_index.models.sources import model_folder
from dipair_index.onnx.graphs import (
    HEAD,
    PASSAGE,
    PASSAGE_INT8,
    QUERY,
    RECORD,
    Graphs,
    OnnxRecord,
    digests,
)
from dipair_index.optional import require
from dipair_index.records import FloatArray
from dipair_index.rerank.encoder_scorer import EncoderScorer
from dipair_index.words import reason

if TYPE_CHECKING:
    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.models.stored_tensors import StoredTensor

TOLERANCE = 1e-4
"""The largest difference from torch's numbers that is accepted."""

INT8_COSINE = 0.99
"""The least cosine between int8 and torch encodings with which the int8 graph is kept."""

SAMPLES = (
    "a",
    "Why does dough rise?",
    "Honey bees die after stinging since their barbed stinger stays in the skin of a mammal.",
    "naïve café 東京 №7: 3.14 % of the rest, e-mail me@example.com " * 4,
    "the river carries silt and sand down to the sea where the delta grows year by year " * 30,
)
"""Texts of different lengths, one of them long enough to be truncated."""


def export_onnx(encoder: DualEncoder) -> Path:
    """Writes the graphs of a saved model into its folder, and returns the folder.

    Raises `ModelError` if the model has no folder or one that cannot be written, if its system or
    encoder cannot be exported, or if the graphs do not compute the same as torch;
    `MissingPackageError` if the package onnx is not installed.
    """
    require("export", "exporting ONNX graphs")
    from dipair_index.models.stored_tensors import stored_tensors

    folder, config = model_folder(encoder.name), encoder.model.config
    if not folder.is_dir():
        raise ModelError(f"{encoder.name} is not a folder: download the model into one")
    if config.given_sides:
        raise ModelError(
            f"the tokens of {', '.join(config.given_sides)} come from outside, so no graph makes "
            "them: this model works with --backend torch only"
        )
    if config.system not in ("tsf", "aligned") or config.extra_sides or config.classes > 1:
        raise ModelError(
            f"only tsf and aligned heads with one logit per pair of texts can be exported, not "
            f"{config.system} with {config.classes} classes and {len(config.sides)} sides"
        )
    stored = stored_tensors(folder)
    try:
        record = _written(encoder, stored, folder)
    except (OSError, WriteError) as error:
        cause = error.__cause__ if isinstance(error, WriteError) else error
        why = getattr(cause, "strerror", None) or cause
        raise ModelError(
            f"{folder} cannot be written ({why}): copy the model to a writable folder and "
            "export it there, or choose --backend torch"
        ) from error
    graphs = Graphs.of(folder, record)
    # batches of two texts and of one: a traced graph might hold for one shape alone
    _check_agreement(encoder, OnnxEncoder(graphs, name=encoder.name, batch_size=2))
    if PASSAGE_INT8 in record.files and not _is_near_in_int8(encoder, graphs):
        del record.files[PASSAGE_INT8]
    record.write(folder)
    return folder


def _written(encoder: DualEncoder, stored: dict[str, StoredTensor], folder: Path) -> OnnxRecord:
    """Writes the graphs; returns their record, which is not yet written."""
    from dipair_index.onnx.aligned_graph import export_aligned_head
    from dipair_index.onnx.encoder_graph import export_encoder
    from dipair_index.onnx.head_graph import export_head

    model, config = encoder.model, encoder.model.config
    (folder / RECORD).unlink(missing_ok=True)
    for side, name in (("query", QUERY), ("passage", PASSAGE)):
        export_encoder(model, side, stored, folder / name)
    export = export_aligned_head if config.system == "aligned" else export_head
    export(model, stored, folder / HEAD)
    files = {place.file for place in stored.values()}
    files |= {"config.json", "tokenizer.json", QUERY, PASSAGE, HEAD}
    if any(name.endswith(".scale") for name in stored):
        export_encoder(model, "passage", stored, folder / PASSAGE_INT8, "int8")
        files.add(PASSAGE_INT8)
    return OnnxRecord(
        fingerprint=encoder.fingerprint,
        sizes=encoder.sizes,
        query_length=config.text_length("query"),
        passage_length=config.text_length("passage"),
        query_prefix=config.query_prefix,
        passage_prefix=config.passage_prefix,
        padding=encoder.tokenizer.pad_token_id or 0,
        files=digests(folder, sorted(files)),
        clusters=config.keep == "clusters",
    )


def _check_agreement(expected: DualEncoder, made: OnnxEncoder) -> None:
    """Compares encodings and logits of `SAMPLES`; raises `ModelError` if they differ."""
    from dipair_index.rerank.head import HeadScorer

    folder, tokens = made.graphs.folder, {}

    def encoded_by_both(texts: Tokenised) -> list[EncodedTexts]:
        try:
            return [encoder.encode_tokenised(texts) for encoder in (made, expected)]
        except ModelError:
            raise
        # ONNX Runtime's errors have no base of their own
        except Exception as error:
            raise ModelError(
                f"the ONNX graphs of {folder} fail with texts of some lengths ({reason(error)}): "
                "this model works with --backend torch only"
            ) from error

    for side in ("query", "passage"):
        texts = made.tokenised(side, SAMPLES)
        if texts != expected.tokenised(side, SAMPLES):
            raise ModelError(
                f"tokenizer.json in {folder} tokenises texts differently from the model's "
                "tokenizer in transformers: this model works with --backend torch only"
            )
        encoded = encoded_by_both(texts)
        _check_distance(folder, "vectors", *(each.vectors for each in encoded))
        rows = _unclustered(made, texts)
        _check_distance(folder, "tokens", *(each.tokens[rows] for each in encoded))
        tokens[side] = encoded[1].tokens
    scorers = EncoderScorer(made), HeadScorer(expected.model)
    for query in tokens["query"]:
        logits = [scorer.logits(query, tokens["passage"]) for scorer in scorers]
        _check_distance(folder, "logits", *logits)


def _is_near_in_int8(expected: DualEncoder, graphs: Graphs) -> bool:
    """Returns whether int8 encodings of passages have cosines of `INT8_COSINE` with torch's."""
    made = OnnxEncoder(graphs, name=expected.name, precision="int8")
    texts = made.tokenised("passage", SAMPLES)
    in_int8, in_torch = (encoder.encode_tokenised(texts) for encoder in (made, expected))
    rows = _unclustered(made, texts)
    pairs = (in_int8.tokens[rows], in_torch.tokens[rows]), (in_int8.vectors, in_torch.vectors)
    return all(cosines(one, other).min() >= INT8_COSINE for one, other in pairs)


def _unclustered(encoder: OnnxEncoder, texts: Tokenised) -> list[int]:
    """Returns the texts of which all tokens are kept, if others are pooled to clusters.

    Rounding may move a token from one cluster to another, which is no error of a graph.
    """
    kept = encoder.sizes.max_passage_tokens
    pooled = encoder.graphs.record.clusters and texts.side == "passage"
    return [row for row, ids in enumerate(texts.ids) if not pooled or len(ids) <= kept]


def cosines(one: FloatArray, other: FloatArray) -> FloatArray:
    """Returns the cosines of corresponding rows, (..., dim) each, flattened.

    Rows that are zero in either array are left out.
    """
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    there = lengths > 0
    found: FloatArray = (one * other).sum(-1)[there] / lengths[there]
    return found


def _check_distance(folder: Path, what: str, made: np.ndarray, expected: np.ndarray) -> None:
    worst = float(np.abs(made - expected).max())
    if not worst <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"the ONNX graphs of {folder} compute {what} that differ from torch's by {worst:.2g}, "
            f"and {TOLERANCE} is allowed: this model works with --backend torch only"
        )
