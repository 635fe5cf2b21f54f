"""The start of a model of clusters: its projection, its centre, and the map of its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from dipair_index.digests import TextsDigest
from dipair_index.encoders.batches import TokenisedBatches
from dipair_index.encoders.sentence_embedders import open_embedder
from dipair_index.errors import ModelError, SettingsError
from dipair_index.formats.row_files import fill_rows
from dipair_index.models.aligned_head import AlignedHead
from dipair_index.models.config import Side
from dipair_index.models.dipair import DiPairModel, masked_mean
from dipair_index.models.sources import encoder_source
from dipair_index.models.weights import fingerprint
from dipair_index.progress import Progress
from dipair_index.records import FloatArray

PROJECTION = "linear.weight"
PROJECTION_FILES = ("1_Dense/model.safetensors", "model.safetensors")
"""The files of late-interaction encoders that may hold `PROJECTION`: of PyLate, and of ColBERT."""
CENTRE_SAMPLE = 1_000
"""The number of passages whose tokens' mean is the centre."""
VECTOR_SAMPLE = 10_000
"""About the number of texts of each side that the map of vectors is fitted to."""
RIDGE = 1e-3
"""The penalty on the map's weights, as a share of the mean variance of its inputs."""
TEXTS_PER_CHUNK = 1024


def load_projection(model: DiPairModel, encoder: str) -> None:
    """Sets all projections to the one that the encoder was trained with.

    Raises `ModelError` if `encoder`, a folder or hub name, has none, and `SettingsError` if it is
    of another shape.
    """
    source = encoder_source(encoder)
    for file in PROJECTION_FILES:
        path = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
        if path is None:
            continue
        with safe_open(path, "pt") as tensors:
            if PROJECTION not in tensors.keys():  # noqa: SIM118 - it is no mapping
                continue
            weight = tensors.get_tensor(PROJECTION).float()
        for projection in cast("list[nn.Linear]", list(model.projections.values())):
            if projection.weight.shape != weight.shape:
                raise SettingsError(
                    f"the projection of {encoder} has {weight.shape[0]} dimensions: pass --dim "
                    f"{weight.shape[0]}"
                )
            with torch.no_grad():
                projection.weight.copy_(weight)
        return
    raise ModelError(
        f"{encoder} has no pretrained projection (linear.weight in model.safetensors or in "
        "1_Dense/model.safetensors): name a late-interaction encoder, such as "
        "answerdotai/answerai-colbert-small-v1, or pass --projection-start principal"
    )


def token_states(model: DiPairModel, tokenizer: Any, passages: Sequence[str]) -> Tensor:
    """Returns the hidden states of evenly spaced passages' tokens, (tokens, vector_dim)."""
    sample = passages[:: max(1, len(passages) // CENTRE_SAMPLE)]
    length, found = model.config.text_length("passage"), []
    model.eval()
    with torch.no_grad():
        for _, batch in TokenisedBatches(tokenizer, sample, max_length=length):
            batch = batch.to(model.device)
            hidden = model.hidden("passage", batch["input_ids"], batch["attention_mask"])
            found.append(hidden[batch["attention_mask"] > 0])
    return torch.cat(found)


def set_centre(model: DiPairModel, states: Tensor) -> None:
    """Sets the centre to the mean unit token of hidden states, (tokens, vector_dim)."""
    with torch.no_grad():
        model.centre.zero_()
        model.centre.copy_(model.unit_tokens("passage", states).mean(0))
        if isinstance(model.head, AlignedHead):
            model.head.centre.copy_(model.centre)


def fit_vectors(
    model: DiPairModel,
    tokenizer: Any,
    texts: Mapping[Side, Sequence[str]],
    teacher: str,
    folder: Path,
    progress: Progress,
) -> None:
    """Fits the map of vectors to those of a sentence embedder, in closed form.

    `texts` are those of queries and passages without their prefixes; about `VECTOR_SAMPLE` of each
    are used. What was embedded is kept in `folder`, and an interrupted call resumes. Raises
    `ModelError` if there is no such embedder, and `SettingsError` if its width is not the model's.
    """
    embedder = open_embedder(teacher, device=str(model.device))
    if embedder.dim != model.config.vector_dim:
        raise SettingsError(
            f"{teacher} has vectors of width {embedder.dim}, and the encoder's are "
            f"{model.config.vector_dim} wide: name an embedder of that width"
        )
    folder.mkdir(parents=True, exist_ok=True)
    inputs: list[npt.NDArray[Any]] = []
    targets: list[npt.NDArray[Any]] = []
    for side, embed in (("query", embedder.embed_queries), ("passage", embedder.embed_passages)):
        sample = texts[side][:: max(1, len(texts[side]) // VECTOR_SAMPLE)]
        digest = TextsDigest()
        digest.update(map(str, range(len(sample))), sample)
        chunks = [
            sample[start : start + TEXTS_PER_CHUNK]
            for start in range(0, len(sample), TEXTS_PER_CHUNK)
        ]

        def states(chunk: Sequence[str], side: Side = side) -> FloatArray:
            return first_and_mean(model, tokenizer, side, chunk)

        jobs = (
            (inputs, "states", 2 * model.config.vector_dim, states, fingerprint(model.encoder)),
            (targets, "targets", embedder.dim, embed, embedder.fingerprint),
        )
        for into, name, width, compute, made_by in jobs:
            with progress(f"embedding a sample of each {side}", "texts") as report:
                rows = fill_rows(
                    folder / f"{side}-{name}.npy",
                    (len(sample), width),
                    np.float16,
                    key={"by": made_by, "texts": digest.hexdigest()},
                    chunks=iter(chunks),
                    compute=compute,
                    report=report,
                )
                into.append(rows)
    weight, bias = ridge(np.concatenate(inputs), np.concatenate(targets))
    with torch.no_grad():
        model.vector_map.weight.copy_(torch.from_numpy(weight))
        model.vector_map.bias.copy_(torch.from_numpy(bias))


def first_and_mean(
    model: DiPairModel, tokenizer: Any, side: Side, texts: Sequence[str]
) -> FloatArray:
    """Returns the first and the mean hidden state of texts, (texts, 2 * vector_dim)."""
    config = model.config
    rows = np.empty((len(texts), 2 * config.vector_dim), np.float32)
    read = config.as_read(side, texts)
    for indexes, batch in TokenisedBatches(tokenizer, read, max_length=config.text_length(side)):
        batch = batch.to(model.device)
        with torch.inference_mode():
            hidden = model.hidden(side, batch["input_ids"], batch["attention_mask"])
            mean = masked_mean(hidden, batch["attention_mask"])
        rows[indexes] = torch.cat([hidden[:, 0], mean], dim=-1).cpu().numpy()
    return rows


def ridge(inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Returns the weight (out, in) and bias (out,) of the linear map with the least squared error.

    `inputs` are (rows, in) and `targets` (rows, out); large weights are penalised by `RIDGE`.
    """
    x, y = inputs.astype(np.float64), targets.astype(np.float64)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    products = x.T @ x
    products[np.diag_indices_from(products)] += RIDGE * np.trace(products) / len(products)
    weight = np.linalg.solve(products, x.T @ y).T
    return weight.astype(np.float32), (y_mean - weight @ x_mean).astype(np.float32)
