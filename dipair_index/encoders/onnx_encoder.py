"""The encoder of a DiPair model with ONNX Runtime, without torch or transformers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import (
    Rows,
    Tokenised,
    beginnings,
    best_batch_size,
    length_sorted_batches,
)
from dipair_index.encoders.windows import windows
from dipair_index.errors import ModelError
from dipair_index.locks import COMPUTING
from dipair_index.models.clusters import cluster_means
from dipair_index.models.sources import lasting_name, model_folder
from dipair_index.models.systems import EncodingPrecision, Sizes
from dipair_index.onnx.graphs import HEAD, PASSAGE, PASSAGE_INT8, QUERY, Graphs, open_graphs
from dipair_index.records import FloatArray
from dipair_index.threads import thread_count


class OnnxEncoder:
    """A DiPair model's encoder and head in ONNX graphs, as a `TextEncoder`.

    Its tokens and vectors equal those of `DualEncoder` to within 1e-4; with `precision="int8"`,
    those of passages have a cosine of 0.99 or more with them. One thread encodes a batch, and as
    many threads as the process may use encode batches at once.
    """

    backend = "onnx"
    device = "cpu"
    sides = ("query", "passage")

    def __init__(
        self,
        graphs: Graphs,
        *,
        name: str,
        batch_size: int | None = None,
        precision: EncodingPrecision = "float32",
    ) -> None:
        self.name = name
        self.graphs = graphs
        self.fingerprint = graphs.record.fingerprint
        self.sizes: Sizes = graphs.record.sizes
        self._precision = precision
        self._batch_size = batch_size or best_batch_size(self.device)

    @classmethod
    def open(
        cls,
        name: str | Path | None = None,
        *,
        batch_size: int | None = None,
        precision: EncodingPrecision = "float32",
    ) -> OnnxEncoder:
        """Opens a model by folder; None is the model in the package.

        Raises `ModelError` if it has no graphs, graphs that do not fit its weights, or no graph of
        this precision.
        """
        graphs = open_graphs(model_folder(name))
        if precision == "int8" and PASSAGE_INT8 not in graphs.record.files:
            raise ModelError(
                f"{graphs.folder} holds no graph that encodes in int8: it takes weights in int8, "
                "as `dipair-index train --weights int8` stores them"
            )
        return cls(graphs, name=lasting_name(name), batch_size=batch_size, precision=precision)

    def encode_queries(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the N projected tokens and the vector of each query, in their order."""
        return self.encode_tokenised(self.tokenised("query", texts))

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        """Returns the M projected tokens and the vector of each passage, in their order."""
        return self.encode_tokenised(self.tokenised("passage", texts))

    def tokenised(self, side: str, texts: Sequence[str]) -> Tokenised:
        """Returns the token ids of texts, truncated to the maximum length of their side."""
        query = side == "query"
        tokenizer = self._query_tokenizer if query else self._passage_tokenizer
        prefix = self.graphs.record.query_prefix if query else self.graphs.record.passage_prefix
        length = self.graphs.record.query_length if query else self.graphs.record.passage_length
        read = beginnings(tokenizer.encode_batch, [prefix + text for text in texts], length)
        return Tokenised.of(side, tokenizer.encode_batch(read))

    def windows(self, side: str, texts: Sequence[str], overlap: int) -> list[list[str]]:
        """Returns the windows of each text, which the model reads whole: see `windows`."""

        def encode(whole: list[str]) -> Sequence[Any]:
            found: Sequence[Any] = self._whole_tokenizer.encode_batch(
                whole, add_special_tokens=False
            )
            return found

        def tokenised(read: Sequence[str]) -> Tokenised:
            return self.tokenised(side, read)

        record = self.graphs.record
        length = record.query_length if side == "query" else record.passage_length
        return windows(texts, tokenised, encode, length=length, overlap=overlap)

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        """Returns the projected tokens and the vector of each text, in their order."""
        sizes, query = self.sizes, texts.side == "query"
        kept = sizes.max_query_tokens if query else sizes.max_passage_tokens
        session = self._query_session if query else self._passage_session
        tokens = np.zeros((len(texts.ids), kept, sizes.dim), np.float32)
        vectors = np.zeros((len(texts.ids), sizes.vector_dim), np.float32)

        def encode(rows: Rows) -> None:
            lengths = np.array([len(texts.ids[row]) for row in rows], np.int32)
            shape = len(rows), max(kept, int(lengths.max()))
            ids = np.full(shape, self.graphs.record.padding, np.int64)
            for position, row in enumerate(rows):
                ids[position, : lengths[position]] = texts.ids[row]
            with COMPUTING:
                encoded = session.run(["tokens", "vectors"], {"ids": ids, "lengths": lengths})
            found, vectors[rows] = encoded
            if self.graphs.record.clusters and not query:
                for row, each, length in zip(rows, found, lengths, strict=True):
                    pooled = cluster_means(each[:length], kept)
                    tokens[row, : len(pooled)] = pooled
            else:
                tokens[rows] = found

        batches = length_sorted_batches([len(ids) for ids in texts.ids], self._batch_size)
        with ThreadPoolExecutor(thread_count()) as pool:
            list(pool.map(encode, batches))
        return EncodedTexts(tokens, vectors)

    def logits(self, query_tokens: FloatArray, passage_tokens: FloatArray) -> FloatArray:
        """Returns the head's logits, (passages,), from (N, dim) and (passages, M, dim) in float32.

        They equal those of torch to within 1e-4. Only the calling thread computes.
        """
        query = np.ascontiguousarray(query_tokens[np.newaxis], np.float32)
        logits: FloatArray
        with COMPUTING:
            (logits,) = self._head_session.run(None, {"query": query, "passages": passage_tokens})
        return logits

    @cached_property
    def _head_session(self) -> Any:
        return self.graphs.session(HEAD)

    @cached_property
    def _query_session(self) -> Any:
        return self.graphs.session(QUERY)

    @cached_property
    def _passage_session(self) -> Any:
        return self.graphs.session(PASSAGE if self._precision == "float32" else PASSAGE_INT8)

    # several tokenizers, since the maximum length is a setting of the tokenizer itself
    @cached_property
    def _query_tokenizer(self) -> Any:
        return self._tokenizer(self.graphs.record.query_length)

    @cached_property
    def _passage_tokenizer(self) -> Any:
        return self._tokenizer(self.graphs.record.passage_length)

    @cached_property
    def _whole_tokenizer(self) -> Any:
        return self._tokenizer(None)

    def _tokenizer(self, length: int | None) -> Any:
        from tokenizers import Tokenizer

        path = self.graphs.folder / "tokenizer.json"
        # `tokenizers` raises plain `Exception`
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ModelError(f"{path} cannot be read as a tokenizer: {error}") from error
        self.graphs.refuse_replaced()
        tokenizer.no_padding()
        if length is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(length)
        return tokenizer
