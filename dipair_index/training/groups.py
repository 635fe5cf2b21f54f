"""A teacher's labels in groups: the labelled tuples of one query that a training step compares."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from dipair_index.errors import FormatError
from dipair_index.records import PAIR, FloatArray


@dataclass(frozen=True)
class LabelledGroups:
    """The labelled tuples of each query.

    Item i consists of query i and, for each other side, `rows[side][i]`, (tuples,): indexes into
    `ids[side]`. `logits[i]` are its labels, (tuples,) or (tuples, classes). Several items may have
    the same query.
    """

    ids: Mapping[str, Sequence[str]]
    rows: Mapping[str, Sequence[npt.NDArray[np.int64]]]
    logits: Sequence[FloatArray]

    @property
    def classes(self) -> int:
        """The number of the teacher's outputs."""
        return 1 if self.logits[0].ndim == 1 else self.logits[0].shape[1]

    @classmethod
    def from_table(
        cls, labels: pa.Table, sides: Sequence[str] = PAIR, *, each_alone: bool = False
    ) -> LabelledGroups:
        """Groups a table of `<side>_id` columns and `logit` by query.

        With `each_alone`, each row is an item of its own. Raises `FormatError` if the labels are of
        other sides, if one is missing or not finite, or if all are equal.
        """
        labelled = [name[:-3] for name in labels.column_names if name.endswith("_id")]
        if set(labelled) != set(sides):
            raise FormatError(
                f"the labels are of tuples of {', '.join(labelled)}, and the dataset's are of "
                f"{', '.join(sides)}: label this dataset with `dipair-index label`"
            )
        values = _logits(labels["logit"])
        ids: dict[str, Sequence[str]] = {}
        indexes: dict[str, npt.NDArray[np.int64]] = {}
        for side in sides:
            column = labels[f"{side}_id"].to_numpy()
            names, indexes[side] = np.unique(column, return_inverse=True)
            ids[side] = [str(name) for name in names]
        queries = indexes.pop("query")
        if each_alone:
            ids["query"] = [ids["query"][index] for index in queries]
            queries = np.arange(len(queries))
        order = np.argsort(queries, kind="stable")
        cuts = np.flatnonzero(np.diff(queries[order])) + 1
        rows = {side: np.split(column[order], cuts) for side, column in indexes.items()}
        return cls(ids, rows, np.split(values[order], cuts))

    def check_ids(self, texts: Mapping[str, Mapping[str, str]], dataset: str) -> None:
        """Raises `FormatError`, which names the first such id, if a labelled id has no text."""
        for side, names in self.ids.items():
            missing = [name for name in names if name not in texts[side]]
            if missing:
                raise FormatError(
                    f"the labels name {side} {missing[0]}, and {dataset} has no such {side}"
                    f" (missing: {len(missing):,} of {len(names):,}): label this dataset with "
                    "`dipair-index label`"
                )

    def check_splits(self, held_out: Container[str], dataset: str) -> None:
        """Raises `FormatError`, which names the first such query, if a labelled one is held out."""
        found = [name for name in self.ids["query"] if name in held_out]
        if found:
            raise FormatError(
                f"the labels are of query {found[0]}, and {dataset} holds it out for valid or test"
                f" (held out: {len(found):,} of {len(self.ids['query']):,}): label this dataset "
                "with `dipair-index label`"
            )

    def check_group(self, loss: str) -> None:
        """Raises `FormatError` if no query has two labels to compare."""
        if max(map(len, self.logits)) < 2:
            raise FormatError(
                f"no query has two labels, and a {loss} loss compares the labels of one query: "
                "label more passages per query, or pass --loss binary"
            )


class GroupDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """One item per query: `group` of its labelled tuples, drawn again in every epoch."""

    def __init__(self, groups: LabelledGroups, group: int, seed: int) -> None:
        self._groups = groups
        self._group = group
        self._seed = seed
        self._epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Sets the epoch, counted from 0, whose tuples are drawn from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._groups.logits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns "query", "labels" and each other side.

        "query" is an index, "labels" are (group,) or (group, classes), and the other sides are
        indexes (group,), all of them into the `ids` of `LabelledGroups`. A label of NaN is padding.
        """
        # seeded by epoch and query, so that a resumed run draws the same tuples
        random = np.random.default_rng((self._seed, self._epoch, index))
        logits = self._groups.logits[index]
        chosen = random.permutation(len(logits))[: self._group]
        missing = self._group - len(chosen)
        # a query with too few labels is padded with its first tuple, whose label is NaN there
        filled = np.concatenate([chosen, np.zeros(missing, np.int64)])
        labels = logits[filled]
        labels[len(chosen) :] = np.nan
        others = {side: rows[index][filled] for side, rows in self._groups.rows.items()}
        return {"query": index, "labels": labels, **others}


def stacked_labels(items: Sequence[Mapping[str, Any]]) -> Tensor:
    """Returns the labels of a batch of items, (items, group) or (items, group, classes)."""
    return torch.from_numpy(np.stack([item["labels"] for item in items]))


def _logits(column: pa.ChunkedArray) -> FloatArray:
    """Returns the labels, (labels,) or (labels, classes); raises `FormatError` if all are equal."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        chunks = [np.asarray(chunk.flatten(), np.float32) for chunk in column.chunks]
        values = np.concatenate(chunks or [np.empty(0, np.float32)]).reshape(-1, kind.list_size)
        if kind.list_size == 1:
            values = values[:, 0]
    else:
        values = column.to_numpy().astype(np.float32)
    if not len(column) or column.null_count or not np.isfinite(values).all():
        raise FormatError("the labels are empty or hold a logit that is not a finite number")
    if (values == values[0]).all():
        shown = ", ".join(f"{value:g}" for value in np.atleast_1d(values[0]))
        raise FormatError(f"all labels are {shown}: there is nothing to learn from them")
    return values
