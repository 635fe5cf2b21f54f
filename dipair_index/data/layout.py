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
        """Parameters, counts and digests; written last, so a folder with it is whole."""
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
        """`<side>_id, text`, and the split of a query; sides beyond the two go by their names."""
        return {"query": self.queries, "passage": self.passages}.get(
            side, self.folder / f"{side}.parquet"
        )

    @property
    def transfer(self) -> Path:
        """`query_id, passage_id, rank, score`, and `<side>_id` of each side beyond the two."""
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
        """`query_id, passage_id, label, score` of "train", "valid" or "test", and further ids."""
        return self.folder / f"{split}.parquet"

    def kept(self, name: str) -> Path:
        """An array that was computed once."""
        return self.folder / f"{name}.npy"
