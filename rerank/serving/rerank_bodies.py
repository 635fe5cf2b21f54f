"""What a rerank request may hold, in the dialects of Cohere, Jina, vLLM and others, and of TEI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from dipair_index.rerank.serving.bodies import FilledText, Flag, LaxBody
from dipair_index.rerank.serving.errors import invalid


def _documents(given: Any) -> Any:
    if isinstance(given, list):
        for place, each in enumerate(given):
            if not isinstance(each, (str, dict)):
                raise ValueError(
                    f"item {place} must be a text, or an object with the field text, got {each!r}"
                )
    return given


Documents = Annotated[list[str | dict[str, Any]], BeforeValidator(_documents)]


class SpansWanted(LaxBody):
    """Which matched spans Cohere's clients ask for."""

    mode: str = "disabled"
    threshold: float = Field(0.1, description="The least score of a span")
    max_spans: int | None = Field(None, ge=0, description="The most spans of a document")


class RerankRequest(LaxBody):
    """A query, and one of `documents`, `ids` and `texts` to rank for it."""

    query: FilledText
    documents: Documents | None = Field(
        None, description="Texts, or objects with the field text or the fields in rank_fields"
    )
    ids: list[str] | None = Field(None, description="Ids of passages in the index")
    texts: list[str] | None = Field(
        None, description="Texts, in TEI's dialect: the answer is a bare list with all of them"
    )
    model: str | None = Field(None, description="Any name; the answer repeats it")
    top_n: int | None = Field(
        None, ge=0, description="Results to return; null, 0 or too many are all"
    )
    top_k: int | None = Field(None, ge=0, description="As top_n, in Voyage's dialect")
    truncation: Flag = Field(None, description="Of Voyage's dialect; texts are always truncated")
    rank_fields: list[str] | None = Field(
        None, description="Fields of document objects that are ranked, joined by spaces"
    )
    return_documents: Flag = Field(None, description="Return the texts of the results")
    return_text: Flag = Field(None, description="Return the texts, in TEI's dialect")
    raw_scores: Flag = Field(None, description="Return logits instead of scores in [0, 1]")
    relevant_spans: SpansWanted | None = Field(
        None, description="With the mode enabled, return the spans that matched, in code points"
    )

    @model_validator(mode="after")
    def _one_source(self) -> RerankRequest:
        given = [each for each in (self.documents, self.ids, self.texts) if each is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of documents (texts), ids (of the index) and texts (TEI's "
                f"dialect) to rank, got {len(given)} of them"
            )
        return self

    @property
    def limit(self) -> int | None:
        """How many results to return; None is all."""
        return self.top_n or self.top_k or None

    @property
    def is_voyage(self) -> bool:
        """Whether the body has fields of Voyage's dialect, whose results are read from `data`."""
        return bool({"top_k", "truncation"} & self.model_fields_set)

    @property
    def count(self) -> int:
        """The number of documents."""
        return len(self.documents or self.ids or self.texts or ())

    def document_texts(self) -> list[str]:
        """Returns what is ranked of each document; raises `ApiError` if one has no text."""
        if self.texts is not None:
            return self.texts
        fields = self.rank_fields or ["text"]
        return [
            each if isinstance(each, str) else _joined(each, fields, place)
            for place, each in enumerate(self.documents or ())
        ]


def _joined(document: dict[str, Any], fields: Sequence[str], place: int) -> str:
    """Returns the fields of a document in one text; joined as an index joins title and text."""
    values = [document[name] for name in fields if document.get(name) is not None]
    if not values:
        raise invalid(
            f"documents[{place}] has none of the fields {', '.join(fields)}: send a text, or name "
            "its fields in rank_fields",
            f"documents[{place}]",
        )
    for value in values:
        if not isinstance(value, (str, int, float)):
            raise invalid(
                f"documents[{place}]: a field that is ranked must be a text, got {value!r}",
                f"documents[{place}]",
            )
    return " ".join(str(value) for value in values if value != "")
