"""Checks the arguments of the library's functions: numbers, queries and passages."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from dipair_index.errors import FormatError, SettingsError
from dipair_index.records import Passage, Query, Run

GivenPassage: TypeAlias = Passage | tuple[str, str] | tuple[str, str, str] | Mapping[str, Any]
"""A passage as users give it: `Passage`, (id, text), (id, text, title), or a mapping."""


def checked_count(name: str, value: Any, *, least: int = 1) -> int:
    """Returns `value`, a Python or numpy integer, as an int.

    Raises `SettingsError`, which calls it `name`, if it is not an integer or is below `least`.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        count = operator.index(value)
    except TypeError as error:
        raise SettingsError(
            f"{name} must be a whole number of {least} or more, got {value!r}"
        ) from error
    if count < least:
        raise SettingsError(f"{name} must be {least} or more, got {count}")
    return count


def checked_top_k(value: Any) -> int | None:
    """Returns `top_k` as an int or None, which stands for all scored passages.

    Raises `SettingsError` as `checked_count` does.
    """
    return None if value is None else checked_count("top_k", value)


def checked_queries(queries: str | Iterable[str]) -> list[str]:
    """Returns one or several queries as a list.

    Raises `SettingsError` if one is not a str, is empty, or is not valid Unicode.
    """
    if isinstance(queries, Query) or not (isinstance(queries, str) or _is_iterable(queries)):
        raise SettingsError(f"a query must be a text (str), got {queries!r}")
    found = [queries] if isinstance(queries, str) else list(queries)
    for query in found:
        if not isinstance(query, str):
            raise SettingsError(f"a query must be a text (str), got {query!r}")
        if not query.strip():
            raise SettingsError("a query is empty: give it some text")
        if not _is_unicode(query):
            raise SettingsError(f"the query {query!r} is not valid Unicode: {_DECODE}")
    return found


def checked_run_queries(queries: Iterable[Query], run: Run) -> list[Query]:
    """Returns the queries of a run as a list.

    Raises `SettingsError` if one is no `Query`, or if the run is not of the type `Run`.
    """
    if isinstance(queries, Query) or not _is_iterable(queries):
        raise SettingsError(f"queries must be a list of Query, got {_shown(queries)}")
    found = list(queries)
    for query in found:
        if not isinstance(query, Query):
            raise SettingsError(f"a query of a run must be a Query(id, text), got {_shown(query)}")
    if not isinstance(run, Mapping):
        raise SettingsError(f"a run must be a dict of dicts, got {_shown(run)}")
    for query in found:
        scores = run.get(query.query_id, {})
        if not isinstance(scores, Mapping):
            raise SettingsError(
                f"what a run ranks for query {query.query_id} must be a dict of scores by passage "
                f"id, got {_shown(scores)}"
            )
        for passage_id, score in scores.items():
            if not isinstance(passage_id, str):
                raise SettingsError(f"a passage id must be a str, got {_shown(passage_id)}")
            if not isinstance(score, (int, float, np.number)) or np.isnan(score):
                raise SettingsError(
                    f"the score of passage {passage_id} for query {query.query_id} must be a "
                    f"number, got {_shown(score)}"
                )
    return found


def checked_pairs(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns (query, document) pairs; raises `SettingsError` if something else is given."""
    if not _is_iterable(pairs):
        raise SettingsError(f"pairs must be a list of (query, document), got {_shown(pairs)}")
    found = []
    for pair in pairs:
        ordered = isinstance(pair, (tuple, list, np.ndarray))
        if not ordered or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise SettingsError(f"a pair must be (query, document), got {_shown(pair)}")
        query, document = pair
        found.append((query, document))
    return found


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Returns texts to score as a list; a text may be empty.

    Raises `SettingsError` if one is not a str, or is not valid Unicode.
    """
    if isinstance(texts, (str, bytes)) or not _is_iterable(texts):
        raise SettingsError(f"texts must be a list of texts (str), got {_shown(texts)}")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise SettingsError(f"text {index} must be a str, got {_shown(text)}")
        if not _is_unicode(text):
            raise SettingsError(f"text {index} is not valid Unicode: {_DECODE}")
    return found


def checked_ids(ids: Iterable[str]) -> list[str]:
    """Returns passage ids as a list; raises `SettingsError` if they are not a list of str."""
    if isinstance(ids, (str, bytes)) or not _is_iterable(ids):
        raise SettingsError(f"passage ids must be a list, got {ids!r}: pass [{ids!r}] for one")
    found = list(ids)
    for each in found:
        if not isinstance(each, str):
            raise SettingsError(f"a passage id must be a str, got {_shown(each)}")
    return found


def iter_passages(passages: Iterable[GivenPassage]) -> Iterator[Passage]:
    """Yields passages as `Passage`, one by one.

    Raises `FormatError`, which names the passage, if one is of another type, has no id or no text,
    or is not valid Unicode.
    """
    if isinstance(passages, (str, bytes, Passage, Mapping)) or not _is_iterable(passages):
        raise FormatError(f"passages must be a list of passages, got {_shown(passages)}")
    return (_passage(index, given) for index, given in enumerate(passages))


def checked_passage(passage: Passage) -> Passage:
    """Returns the passage.

    Raises `FormatError` if its id, text or title is not a str, or not valid Unicode.
    """
    for name, value in zip(("id", "text", "title"), passage, strict=False):
        if not isinstance(value, str):
            raise FormatError(
                f"the {name} of passage {passage.id!r} must be a str, got {_shown(value)}"
            )
        if not _is_unicode(value):
            raise FormatError(
                f"the {name} of passage {passage.id!r} is not valid Unicode: {_DECODE}"
            )
    if not isinstance(passage.metadata, Mapping):
        raise FormatError(
            f"the metadata of passage {passage.id!r} must be a dict, got {_shown(passage.metadata)}"
        )
    return passage


_DECODE = "it holds half of a surrogate pair, so decode it again from its bytes"


def _passage(index: int, given: GivenPassage) -> Passage:
    if isinstance(given, Passage):
        return checked_passage(given)
    if isinstance(given, Mapping):
        others = dict(given)
        passage_id = others.pop("id", others.pop("_id", None))
        text, title = others.pop("text", None), others.pop("title", "")
        if passage_id is not None and text is not None:
            return checked_passage(Passage(passage_id, text, title or "", others))
    elif isinstance(given, (tuple, list)) and len(given) in (2, 3):
        return checked_passage(Passage(*given))
    raise FormatError(
        f"passage {index} must be a Passage(id, text), a pair of id and text, or a mapping with "
        f"id and text, got {_shown(given)}"
    )


def _is_unicode(text: str) -> bool:
    """Returns whether UTF-8 can encode the text: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_iterable(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, (bytes, Mapping))


def _shown(value: Any) -> str:
    """Returns the beginning of a value's repr."""
    whole = repr(value)
    return whole if len(whole) <= 60 else f"{whole[:60]}…"
