"""The encoder as the rest of the project uses it: texts in, numpy out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer

from dipair_index.batches import TokenisedBatches
from dipair_index.errors import ModelError
from dipair_index.model import DiPairModel, Side
from dipair_index.records import FloatArray

DEFAULT_MODEL = "default"
"""The name of the model that ships inside the package."""


class EncodedTexts(NamedTuple):
    """Token embeddings and pooled vectors of some texts."""

    tokens: FloatArray  # (texts, kept, dim); zero rows where a text is shorter
    vectors: FloatArray  # (texts, vector_dim), unit length


class DualEncoder:
    """A DiPair model and its tokenizer; `truncated` counts the texts cut at the maximum length."""

    def __init__(
        self,
        model: DiPairModel,
        tokenizer: Any,
        *,
        name: str,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        self.model = model.eval()
        model.to(device)  # type: ignore[arg-type]  # the type of a wrapped method lacks its self
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint(model)
        self.truncated = 0
        self._batch_size = batch_size

    @classmethod
    def load(
        cls, name: str | Path | None = None, *, device: str = "cpu", batch_size: int = 64
    ) -> DualEncoder:
        """Loads a saved DiPair model by folder or hub name; None is the one in the package.

        Raises `ModelError` when there is none, or it is not a DiPair model.
        """
        if name is None or str(name) == DEFAULT_MODEL:
            name, source = DEFAULT_MODEL, default_model_folder()
        else:
            source = Path(name)
        try:
            model = DiPairModel.from_pretrained(str(source), dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(str(source))
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"no DiPair model could be loaded from {name}: name a folder written by "
                "`dipair-index train`, or a hub model that can be reached"
            ) from error
        return cls(model, tokenizer, name=str(name), device=device, batch_size=batch_size)

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the first N projected tokens and the vector of each text, in the order given."""
        return self._encode("query", texts)

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the first M projected tokens and the vector of each text, in the order given."""
        return self._encode("passage", texts)

    def _encode(self, side: Side, texts: Sequence[str]) -> EncodedTexts:
        config = self.model.config
        tokens = np.zeros((len(texts), config.kept(side), config.dim), np.float32)
        vectors = np.zeros((len(texts), config.vector_dim), np.float32)
        batches = TokenisedBatches(
            self.tokenizer,
            texts,
            max_length=config.text_length(side),
            batch_size=self._batch_size,
        )
        self.truncated += batches.truncated
        for rows, batch in batches:
            batch = batch.to(self.model.device)
            with torch.inference_mode():
                encoded = self.model.encode(side, batch["input_ids"], batch["attention_mask"])
            tokens[rows] = encoded.tokens.float().cpu().numpy()
            vectors[rows] = encoded.vectors.float().cpu().numpy()
        return EncodedTexts(tokens, vectors)


def default_model_folder() -> Path:
    """Returns the folder of the model that ships inside the package."""
    return Path(str(resources.files("dipair_index") / "models" / "default"))


def fingerprint(model: torch.nn.Module) -> str:
    """Returns 16 hex digits that change when any weight does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
