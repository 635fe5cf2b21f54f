"""Cached encoder outputs: with a frozen encoder, each text is encoded once, not once a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dipair_index.batches import TokenisedBatches
from dipair_index.digests import TextsDigest
from dipair_index.dual_encoder import fingerprint
from dipair_index.model import DiPairModel, Side
from dipair_index.neighbours import Progress
from dipair_index.row_files import fill_rows

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
        progress: Progress,
    ) -> StateCache:
        """Encodes both sides into `folder`, going on where an earlier call was interrupted."""
        folder.mkdir(parents=True, exist_ok=True)
        model.eval()
        return cls(
            _fill_side(model, tokenizer, "query", queries, folder, progress),
            _fill_side(model, tokenizer, "passage", passages, folder, progress),
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
    folder: Path,
    progress: Progress,
) -> npt.NDArray[np.float16]:
    config = model.config
    shape = (config.kept(side), config.vector_dim)
    max_length = config.text_length(side)

    def states(chunk: Sequence[str]) -> npt.NDArray[np.float16]:
        rows = np.empty((len(chunk), *shape), np.float16)
        for places, batch in TokenisedBatches(tokenizer, chunk, max_length=max_length):
            batch = batch.to(model.device)
            with torch.inference_mode():
                output = model.states(side, batch["input_ids"], batch["attention_mask"])
            rows[places] = output.half().cpu().numpy()
        return rows

    digest = TextsDigest()
    digest.update(map(str, range(len(texts))), texts)
    with progress(f"encoding {'queries' if side == 'query' else 'passages'}", "texts") as report:
        return fill_rows(
            folder / f"{side}.npy",
            (len(texts), *shape),
            np.float16,
            key={"encoder": fingerprint(model.encoder), "texts": digest.hexdigest()},
            chunks=(texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)),
            compute=states,
            report=report,
        )
