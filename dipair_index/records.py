"""The records that all modules share: passages, queries, judgements, runs, and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]

Qrels: TypeAlias = dict[str, dict[str, int]]
"""Relevance by query id, then passage id."""

Run: TypeAlias = dict[str, dict[str, float]]
"""Score by query id, then passage id; higher is better."""

PAIR = ("query", "passage")
"""The sides of a pair, and the first two sides of every tuple."""

SPLITS = ("train", "valid", "test")
"""The splits of a dataset."""
HELD_OUT = SPLITS[1:]
"""The splits that no model may be trained on."""


class Passage(NamedTuple):
    """A text that can be retrieved, with its id; `metadata` holds any further fields.

    Examples
    --------
    >>> from dipair_index import Passage
    >>> passage = Passage("p1", "Yeast makes gas.", title="Dough")
    >>> passage.id, passage.full_text
    ('p1', 'Dough Yeast makes gas.')
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = {}

    @property
    def passage_id(self) -> str:
        """An alias of `id`."""
        return self.id

    @property
    def full_text(self) -> str:
        """The text that the encoder reads: the title, if there is one, a space, and the text."""
        return f"{self.title} {self.text}" if self.title else self.text


class Query(NamedTuple):
    """A query and its id.

    Examples
    --------
    >>> from dipair_index import Query
    >>> Query("q1", "why does dough rise").query_id
    'q1'
    """

    query_id: str
    text: str


class ScoredPassage(NamedTuple):
    """A passage id and its score for one query; higher is better."""

    passage_id: str
    score: float
