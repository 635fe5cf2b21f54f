"""What `paper.py` trains and measures on: a dataset's pairs as rows of encoder outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from dipair_index.cli._console import progress
from dipair_index.data.dataset import Dataset
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.sources import encoder_source
from dipair_index.models.tokenizers import load_tokenizer
from dipair_index.training.hidden_states import HiddenStateCache

Scores = Mapping[str, np.ndarray]
KEPT = 16
"""Tokens cached a text; a system that keeps fewer takes the first of them."""
QUERY_LENGTH = 32
CERTAIN = 0.98
"""A human label of 1 becomes the logit of this, since that of 1 is infinite."""


class Pairs(NamedTuple):
    query: npt.NDArray[np.int64]  # places in the queries' texts
    passage: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]  # a teacher's logits, or the labels of a held-out split
    ids: tuple[list[str], list[str]]


class Data(NamedTuple):
    texts: Mapping[str, Sequence[str]]
    pairs: Mapping[str, Pairs]  # train, valid, test

    @property
    def measure(self) -> str:
        return "AUC" if len(np.unique(self.pairs["test"].values)) < 3 else "Pearson"


def judged_pairs(dataset: Path, count: int, seed: int) -> pa.Table:
    """Some judged pairs of the train split, with the logits of their labels in [0, 1]."""
    columns = ["query_id", "passage_id", "label"]
    table = sample(Dataset.open(dataset).pairs("train", columns), count, seed)
    label = table["label"].to_numpy().clip(1 - CERTAIN, CERTAIN)
    return table.drop("label").append_column("value", pa.array(np.log(label / (1 - label))))


def sample(table: pa.Table, count: int, seed: int) -> pa.Table:
    """A random sample of at most `count` rows."""
    return table.take(np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:count]))


def read(dataset: Path, train: pa.Table, held_out: int, seed: int) -> Data:
    """The pairs of all splits, at most `held_out` of each held-out split."""
    opened, tables = Dataset.open(dataset), {"train": train}
    for split in ("valid", "test"):
        columns = ["query_id", "passage_id", "label"]
        table = opened.pairs(split, columns)
        tables[split] = sample(table.rename_columns({"label": "value"}), held_out, seed)
    texts, places = {}, {}
    for side in ("query", "passage"):
        of_side = opened.texts(side)
        names = sorted(
            {name for table in tables.values() for name in table[f"{side}_id"].to_pylist()}
        )
        texts[side] = [of_side[name] for name in names]
        places[side] = {name: place for place, name in enumerate(names)}
    pairs = {}
    for split, table in tables.items():
        ids = table["query_id"].to_pylist(), table["passage_id"].to_pylist()
        rows = [
            np.array([places[side][name] for name in names], np.int64)
            for side, names in zip(("query", "passage"), ids, strict=True)
        ]
        pairs[split] = Pairs(*rows, table["value"].to_numpy().astype(np.float32), ids)
    return Data(texts, pairs)


def new_model(encoder: str, layers: int, passage_length: int, **settings: Any) -> DiPairModel:
    """A student that starts from the first `layers` layers of the encoder."""
    return DiPairModel.from_encoder(
        encoder_source(encoder), layers=layers, passage_length=passage_length, **settings
    )


def tokenizer_of(encoder: str) -> Any:
    return load_tokenizer(encoder)


def encoded(
    data: Data, encoder: str, layers: int, passage_length: int, pooling: str, folder: Path
) -> HiddenStateCache:
    """The first hidden states of all texts after `layers` layers; computed once."""
    sizes = {"max_query_tokens": KEPT, "max_passage_tokens": KEPT, "pooling": pooling}
    model = new_model(encoder, layers, passage_length, **sizes)
    return HiddenStateCache.compute(
        model, tokenizer_of(encoder), data.texts, folder, progress, bf16=True
    )


def first_tokens(cache: HiddenStateCache, query: int, passage: int) -> HiddenStateCache:
    """The cache cut to fewer tokens."""
    kept = {"query": query, "passage": passage}
    return HiddenStateCache({side: rows[:, : kept[side]] for side, rows in cache.states.items()})


def held_out_scores(
    model: DiPairModel,
    data: Data,
    score: Callable[[np.ndarray, np.ndarray], torch.Tensor],
    at_once: int = 512,
) -> Scores:
    """The logits of the held-out pairs by split; `score` takes the places of their texts."""
    scores = {}
    for split in ("valid", "test"):
        query, passage = data.pairs[split][:2]
        places = np.array_split(np.arange(len(query)), -(-len(query) // at_once))
        with torch.inference_mode():
            parts = [score(query[rows], passage[rows]).flatten() for rows in places]
        scores[split] = torch.cat(parts).numpy()
    return scores
