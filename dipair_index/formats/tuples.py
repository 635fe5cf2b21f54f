"""Files of pairs or tuples of texts: TSV with a header line, or JSONL, read row by row.

The user names the columns: `query=term,passage=title,label=relevance`. A side beyond query and
passage has a name of its own, `description=description`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dipair_index.errors import FormatError, SettingsError
from dipair_index.formats.collections import is_jsonl, json_object
from dipair_index.formats.lines import iter_lines, source_name
from dipair_index.records import PAIR

TAKEN = {"queries", "passages", "train", "valid", "test", "transfer"}
"""Names that a side cannot have, since other tables of a dataset have them."""
ADVICE = 'name the right ones with --columns, and give every row all sides (an empty text as "")'
SCORE = "score"
"""The column of a score; those of several outputs are score_0, score_1 and on."""
SIDE_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Columns:
    """The columns of a file by the role of their content."""

    texts: Mapping[str, str]  # by side, query and passage first
    ids: Mapping[str, str]  # by side, of those that have ids of their own
    label: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> Columns:
        """Reads `ROLE=COLUMN,...`; a role alone is a column of that name.

        Raises `SettingsError` if a role is doubled, missing or belongs to no side.
        """
        given: dict[str, str] = {}
        for part in text.split(","):
            role, _, column = (word.strip() for word in part.partition("="))
            if not SIDE_NAME.fullmatch(role) or role in TAKEN:
                raise SettingsError(
                    f"--columns cannot call a side {role!r}: use small letters, digits and _, "
                    f"and none of {', '.join(sorted(TAKEN))}"
                )
            if role in given:
                raise SettingsError(f"--columns gives {role} twice: give it once")
            given[role] = column or role
        label, split = given.pop("label", None), given.pop("split", None)
        ids = {role[:-3]: given.pop(role) for role in list(given) if role.endswith("_id")}
        missing = [side for side in PAIR if side not in given]
        if missing:
            raise SettingsError(
                f"--columns lacks {' and '.join(missing)}: expected, for example, "
                "query=term,passage=title,label=relevance"
            )
        if strange := [side for side in ids if side not in given]:
            raise SettingsError(
                f"--columns gives {strange[0]}_id, but there is no side {strange[0]}: add "
                f"{strange[0]}=COLUMN"
            )
        texts = {side: given.pop(side) for side in PAIR}
        return cls({**texts, **given}, ids, label, split)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides of every tuple, query and passage first."""
        return tuple(self.texts)

    @property
    def unlabelled(self) -> Columns:
        """The same texts and ids alone."""
        return replace(self, label=None, split=None)


class TupleRow(NamedTuple):
    """One row: a text of each side, with ids, label and split if there are such."""

    line: int
    texts: tuple[str, ...]
    ids: tuple[str | None, ...]  # None for a side without ids
    label: float | None
    split: str  # empty where there is no such column
    fields: dict[str, Any]  # the row as it came


def read_tuples(
    source: str | Path, columns: Columns, *, max_label: float = 1.0
) -> Iterator[TupleRow]:
    """Yields the rows of a file, or "-"; labels are divided by `max_label`, and empty ones None.

    Query and passage have text in every row; further texts may be empty but not missing. Raises
    `FormatError`, which names file, line and column, if a row is invalid.
    """
    needed = [*columns.texts.values(), *columns.ids.values()]
    optional = [name for name in (columns.label, columns.split) if name is not None]
    rows = iter_rows(source, iter_lines(source), needed, optional=optional, advice=ADVICE)
    for line, fields in rows:
        where = f"line {line} of {source_name(source)}"
        texts = tuple(
            _text(fields[column], side in PAIR, f"{where}, column {column}")
            for side, column in columns.texts.items()
        )
        ids = tuple(
            _id(fields[columns.ids[side]], f"{where}, column {columns.ids[side]}")
            if side in columns.ids
            else None
            for side in columns.sides
        )
        label = None
        if columns.label is not None:
            label = _label(fields[columns.label], max_label, f"{where}, column {columns.label}")
        split = "" if columns.split is None else str(fields[columns.split] or "")
        yield TupleRow(line, texts, ids, label, split.strip(), fields)


def iter_rows(
    source: str | Path,
    lines: Iterable[tuple[int, str]],
    needed: Sequence[str],
    *,
    optional: Sequence[str] = (),
    advice: str,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields line and fields of each row of a TSV file with a header line, or of a JSONL one.

    `lines` are the numbered lines of the file. Every row has the `needed` columns; `optional`
    fields that a JSONL row lacks are None. Raises `FormatError`, which ends in `advice`, if a
    column is missing.
    """
    name, jsonl = source_name(source), is_jsonl(source)
    header: list[str] = []
    count = 0
    for line, text in lines:
        where = f"line {line} of {name}"
        if not count and not header and str(source) == "-":
            jsonl = text.startswith("{")
        if jsonl:
            fields = {**dict.fromkeys(optional), **json_object(text, where)}
            _check_columns(list(fields), [*needed, *optional], where, advice)
        elif not header:
            header = text.split("\t")
            if not set(header) & {*needed, *optional}:  # most likely a first row
                raise FormatError(
                    f"{where} must be a header that names {', '.join([*needed, *optional])}: add "
                    f"it, or {advice}"
                )
            _check_columns(header, [*needed, *optional], where, advice)
            continue
        else:
            cells = text.split("\t")
            if len(cells) != len(header):
                raise FormatError(
                    f"{where}: expected {len(header)} tab-separated fields "
                    f"({', '.join(header)}), got {len(cells)}"
                )
            fields = dict(zip(header, cells, strict=True))
        count += 1
        yield line, fields
    if not count:
        raise FormatError(f"{name} holds no row: expected one a line, after a header line in TSV")


def _check_columns(there: list[str], needed: Sequence[str], where: str, advice: str) -> None:
    missing = [name for name in needed if name not in there]
    if missing:
        raise FormatError(
            f"{where}: there is no column {', '.join(missing)}, only {', '.join(there)}: {advice}"
        )
    if twice := [name for name in there if there.count(name) > 1]:
        raise FormatError(f"{where}: two columns are called {twice[0]!r}: rename one of them")


def _text(value: Any, needed: bool, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: expected a text, got {_shown(value)}")
    if needed and not value.strip():
        raise FormatError(f"{where}: the text is empty: remove the line, or fill it in")
    return value


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise FormatError(f"{where}: expected an id, got {_shown(value)}")
    if str(value).splitlines() != [str(value)] or "\t" in str(value):
        raise FormatError(
            f"{where}: the id {value!r} holds a tab or a line break: give it another id"
        )
    return str(value)


def _label(value: Any, max_label: float, where: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        label = float(value)
    except (TypeError, ValueError, OverflowError):
        raise FormatError(f"{where}: expected a number as label, got {_shown(value)}") from None
    if not math.isfinite(label) or not 0 <= label <= max_label:
        raise FormatError(
            f"{where}: expected a label from 0 to {max_label:g}, got {_shown(value)}: fix it, or "
            "say with --max-label what the highest label is"
        )
    return label / max_label


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else repr(value)
