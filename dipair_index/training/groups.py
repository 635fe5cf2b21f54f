"""A teacher's labels as training reads them: some labelled tuples of each query a step."""

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
    """Each query's labelled tuples: item i is query i, `rows[side][i]` (tuples,) the other sides.

    Rows are places in the `ids` of their side; `logits[i]` are the labels, (tuples,) or
    (tuples, classes). An item has one query, and several may share it.
    """

    ids: Mapping[str, Sequence[str]]
    rows: Mapping[str, Sequence[npt.NDArray[np.int64]]]
    logits: Sequence[FloatArray]

    @property
    def classes(self) -> int:
        """The outputs of the teacher."""
        return 1 if self.logits[0].ndim == 1 else self.logits[0].shape[1]

    @classmethod
    def from_table(
        cls, labels: pa.Table, sides: Sequence[str] = PAIR, *, each_alone: bool = False
    ) -> LabelledGroups:
        """Groups a table of `<side>_id` columns and `logit` by its queries, or each row alone.

        Raises `FormatError` where the labels are of other sides, or nothing can be learnt from
        them.
        """
        labelled = [name[:-3] for name in labels.column_names if name.endswith("_id")]
        if set(labelled) != set(sides):
            raise FormatError(
                f"the labels are of tuples of {', '.join(labelled)}, and the dataset's are of "
                f"{', '.join(sides)}: label this dataset with `dipair-index label`"
            )
        values = _logits(labels["logit"])
        ids: dict[str, Sequence[str]] = {}
        places: dict[str, npt.NDArray[np.int64]] = {}
        for side in sides:
            column = labels[f"{side}_id"].to_numpy()
            names, places[side] = np.unique(column, return_inverse=True)
            ids[side] = [str(name) for name in names]
        queries = places.pop("query")
        if each_alone:
            ids["query"] = [ids["query"][place] for place in queries]
            queries = np.arange(len(queries))
        order = np.argsort(queries, kind="stable")
        cuts = np.flatnonzero(np.diff(queries[order])) + 1
        rows = {side: np.split(column[order], cuts) for side, column in places.items()}
        return cls(ids, rows, np.split(values[order], cuts))

    def check_ids(self, texts: Mapping[str, Mapping[str, str]], dataset: str) -> None:
        """Raises `FormatError` that names the first labelled id without a text."""
        for side, names in self.ids.items():
            missing = [name for name in names if name not in texts[side]]
            if missing:
                raise FormatError(
                    f"the labels name {side} {missing[0]}, and {dataset} has no such {side}"
                    f" ({len(missing):,} of {len(names):,} are missing): label this dataset with "
                    "`dipair-index label`"
                )

    def check_splits(self, held_out: Container[str], dataset: str) -> None:
        """Raises `FormatError` that names the first labelled query of a held-out split."""
        found = [name for name in self.ids["query"] if name in held_out]
        if found:
            raise FormatError(
                f"the labels are of query {found[0]}, and {dataset} holds it out for valid or test"
                f" ({len(found):,} of {len(self.ids['query']):,} are held out): label this dataset "
                "with `dipair-index label`"
            )

    def check_group(self, loss: str) -> None:
        """Raises `FormatError` where no query has two labels to compare."""
        if max(map(len, self.logits)) < 2:
            raise FormatError(
                f"each of the {len(self.logits):,} queries has one label only, and a {loss} loss "
                "compares those of one query: label more a query, or pass --loss binary"
            )


class GroupDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """One item a query: `group` of its labelled tuples, drawn anew in every epoch."""

    def __init__(self, groups: LabelledGroups, group: int, seed: int) -> None:
        self._groups = groups
        self._group = group
        self._seed = seed
        self._epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Draws as this epoch does, from 0, from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._groups.logits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns "query", the query's place, "labels", and the places of each other side."""
        # seeded by epoch and query, so that a resumed run draws what an undisturbed one would
        random = np.random.default_rng((self._seed, self._epoch, index))
        logits = self._groups.logits[index]
        chosen = random.permutation(len(logits))[: self._group]
        missing = self._group - len(chosen)
        # a query with too few labels is filled with one that has no say
        filled = np.concatenate([chosen, np.zeros(missing, np.int64)])
        labels = logits[filled]
        labels[len(chosen) :] = np.nan
        places = {side: rows[index][filled] for side, rows in self._groups.rows.items()}
        return {"query": index, "labels": labels, **places}


def stacked_labels(items: Sequence[Mapping[str, Any]]) -> Tensor:
    """The labels of a batch of items, (items, group) or (items, group, classes)."""
    return torch.from_numpy(np.stack([item["labels"] for item in items]))


def _logits(column: pa.ChunkedArray) -> FloatArray:
    """(labels,) or (labels, classes); `FormatError` where they teach nothing."""
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
