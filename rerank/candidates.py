"""The passages to rerank, which a caller gives as ids, `Passage` objects or texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dipair_index.errors import SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.arguments import checked_passage, checked_texts
from dipair_index.words import counted


class Candidate(NamedTuple):
    """A passage to be scored; if `passage` is None, it is the indexed one with this id."""

    id: str
    order: str | int  # the sort key among equal scores: the id, or the position of a text
    passage: Passage | None = None

    @classmethod
    def named(cls, passage_id: str) -> Candidate:
        """Returns the candidate for the indexed passage with this id."""
        return cls(passage_id, passage_id)


def candidates_of(passages: Any, texts: Any) -> list[Candidate]:
    """Returns the candidates of one query, each id once.

    `passages` are ids and `Passage` objects; `texts` are strings, whose ids are their positions.
    Raises `SettingsError` if both or neither are given, or if one has another type.
    """
    if (passages is None) == (texts is None):
        raise SettingsError("give either passages (ids or Passage objects) or texts to rerank")
    if texts is not None:
        return [
            Candidate(str(index), index, Passage(str(index), text))
            for index, text in enumerate(checked_texts(texts))
        ]
    found: dict[str, Candidate] = {}
    for each in _listed(passages):
        if not isinstance(each, (str, Passage)):
            raise SettingsError(
                f"a passage to rerank must be an id (str) or a Passage, got {each!r}: pass texts "
                "as texts=[...]"
            )
        candidate = (
            Candidate.named(each)
            if isinstance(each, str)
            else Candidate(each.id, each.id, checked_passage(each))
        )
        if found.setdefault(candidate.id, candidate) != candidate:
            raise SettingsError(f"the passage {candidate.id!r} is given twice, with other texts")
    return list(found.values())


def candidates_of_each(queries: Sequence[str], passages: Any, texts: Any) -> list[list[Candidate]]:
    """Returns the candidates of several queries, as `candidates_of` does, from a list for each."""
    given = texts if passages is None else passages
    if (passages is None) == (texts is None):
        return [candidates_of(passages, texts)]
    lists = _listed(given)
    if len(lists) != len(queries) or any(isinstance(each, (str, Passage)) for each in lists):
        raise SettingsError(
            f"{counted(len(queries), 'query needs', 'queries need')} as many lists of passages, "
            f"one per query, got {_described(lists)}"
        )
    if passages is None:
        return [candidates_of(None, each) for each in lists]
    return [candidates_of(each, None) for each in lists]


def _listed(given: Any) -> list[Any]:
    """Returns the argument as a list; raises `SettingsError` if it is a single str or Passage."""
    if isinstance(given, (str, bytes, Passage)) or not isinstance(given, Iterable):
        raise SettingsError(
            f"passages to rerank must be a list, got {given!r}: pass [{given!r}] for one id, or "
            "texts=[...] for texts"
        )
    return list(given)


def _described(lists: list[Any]) -> str:
    flat = any(isinstance(each, (str, Passage)) for each in lists)
    return f"{counted(len(lists), 'passage')} in one list" if flat else counted(len(lists), "list")
