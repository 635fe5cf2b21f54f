"""The encoder of a DiPair model with torch, which returns numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import (
    Rows,
    Tokenised,
    best_batch_size,
    padded_batches,
    tokenise,
)
from dipair_index.encoders.given_sides import check_given
from dipair_index.encoders.windows import windows
from dipair_index.errors import SettingsError
from dipair_index.formats.token_files import GivenTokens
from dipair_index.locks import COMPUTING, ForkSafeLock
from dipair_index.models.config import Side
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.heads import served_logits
from dipair_index.models.packaged import DEFAULT_MODEL
from dipair_index.models.sources import lasting_name, model_folder
from dipair_index.models.systems import Sizes
from dipair_index.models.tokenizers import load_tokenizer
from dipair_index.models.torch_setup import prepare_torch
from dipair_index.models.weights import fingerprint, load_model
from dipair_index.records import FloatArray
from dipair_index.threads import answer_after_fork

GIVEN_AT_ONCE = 4096
"""The items of a given side that are projected at once."""


class DualEncoder:
    """A DiPair model and its tokenizer, as a `TextEncoder` that computes with torch."""

    backend = "torch"

    def __init__(
        self,
        model: DiPairModel,
        tokenizer: Any,
        *,
        name: str,
        device: str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        answer_after_fork()
        self.model = model.eval()
        model.to(device)  # type: ignore[arg-type]  # the type of a wrapped method lacks its self
        self.tokenizer = tokenizer
        self._tokenising = ForkSafeLock()
        self._given: dict[Side, GivenTokens] = {}
        self.name = name
        config = model.config
        # with the same weights, the output still depends on these settings
        settings = (config.system, config.keep, config.pooling)
        prefixes = (config.query_prefix, config.passage_prefix)
        self.fingerprint = fingerprint(model, "\n".join((*settings, *prefixes)))
        self._batch_size = batch_size or best_batch_size(device)

    @classmethod
    def load(
        cls, name: str | Path | None = None, *, device: str = "cpu", batch_size: int | None = None
    ) -> DualEncoder:
        """Loads a saved DiPair model by folder or hub name; None is the model in the package.

        Raises `ModelError` if there is no such model or it is no DiPair model, and `SettingsError`
        if there is no such device.
        """
        prepare_torch(device)
        name = DEFAULT_MODEL if name is None else name
        source = model_folder(name)
        model = load_model(source)
        tokenizer = load_tokenizer(str(source), model.encoder)
        return cls(model, tokenizer, name=lasting_name(name), device=device, batch_size=batch_size)

    @property
    def sizes(self) -> Sizes:
        """The shapes of the token embeddings and vectors."""
        config = self.model.config
        kept = config.max_query_tokens, config.max_passage_tokens
        return Sizes(*kept, config.token_dim, config.pooled_dim)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides of the tuples that the model scores."""
        sides: tuple[Side, ...] = self.model.config.sides
        return sides

    @property
    def device(self) -> str:
        """The device on which the encoder computes, as torch names it."""
        return str(self.model.device)

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the N projected tokens and the vector of each query, in their order."""
        return self.encode("query", texts)

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the M projected tokens and the vector of each passage, in their order."""
        return self.encode("passage", texts)

    def encode(self, side: Side, texts: Sequence[str]) -> EncodedTexts:
        """Returns the projected tokens and the vector of each text of a side, in their order."""
        return self.encode_tokenised(self.tokenised(side, texts))

    def tokenised(self, side: Side, texts: Sequence[str]) -> Tokenised:
        """Returns the token ids of texts, truncated to the maximum length of their side.

        The texts of a given side are the ids of its items, and have their row in place of tokens.
        Raises `SettingsError` if its tokens were not given, and `FormatError` if an item is absent.
        """
        config = self.model.config
        if side in config.given_sides:
            return Tokenised(side, [[row] for row in self._given_tokens(side).rows(texts)], 0)
        texts, length = config.as_read(side, texts), config.text_length(side)
        # transformers sets the length in the tokenizer itself, which threads share
        with self._tokenising:
            return tokenise(self.tokenizer, texts, max_length=length, side=side)

    def windows(self, side: Side, texts: Sequence[str], overlap: int) -> list[list[str]]:
        """Returns the windows of each text, which the model reads whole: see `windows`."""

        def encode(whole: list[str]) -> Sequence[Any]:
            with self._tokenising:
                read = self.tokenizer(whole, add_special_tokens=False, verbose=False)
            found: Sequence[Any] = read.encodings
            return found

        def tokenised(read: Sequence[str]) -> Tokenised:
            return self.tokenised(side, read)

        if side in self.model.config.given_sides:
            return [[text] for text in texts]
        length = self.model.config.text_length(side)
        return windows(texts, tokenised, encode, length=length, overlap=overlap)

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        """Returns the projected tokens and the vector of each text, in their order."""
        config, side = self.model.config, texts.side
        tokens = np.zeros((len(texts.ids), config.kept(side), config.token_dim), np.float32)
        vectors = np.zeros((len(texts.ids), config.pooled_dim), np.float32)
        float16 = torch.autocast("cuda", torch.float16, enabled=self.model.device.type == "cuda")
        for rows, batch in self._batches(texts):
            with COMPUTING, torch.inference_mode(), float16:
                if side in config.given_sides:
                    encoded = self.model.encode_states(side, batch.to(self.model.device))
                else:
                    batch = batch.to(self.model.device)
                    encoded = self.model.encode(side, batch["input_ids"], batch["attention_mask"])
            tokens[rows] = encoded.tokens.float().cpu().numpy()
            vectors[rows] = encoded.vectors.float().cpu().numpy()
        return EncodedTexts(tokens, vectors)

    def give(self, side: Side, tokens: GivenTokens) -> None:
        """Gives the tokens of a side's items, which `encode` then takes by their ids.

        Raises `SettingsError` if the model makes the side's tokens of texts, or if they are of
        other sizes.
        """
        config = self.model.config
        check_given(config, self.name, side, tokens)
        self._given[side] = tokens

    def given_digest(self, side: Side) -> str:
        """Returns the digest of the tokens that were given for a side; empty if none were."""
        return self._given[side].digest if side in self._given else ""

    def _given_tokens(self, side: Side) -> GivenTokens:
        if side not in self._given:
            raise SettingsError(
                f"{self.name} takes the tokens of its {side} from a file, by the ids of items: "
                f"pass --side {side}=FILE to a command that has this option, such as `score`"
            )
        return self._given[side]

    def _batches(self, texts: Tokenised) -> Iterator[tuple[Rows, Any]]:
        """Yields positions in `texts` and a batch: of token ids, or of a given side's tokens."""
        if texts.side not in self.model.config.given_sides:
            yield from padded_batches(self.tokenizer, texts, self._batch_size)
            return
        given, kept = self._given_tokens(texts.side), self.model.config.kept(texts.side)
        rows = np.array(texts.ids, np.int64).reshape(-1)
        for start in range(0, len(rows), GIVEN_AT_ONCE):
            positions = np.arange(start, min(start + GIVEN_AT_ONCE, len(rows)))
            yield positions, torch.from_numpy(given.read_rows(rows[positions])[:, :kept])

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns the head's logits, (passages,), from (N, dim) and (passages, M, dim).

        Several classes become one logit by `served_logits`. The head computes as in training;
        `HeadScorer` does the same in less time.
        """
        query, passages = (
            torch.from_numpy(np.require(tokens, np.float32, ["C", "W"])).to(self.model.device)
            for tokens in (query_tokens, passage_tokens)
        )
        with COMPUTING, torch.inference_mode():
            logits = self.model.head(query.expand(len(passages), -1, -1), passages)
            if logits.ndim > 1:
                logits = served_logits(logits)
        scored: FloatArray = logits.float().cpu().numpy()
        return scored
