"""Filters: conditions on the metadata of the passages that a search may find.

A filter maps fields of the metadata to conditions, all of which must hold:

    {"language": "en", "year": {"gte": 2000, "lt": 2010}, "genre": ["essay", "letter"]}

- A value (text, number, bool or None): the field equals it. As in JSON, 1 equals 1.0, but neither
  True nor "1".
- A list of values: the field equals one of them. An empty list accepts no passage.
- A mapping of bounds, "gt", "gte", "lt" and "lte": the field lies within all of them. Numbers are
  compared with numbers and texts with texts, by code points, which puts ISO dates in order; a field
  of another type lies outside.

A field that holds a list fulfils a condition if one of its elements does. A passage without the
field fulfils no condition on it. An empty filter accepts every passage.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeAlias

import numpy as np

from dipair_index.errors import SettingsError
from dipair_index.words import listed

Filter: TypeAlias = Mapping[str, Any]
"""A filter as users give it."""

_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_ORDERED = ("number", "text")
_FORMS = (
    'a value, a list of values, or bounds such as {"gte": 2000, "lt": 2010} (gt, gte, lt and lte)'
)

_Key: TypeAlias = tuple[str, Any]
_Test: TypeAlias = Callable[[_Key], bool]


class MetadataFilter:
    """A filter, checked and ready to be called with the metadata of passages.

    Raises `SettingsError`, which names the field, if `given` is no filter.
    """

    def __init__(self, given: Filter) -> None:
        if not isinstance(given, Mapping):
            raise SettingsError(f"a filter must map metadata fields to {_FORMS}, got {given!r}")
        self._tests = {field: _test(field, wanted) for field, wanted in given.items()}

    def __call__(self, metadata: Mapping[str, Any]) -> bool:
        """Returns whether all conditions hold."""
        return all(
            field in metadata and any(map(test, _keys(metadata[field])))
            for field, test in self._tests.items()
        )

    def __bool__(self) -> bool:
        return bool(self._tests)


def checked_filter(given: Filter | None) -> MetadataFilter | None:
    """Returns a filter ready to use, or None if it accepts every passage.

    Raises `SettingsError` as `MetadataFilter` does.
    """
    return None if given is None else MetadataFilter(given) or None


def _test(field: Any, wanted: Any) -> _Test:
    if not isinstance(field, str):
        raise SettingsError(f"a field of a filter must be a str, got {field!r}")
    if isinstance(wanted, Mapping):
        return _within(field, wanted)
    several = isinstance(wanted, (list, tuple, Set, np.ndarray))
    values = {_wanted_key(field, value) for value in (wanted if several else [wanted])}
    return values.__contains__


def _within(field: str, bounds: Mapping[str, Any]) -> _Test:
    unknown = [repr(name) for name in bounds if name not in _BOUNDS]
    if unknown or not bounds:
        what = f"the unknown bound {listed(unknown)}" if unknown else "no bound"
        raise SettingsError(f"the filter on {field!r} has {what}: give {_FORMS}")
    tests = [(_BOUNDS[name], _wanted_key(field, bound)) for name, bound in bounds.items()]
    kind = tests[0][1][0]
    if kind not in _ORDERED or any(bound[0] != kind for _, bound in tests):
        raise SettingsError(
            f"the bounds of the filter on {field!r} must be all numbers or all texts, "
            f"got {bounds!r}"
        )
    return lambda key: key[0] == kind and all(test(key[1], bound[1]) for test, bound in tests)


def _wanted_key(field: str, value: Any) -> _Key:
    """Returns the key of a value of a filter; raises `SettingsError` if it is no such value."""
    if isinstance(value, np.generic):
        value = value.item()
    key = _key(value)
    if key is None or (isinstance(value, float) and not math.isfinite(value)):
        raise SettingsError(
            f"the filter on {field!r} holds {value!r}: give {_FORMS}, where a value is a text, a "
            "finite number, a bool or None"
        )
    return key


def _keys(value: Any) -> list[_Key]:
    """Returns the keys of a metadata field: of each of its elements if it is a list."""
    values = value if isinstance(value, list) else [value]
    return [key for each in values if (key := _key(each)) is not None]


def _key(value: Any) -> _Key | None:
    """Returns a type of JSON and the value, which are equal for equal values; None for others."""
    if isinstance(value, bool) or value is None:
        return "constant", value
    if isinstance(value, (int, float)):
        return "number", value
    if isinstance(value, str):
        return "text", value
    return None
