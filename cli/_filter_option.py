"""`--filter`: conditions on metadata as they are typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

from dipair_index.cli._options import Command
from dipair_index.cli._types import Utf8Text

_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_CONDITION = re.compile(r"(?P<field>[^<>=!]+)(?P<sign>>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)


def filter_option() -> Callable[[Command], Command]:
    """`--filter`, which may be repeated; the parameter `filters` gets the given texts."""
    return click.option(
        "--filter",
        "filters",
        type=Utf8Text(),
        multiple=True,
        metavar="CONDITION",
        help="Search only passages whose metadata fulfil FIELD=VALUE, or FIELD and a bound "
        "(FIELD>=2000, with >, >=, < or <=), or a JSON object as in Python. All conditions must "
        "hold; of several values of one FIELD, any",
    )


def parsed_filter(conditions: tuple[str, ...]) -> dict[str, Any] | None:
    """Returns the filter of all conditions, or None if there are none.

    Raises `UsageError`, which quotes the condition, if one is no condition, or if it contradicts
    the ones before, and `SettingsError` if they make no filter.
    """
    from dipair_index.rerank.metadata_filter import checked_filter

    found: dict[str, Any] = {}
    for text in conditions:
        if text.lstrip().startswith("{"):
            _add_object(found, text)
        elif match := _CONDITION.fullmatch(text.strip()):
            _add(found, text, match["field"].strip(), match["sign"], match["value"].strip())
        else:
            raise click.UsageError(
                f"--filter {text!r} is no condition: give FIELD=VALUE, FIELD>=VALUE (or >, <, <=) "
                "or a JSON object"
            )
    checked_filter(found)
    return found or None


def _add(found: dict[str, Any], text: str, field: str, sign: str, value: str) -> None:
    if sign == "=":
        known = found.setdefault(field, [])
        if not isinstance(known, list):
            raise _contradiction(text, field)
        known += _values(value)
        return
    bounds = found.setdefault(field, {})
    if not isinstance(bounds, dict) or _BOUNDS[sign] in bounds:
        raise _contradiction(text, field)
    bounds[_BOUNDS[sign]] = _values(value)[0]


def _add_object(found: dict[str, Any], text: str) -> None:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--filter {text!r} is no JSON: {error}") from error
    for field in given:
        if field in found:
            raise _contradiction(text, field)
    found.update(given)


def _values(text: str) -> list[Any]:
    """Returns what a typed value may stand for, first a number: 2000 is a number or a text.

    A value in double quotes is a text alone.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    if isinstance(value, str):
        return [value]
    return [text] if isinstance(value, (list, dict)) else [value, text]


def _contradiction(text: str, field: str) -> click.UsageError:
    return click.UsageError(
        f"--filter {text!r} does not fit the conditions on {field!r} before it: give values, or "
        "each bound once"
    )
