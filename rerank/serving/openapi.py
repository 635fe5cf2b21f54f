"""The OpenAPI document: bodies are read by hand, so their schemas are added by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

_REF = "#/components/schemas/{model}"
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["id", "message", "detail", "error"],
    "properties": {
        "id": {"type": "string"},
        "message": {"type": "string"},
        "detail": {"type": "string"},
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
    },
}
_STATUSES = {
    400: "The body is no JSON",
    401: "The key is missing or wrong",
    413: "The body, or the list of texts, is too large",
    422: "A value is invalid",
    429: "Too many requests wait",
    503: "The server is stopping, or its index cannot be read",
    504: "The deadline has passed",
}
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": said,
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
    }
    for status, said in _STATUSES.items()
}
_bodies: dict[str, type[BaseModel]] = {}


def describes(body: type[BaseModel] | None, summary: str) -> dict[str, Any]:
    """Returns the arguments of a route that describe its body and its errors."""
    extra: dict[str, Any] = {}
    if body is not None:
        _bodies[body.__name__] = body
        schema = {"$ref": _REF.format(model=body.__name__)}
        content = {"application/json": {"schema": schema}}
        extra = {"requestBody": {"required": True, "content": content}}
    return {"summary": summary, "responses": _FAILURES, "openapi_extra": extra}


def describe_bodies(app: FastAPI) -> None:
    """Lets the application's OpenAPI document hold the schemas of all bodies and of errors."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description,
                routes=app.routes,
            )  # fmt: skip
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas["Error"] = _ERROR
            for name, body in _bodies.items():
                schema = body.model_json_schema(ref_template=_REF)
                schemas |= schema.pop("$defs", {})
                schemas[name] = schema
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
