"""Cached hidden states: while the encoder is frozen, each text is encoded once, not per pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dipair_index.digests import TextsDigest
from dipair_index.encoders.batches import TokenisedBatches
from dipair_index.formats.row_files import fill_rows
from dipair_index.models.config import Side
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.weights import fingerprint
from dipair_index.progress import Progress
from dipair_index.training.groups import stacked_labels

TEXTS_PER_CHUNK = 4096
"""The texts that are encoded between two reports of the progress."""


class HiddenStateCache:
    """The encoder's hidden states of all texts, after truncation or token pooling.

    `states` are by side, float16 (texts, tokens, vector_dim), as memory maps.
    """

    def __init__(self, states: Mapping[Side, npt.NDArray[np.float16]]) -> None:
        self.states = states

    @classmethod
    def compute(
        cls,
        model: DiPairModel,
        tokenizer: Any,
        texts: Mapping[Side, Sequence[str]],
        folder: Path,
        progress: Progress,
        *,
        bf16: bool = False,
    ) -> HiddenStateCache:
        """Encodes the texts of every side into `folder`, or resumes an interrupted call.

        With `bf16`, the encoder computes in bfloat16.
        """
        folder.mkdir(parents=True, exist_ok=True)
        model.eval()
        return cls(
            {
                side: _compute_side(model, tokenizer, side, texts[side], folder, progress, bf16)
                for side in model.config.sides
            }
        )

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Makes a batch for stage one from items of `GroupDataset`.

        An item has labels, the index of its query, and G indexes of texts for each other side. The
        batch has "labels" and "states", float32 (items, tokens, vector_dim) for the query and
        (items, G, tokens, vector_dim) for the other sides.
        """
        states = {
            side: rows[np.stack([item[side] for item in items])]
            for side, rows in self.states.items()
        }
        return {
            "states": {
                side: torch.from_numpy(rows.astype(np.float32)) for side, rows in states.items()
            },
            "labels": stacked_labels(items),
        }


def _compute_side(
    model: DiPairModel,
    tokenizer: Any,
    side: Side,
    texts: Sequence[str],
    folder: Path,
    progress: Progress,
    bf16: bool,
) -> npt.NDArray[np.float16]:
    config = model.config
    shape = (config.kept(side), config.vector_dim)

    digest = TextsDigest()
    digest.update(map(str, range(len(texts))), texts)
    with progress(f"encoding {'queries' if side == 'query' else 'passages'}", "texts") as report:
        return fill_rows(
            folder / f"{side}.npy",
            (len(texts), *shape),
            np.float16,
            key={
                "encoder": fingerprint(model.encoder_of(side)),
                "kept": [config.text_length(side), config.keep, config.pooling, bf16],
                "texts": digest.hexdigest(),
            },
            chunks=(
                texts[start : start + TEXTS_PER_CHUNK]
                for start in range(0, len(texts), TEXTS_PER_CHUNK)
            ),
            compute=lambda chunk: hidden_states(model, tokenizer, side, chunk, bf16=bf16),
            report=report,
        )


def hidden_states(
    model: DiPairModel, tokenizer: Any, side: Side, texts: Sequence[str], *, bf16: bool = False
) -> npt.NDArray[np.float16]:
    """Returns the truncated hidden states of texts, (texts, kept, vector_dim), in their order."""
    config = model.config
    rows = np.empty((len(texts), config.kept(side), config.vector_dim), np.float16)
    batches = TokenisedBatches(tokenizer, texts, max_length=config.text_length(side))
    for rows_of_batch, batch in batches:
        batch = batch.to(model.device)
        precision = torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), precision:
            output = model.states(side, batch["input_ids"], batch["attention_mask"])
        rows[rows_of_batch] = output.half().cpu().numpy()
    return rows
