"""What the bodies of all requests have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dipair_index.rerank.serving.errors import ApiError


class LaxBody(BaseModel):
    """A body whose unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


def _filled(query: Any) -> Any:
    if isinstance(query, str) and not query.strip():
        raise ValueError("it is empty: give it some text")
    return query


FilledText = Annotated[str, BeforeValidator(_filled)]
"""A text that does not consist of spaces."""

Flag = Annotated[bool | None, Field(strict=False)]
"""A boolean, or a word for one; null is the default."""


def refuse_too_many(count: int, most: int, param: str) -> None:
    """Raises `ApiError` if there are more documents than the server takes at once."""
    if count > most:
        raise ApiError(
            413,
            f"{param} holds {count:,} documents, and {most:,} are allowed at once: send them in "
            "several requests, or start the server with a larger --max-documents",
            param=param,
            code="too_many_documents",
        )
