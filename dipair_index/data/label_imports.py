"""Imports labels: scores that were computed elsewhere, or the dataset's own judgements.

Both are written as the same shards as a teacher's logits. A probability p becomes the logit
log(p / (1 - p)), after it is clipped to [`CLIP`, 1 - `CLIP`], since 0 and 1 have no finite logit.
The probabilities of several classes become log(p), after they are clipped to `CLIP` from below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dipair_index.data.dataset import Dataset
from dipair_index.data.labels import LabelSettings, claim, write_shards
from dipair_index.digests import short_digest
from dipair_index.errors import FormatError, SettingsError
from dipair_index.formats.lines import iter_lines, source_name
from dipair_index.formats.tuples import SCORE, iter_rows
from dipair_index.records import FloatArray

CLIP = 1e-4
"""The logit of this probability is -9.2, about the lowest that cross-encoders give."""
SCALES = ("logit", "probability")
JUDGED = "judged"
"""The teacher's name if the labels are the dataset's own judgements."""


class Imported(NamedTuple):
    """Counts of the imported scores."""

    labels: int
    held_out: int  # left out, since the query is in valid or test
    clipped: int  # probabilities beyond `CLIP`


def import_scores(
    dataset: Dataset, target: Path, source: str | Path, *, scale: str, shard_size: int
) -> Imported:
    """Imports a file of scores as labels: TSV with a header line, JSONL or a TREC run.

    Its columns are `query_id`, `passage_id`, `NAME_id` of each further side, and `score`, or
    `score_0`, `score_1` and so on for several classes; a TREC run holds pairs only. `scale` is one
    of `SCALES`. Scores of held-out queries are left out. Raises `FormatError`, which names the
    line, if an id is not in the dataset, if a score is not a finite number or, as a probability,
    not in [0, 1], or if a tuple is repeated; `DirectoryError` if `target` holds other labels;
    `SettingsError` if `scale` is unknown.
    """
    if scale not in SCALES:
        raise SettingsError(f"scores are {' or '.join(SCALES)}, got {scale}")
    name = source_name(source)
    known = {side: dataset.ids(side) for side in dataset.sides}
    rows: dict[tuple[str, ...], tuple[float, ...]] = {}
    for where, ids, outputs in _scores(source, dataset.id_columns):
        for (side, of_side), item in zip(known.items(), ids, strict=True):
            if item not in of_side:
                raise FormatError(
                    f"{where}, column {side}_id: the dataset {dataset.folder} has no {side} "
                    f"{item}: take the ids from its tables, or make the dataset with ids of your "
                    "own"
                )
        outside = [score for score in outputs if not 0 <= score <= 1]
        if scale == "probability" and outside:
            raise FormatError(
                f"{where}: expected a probability from 0 to 1, got {outside[0]:g}: pass "
                "--scores-are logit if the scores are logits"
            )
        if ids in rows:
            raise FormatError(f"{where}: {', '.join(ids)} was scored before: keep one line")
        rows[ids] = outputs
    kept = {ids: s for ids, s in rows.items() if ids[0] not in dataset.held_out_queries}
    if not kept:
        raise FormatError(
            f"{name} has scores of held-out queries only: add scores of training queries"
        )
    scores = np.array(list(kept.values()), np.float64)  # (labels, outputs)
    if scores.shape[1] == 1:
        scores = scores[:, 0]
    digest = short_digest(repr((ids, *outputs)).encode() for ids, outputs in rows.items())
    scored_by = f"{scale} {digest}"
    settings = LabelSettings(Path(name).name, scored_by, None, shard_size, 0, dataset.fingerprint)
    columns = dict(zip(dataset.id_columns, map(list, zip(*kept, strict=True)), strict=True))
    clipped = _write(target, settings, pa.table(columns), scores, scale)
    return Imported(len(kept), len(rows) - len(kept), clipped)


def import_judgements(dataset: Dataset, target: Path, *, shard_size: int) -> Imported:
    """Imports the labels of the train tuples, from 0 to 1, as a teacher's probabilities.

    Raises `FormatError` if they are missing or all equal, and `DirectoryError` if `target` holds
    other labels.
    """
    train = dataset.pairs("train", [*dataset.id_columns, "label"])
    labels = train["label"].to_numpy().astype(np.float64)
    if not len(labels) or labels.min() == labels.max():
        what = "all the same" if len(labels) else "missing"
        raise FormatError(
            f"the train labels of {dataset.folder} are {what}: there is nothing to learn from them"
        )
    settings = LabelSettings(JUDGED, dataset.fingerprint, None, shard_size, 0, dataset.fingerprint)
    clipped = _write(target, settings, train.select(dataset.id_columns), labels, "probability")
    return Imported(len(labels), 0, clipped)


def _write(
    target: Path,
    settings: LabelSettings,
    pairs: pa.Table,
    scores: npt.NDArray[np.float64],
    scale: str,
) -> int:
    """Writes the shards; returns the number of clipped scores."""
    clipped = 0
    if scale == "probability":
        is_single = scores.ndim == 1
        inside = np.clip(scores, CLIP, 1 - CLIP if is_single else 1)
        clipped = int((inside != scores).sum())
        scores = np.log(inside) - np.log1p(-inside) if is_single else np.log(inside)
    logits = scores.astype(np.float32)
    claim(target, settings)

    def logits_of(shard: pa.Table, start: int) -> FloatArray:
        return logits[start : start + shard.num_rows]

    for _ in write_shards(target, settings, pairs, len(logits), logits_of):
        pass
    return clipped


def _scores(
    source: str | Path, columns: list[str]
) -> Iterator[tuple[str, tuple[str, ...], tuple[float, ...]]]:
    """Yields the line of each tuple (for messages), its ids, and its scores, one per class."""
    lines = iter_lines(source)
    first = list(islice(lines, 2))  # a header line and a row
    names = [SCORE]
    rows: Iterator[tuple[int, dict[str, Any]]]
    if first and _run_row(first[0][1]):
        if len(columns) > 2:
            raise FormatError(
                f"{source_name(source)} is a TREC run, which names pairs, and this dataset has "
                f"{', '.join(columns)}: give TSV or JSONL"
            )
        rows = ((line, _run_row(text)) for line, text in chain(first, lines))
    else:
        advice = f"expected {', '.join(columns)} and score (or score_0, score_1...), or a TREC run"
        names = _score_columns(next(iter_rows(source, first, columns, advice=advice))[1])
        rows = iter_rows(source, chain(first, lines), [*columns, *names], advice=advice)
    for line, fields in rows:
        where = f"line {line} of {source_name(source)}"
        if not fields:
            raise FormatError(f"{where}: expected 6 fields (query-id Q0 passage-id rank score tag)")
        scores = tuple(_number(fields[name], name, where) for name in names)
        yield where, tuple(str(fields[column]) for column in columns), scores


def _score_columns(fields: Iterable[str]) -> list[str]:
    """Returns the names of the score columns, as `dipair-index score` writes them."""
    several = [name for name in fields if re.fullmatch(rf"{SCORE}_\d+", name)]
    if SCORE in fields or not several:
        return [SCORE]
    return [f"{SCORE}_{index}" for index in range(len(several))]


def _number(value: Any, column: str, where: str) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise FormatError(f"{where}: expected a finite number as {column}, got {value!r}")
    return score


def _run_row(line: str) -> dict[str, Any]:
    """Returns the fields of a line of a TREC run; empty if it is not such a line."""
    fields = line.split()
    if len(fields) != 6 or fields[1] != "Q0":
        return {}
    return {"query_id": fields[0], "passage_id": fields[2], "score": fields[4]}
