"""`/docs`: the OpenAPI document as one page without scripts, which works offline."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9rem; }
pre { overflow-x: auto; padding: .75rem; background: #8882; border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; }
"""


def docs_page(document: dict[str, Any], root_path: str) -> str:
    """Returns the HTML page of an OpenAPI document."""
    schemas = document.get("components", {}).get("schemas", {})
    parts = [
        _operation(method.upper(), root_path + path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    link = escape(f"{root_path}/openapi.json")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>{escape(document['info'].get('description', ''))} The document for programs is "
        f'<a href="{link}">openapi.json</a>.</p>{"".join(parts)}</html>'
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    first: dict[str, Any] = next(iter(content.values()), {})
    schema = first.get("schema", {})
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    fields = _fields(schema) if schema else ""
    responses = "".join(
        f"<tr><td><code>{escape(status)}</code><td>{escape(answer.get('description', ''))}"
        for status, answer in operation.get("responses", {}).items()
    )
    return (
        f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}."
        f" {escape(operation.get('description', ''))}</p>{fields}"
        f"<details><summary>Statuses</summary><table>{responses}</table></details>"
    )


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' (required)' if name in required else ''}"
        f"<td><code>{escape(_type(field))}</code><td>{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>Field<th>Type<th>Meaning{rows}</table>"


def _type(field: dict[str, Any]) -> str:
    """Returns a field's type in words, such as "list of string or null"."""
    if kinds := field.get("anyOf"):
        return " or ".join(dict.fromkeys(map(_type, kinds)))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if "enum" in field or "const" in field:
        return " or ".join(map(json.dumps, field.get("enum", [field.get("const")])))
    return str(field.get("type", field.get("$ref", "any")).rpartition("/")[2])
