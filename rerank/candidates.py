"""The passages that a caller gives to be reranked: by id, as passages, or as mere texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dipair_index.errors import SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.arguments import checked_passage, checked_texts


class Candidate(NamedTuple):
    """One passage to be scored; without a `passage`, it is the one of the index with this id."""

    id: str
    order: str | int  # among equal scores: the id, or the place of a mere text
    passage: Passage | None = None

    @classmethod
    def named(cls, passage_id: str) -> Candidate:
        """The passage of the index with this id."""
        return cls(passage_id, passage_id)


def candidates_of(passages: Any, texts: Any) -> list[Candidate]:
    """Returns what one query is to be met with, an id once; raises `SettingsError`.

    `passages` are ids and `Passage` objects; `texts` are strings, whose ids are their places.
    """
    if (passages is None) == (texts is None):
        raise SettingsError("give either passages (ids or Passage objects) or texts to rerank")
    if texts is not None:
        return [
            Candidate(str(place), place, Passage(str(place), text))
            for place, text in enumerate(checked_texts(texts))
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
    """As `candidates_of`, for several queries, each of which has a list of its own."""
    given = texts if passages is None else passages
    if (passages is None) == (texts is None):
        return [candidates_of(passages, texts)]
    lists = _listed(given)
    if len(lists) != len(queries) or any(isinstance(each, (str, Passage)) for each in lists):
        raise SettingsError(
            f"{len(queries)} queries need as many lists of passages, one a query, "
            f"got {_said(lists)}"
        )
    if passages is None:
        return [candidates_of(None, each) for each in lists]
    return [candidates_of(each, None) for each in lists]


def _listed(given: Any) -> list[Any]:
    """What was given as a list; a str is one id or text, which is most likely a slip."""
    if isinstance(given, (str, bytes, Passage)) or not isinstance(given, Iterable):
        raise SettingsError(
            f"passages to rerank must be a list, got {given!r}: pass [{given!r}] for one id, or "
            "texts=[...] for texts"
        )
    return list(given)


def _said(lists: list[Any]) -> str:
    flat = any(isinstance(each, (str, Passage)) for each in lists)
    return f"{len(lists)} passages in one list" if flat else f"{len(lists)} lists"
