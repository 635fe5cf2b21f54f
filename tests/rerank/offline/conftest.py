"""Two small indexes of a tiny model, and what any pair of their texts must score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex

QUERIES = 13
TOLERANCE = 1e-6


class Sides(NamedTuple):
    """The indexes, their ids, and the scores of all pairs, (queries, passages)."""

    left: Path
    right: Path
    left_ids: list[str]
    right_ids: list[str]
    scores: FloatArray

    def score(self, left: str, right: str) -> float:
        return float(self.scores[self.left_ids.index(left), self.right_ids.index(right)])


def made_sides(folder: Path, encoder: DualEncoder, passages: list[Passage], **store: str) -> Sides:
    """The queries are every other passage's text; the expected scores are those of `rerank`."""
    queries = [(f"q{row:02}", each.full_text) for row, each in enumerate(passages[::2], 1)]
    queries.append(("q99", "why does dough rise and the moon"))
    build_index(queries, folder / "left", encoder, side="query", codec="float32", **store)
    build_index(passages, folder / "right", encoder, codec="int8", **store)
    ids = [passage.id for passage in passages]
    scores = np.empty((len(queries), len(ids)), np.float32)
    with DiPairIndex.open(folder / "right", encoder) as index:
        for row, (_, text) in zip(scores, queries, strict=True):
            for passage in index.rerank(text, ids):
                row[ids.index(passage.id)] = passage.score
    return Sides(folder / "left", folder / "right", [each for each, _ in queries], ids, scores)


@pytest.fixture(scope="session")
def sides(
    tmp_path_factory: pytest.TempPathFactory, encoder: DualEncoder, passages: list[Passage]
) -> Sides:
    return made_sides(tmp_path_factory.mktemp("sides"), encoder, passages)


Rows = list[tuple[str, str, float]]


@pytest.fixture(scope="session")
def rows_in() -> Callable[[Path], Rows]:
    """Reads left, right and score of all output files of a match, in the order of their names."""

    def read(out: Path) -> Rows:
        rows: Rows = []
        for file in sorted(out.glob("scores-*.parquet")):
            table = pq.read_table(file)
            columns = [table[name].to_pylist() for name in ("left", "right", "score")]
            rows += zip(*columns, strict=True)
        return rows

    return read


@pytest.fixture(scope="session")
def bytes_in() -> Callable[[Path], dict[str, bytes]]:
    return lambda out: {path.name: path.read_bytes() for path in out.iterdir()}
