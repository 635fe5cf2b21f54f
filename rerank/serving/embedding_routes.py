"""`POST /v1/embeddings` and `/embeddings`: the vectors that are searched, in OpenAI's form."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field

from dipair_index.records import FloatArray
from dipair_index.rerank.serving.bodies import LaxBody, refuse_too_many
from dipair_index.rerank.serving.errors import invalid
from dipair_index.rerank.serving.handling import computed
from dipair_index.rerank.serving.openapi import describes
from dipair_index.rerank.serving.record import RequestRecord
from dipair_index.rerank.serving.scoring import encoding_batches
from dipair_index.rerank.serving.slot import Steps
from dipair_index.rerank.serving.state import Served

router = APIRouter(tags=["embeddings"])

_SIDES = {
    "query": "query",
    "search_query": "query",
    "passage": "passage",
    "document": "passage",
    "search_document": "passage",
}
"""What clients call the two sides."""


def _texts(given: Any) -> Any:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise ValueError(f"it must be a text or a list of texts, got {given!r}")
    if not texts:
        raise ValueError("it is an empty list: send a text or several")
    for place, each in enumerate(texts):
        if isinstance(each, (int, list)):
            raise ValueError(
                "it holds token ids, which are those of another tokenizer: send texts (LangChain: "
                "check_embedding_ctx_length=False)"
            )
        if not isinstance(each, str):
            raise ValueError(f"item {place} must be a text, got {each!r}")
        if not each.strip():
            raise ValueError(f"item {place} is empty: give it some text")
    return texts


class EmbeddingRequest(LaxBody):
    """Texts to embed, all of one side."""

    input: Annotated[list[str] | str, BeforeValidator(_texts)]
    model: str | None = Field(
        None, description="Any name; one that ends in -query or :query embeds queries"
    )
    encoding_format: Literal["float", "base64"] | None = None
    input_type: str | None = Field(
        None, description="query or passage; search_query, search_document and document, too"
    )
    dimensions: int | None = Field(None, description="Only the vectors' own number is possible")

    def side(self) -> str:
        """Returns "query" or "passage"; raises `ApiError` if `input_type` is another word."""
        if self.input_type is not None:
            if self.input_type not in _SIDES:
                raise invalid(
                    f"input_type must be one of {', '.join(_SIDES)}, got {self.input_type!r}",
                    "input_type",
                )
            return _SIDES[self.input_type]
        return "query" if (self.model or "").endswith(("-query", ":query")) else "passage"


@router.post("/embeddings", **describes(EmbeddingRequest, "Embed texts"))
@router.post("/v1/embeddings", **describes(EmbeddingRequest, "Embed texts"))
async def embeddings(request: Request) -> Response:
    """Returns a vector of unit length for each text, as a list of numbers or in base64."""
    return await computed(request, EmbeddingRequest, _steps)


def _steps(served: Served, body: EmbeddingRequest, record: RequestRecord) -> Steps[dict[str, Any]]:
    texts, side = list(body.input), body.side()
    refuse_too_many(len(texts), served.settings.max_documents, "input")
    size = served.encoder.sizes.vector_dim
    if body.dimensions not in (None, size):
        raise invalid(
            f"dimensions must be {size}, the model's own, or left out, got {body.dimensions}",
            "dimensions",
        )
    tokens = 0
    vectors: list[FloatArray] = []
    for lane, batch in encoding_batches(texts):
        yield lane
        with record.step("encode"):
            tokenised = served.encoder.tokenised(side, batch)
            tokens += sum(map(len, tokenised.ids))
            record.truncated += tokenised.truncated
            vectors += list(served.encoder.encode_tokenised(tokenised).vectors)
    packed = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": place, "embedding": _written(vector, packed)}
        for place, vector in enumerate(vectors)
    ]
    return {
        "id": record.id,
        "object": "list",
        "model": body.model or served.settings.model_name,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _written(vector: FloatArray, packed: bool) -> str | list[float]:
    if packed:
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector.tolist()
    return numbers
