"""The paths inside a dataset directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetLayout:
    """The paths inside a dataset directory."""

    folder: Path

    @property
    def record(self) -> Path:
        """Parameters, counts and digests; written last, so a folder with it is complete."""
        return self.folder / "dataset.json"

    @property
    def queries(self) -> Path:
        """`query_id, text, split`."""
        return self.folder / "queries.parquet"

    @property
    def passages(self) -> Path:
        """`passage_id, text`."""
        return self.folder / "passages.parquet"

    def texts(self, side: str) -> Path:
        """`<side>_id, text`, and `split` for queries; the file of a further side has its name."""
        return {"query": self.queries, "passage": self.passages}.get(
            side, self.folder / f"{side}.parquet"
        )

    @property
    def transfer(self) -> Path:
        """`query_id, passage_id, rank, score`, and `<side>_id` of each further side."""
        return self.folder / "transfer.parquet"

    @property
    def labels(self) -> Path:
        """The folder of a teacher's labels."""
        return self.folder / "labels"

    @property
    def ann(self) -> Path:
        """The folder of the index over all passages."""
        return self.folder / "ann"

    def pairs(self, split: str) -> Path:
        """`query_id, passage_id, label, score` of a split, and `<side>_id` of each further side."""
        return self.folder / f"{split}.parquet"

    def cached(self, name: str) -> Path:
        """The file of a cached array."""
        return self.folder / f"{name}.npy"
