"""Cached encoder outputs: with a frozen encoder, each text is encoded once, not once a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dipair_index.batches import TokenisedBatches
from dipair_index.model import DiPairModel, Side

CHUNK = 4096
"""Texts encoded between two notes of the progress."""


class StateCache:
    """Kept encoder outputs of all queries and passages, as float16 memory maps."""

    def __init__(self, queries: npt.NDArray[np.float16], passages: npt.NDArray[np.float16]) -> None:
        self.queries = queries  # (queries, N, vector_dim)
        self.passages = passages  # (passages, M, vector_dim)

    @classmethod
    def fill(
        cls,
        model: DiPairModel,
        tokenizer: Any,
        queries: Sequence[str],
        passages: Sequence[str],
        folder: Path,
    ) -> StateCache:
        """Encodes both sides into `folder`, going on where an earlier call was interrupted."""
        folder.mkdir(parents=True, exist_ok=True)
        model.eval()
        config = model.config
        return cls(
            _fill_side(model, tokenizer, "query", queries, config.query_length, folder),
            _fill_side(model, tokenizer, "passage", passages, config.passage_length, folder),
        )

    def collate(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a stage-one batch of items that name a query, its passages and their labels."""
        queries = self.queries[[item["query"] for item in items]]
        passages = self.passages[np.stack([item["passages"] for item in items])]
        return {
            "query_states": torch.from_numpy(queries.astype(np.float32)),
            "passage_states": torch.from_numpy(passages.astype(np.float32)),
            "labels": torch.from_numpy(np.stack([item["labels"] for item in items])),
        }


def _fill_side(
    model: DiPairModel,
    tokenizer: Any,
    side: Side,
    texts: Sequence[str],
    max_length: int,
    folder: Path,
) -> npt.NDArray[np.float16]:
    config = model.config
    kept = config.max_query_tokens if side == "query" else config.max_passage_tokens
    shape = (len(texts), kept, config.vector_dim)
    file, note = folder / f"{side}.npy", folder / f"{side}.done"
    done = int(note.read_text()) if note.is_file() and file.is_file() else 0
    states = np.lib.format.open_memmap(
        file, mode="r+" if done else "w+", dtype=np.float16, shape=None if done else shape
    )
    if states.shape != shape:
        done = 0
        states = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
    for start in range(done, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        for rows, batch in TokenisedBatches(tokenizer, chunk, max_length=max_length):
            batch = batch.to(model.device)
            with torch.inference_mode():
                output = model.states(side, batch["input_ids"], batch["attention_mask"])
            states[start + rows] = output.half().cpu().numpy()
        states.flush()
        note.write_text(str(start + len(chunk)))
    return states
