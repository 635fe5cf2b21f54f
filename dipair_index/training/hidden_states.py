"""Cached hidden states: while the encoder is frozen, each text is encoded once, not per pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dipair_index.digests import TextsDigest
from dipair_index.encoders.batches import TokenisedBatches
from dipair_index.formats.row_files import fill_rows
from dipair_index.formats.token_files import GivenTokens
from dipair_index.models.config import Side
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.weights import fingerprint
from dipair_index.progress import Progress
from dipair_index.records import FloatArray
from dipair_index.training.groups import stacked_labels

TEXTS_PER_CHUNK = 4096
"""The texts that are encoded between two reports of the progress."""


class States(Protocol):
    """Hidden states by rows, (rows, tokens, width), such as an array."""

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]:
        """Returns the states of rows, which are an array of integers or a slice."""
        ...


class GivenStates:
    """The tokens of a given side's items, in the order of `items`; see `States`."""

    def __init__(self, tokens: GivenTokens, items: Sequence[str], kept: int) -> None:
        self._tokens, self._kept = tokens, kept
        self._rows = np.array(tokens.rows(items), np.int64)

    def __getitem__(self, rows: Any, /) -> FloatArray:
        """Returns the tokens of rows, float32 (rows, tokens, width)."""
        chosen = self._rows[rows]
        found = self._tokens.read_rows(chosen.reshape(-1))[:, : self._kept]
        return found.reshape(*chosen.shape, *found.shape[1:])


class HiddenStateCache:
    """The encoder's hidden states of all texts, after truncation or token pooling.

    `states` are by side, float16 (texts, tokens, width), as memory maps; those of a given side
    are its tokens.
    """

    def __init__(self, states: Mapping[Side, States]) -> None:
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
        given: Mapping[Side, GivenTokens] | None = None,
    ) -> HiddenStateCache:
        """Encodes the texts of every side into `folder`, or resumes an interrupted call.

        With `bf16`, the encoder computes in bfloat16. `given` are the tokens of given sides, whose
        texts are the ids of items.
        """
        folder.mkdir(parents=True, exist_ok=True)
        model.eval()
        config, states = model.config, dict[Side, States]()
        for side in config.sides:
            if given and side in given:
                states[side] = GivenStates(given[side], texts[side], config.kept(side))
            else:
                states[side] = _compute_side(
                    model, tokenizer, side, texts[side], folder, progress, bf16
                )
        return cls(states)

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
    shape = (config.kept(side), model.state_width)

    digest = TextsDigest()
    digest.update(map(str, range(len(texts))), texts)
    # clusters are of projected tokens
    projected = {}
    if config.keep == "clusters":
        projected = {
            "projections": fingerprint(model.projections),
            "centre": model.centre.tolist(),
        }
    with progress(f"encoding {'queries' if side == 'query' else 'passages'}", "texts") as report:
        return fill_rows(
            folder / f"{side}.npy",
            (len(texts), *shape),
            np.float16,
            key={
                "encoder": fingerprint(model.encoder_of(side)),
                "kept": [config.text_length(side), config.keep, config.pooling, bf16],
                "texts": digest.hexdigest(),
                **projected,
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
    rows = np.empty((len(texts), config.kept(side), model.state_width), np.float16)
    batches = TokenisedBatches(tokenizer, texts, max_length=config.text_length(side))
    for rows_of_batch, batch in batches:
        batch = batch.to(model.device)
        precision = torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), precision:
            output = model.states(side, batch["input_ids"], batch["attention_mask"])
        rows[rows_of_batch] = output.half().cpu().numpy()
    return rows
