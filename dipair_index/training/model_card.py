"""The model card of a trained model: its origin, its quality, and how to reproduce it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dipair_index.data.label_imports import JUDGED

OWN_SETTINGS = ("sides", "random_start", "max_tokens")
"""Settings of a cross-encoder at the top level of its record."""


def model_card(name: str, record: Mapping[str, Any]) -> str:
    """Returns the card of the model `name` in Markdown; `record` is that of `training.json`."""
    model = record.get("model")
    start, all_layers = record["encoder"], "all"
    if record.get("random_start"):
        start, all_layers = f"random weights, with the tokenizer of {start}", "those of BERT-Tiny"
    what = (
        f"A DiPair model ({model.get('system', 'tsf')})" if model else "A cross-encoder"
    ) + f" that `dipair-index` trained from {start}."
    labels = record.get("labels", {})
    if labels:
        teacher = labels.get("teacher", JUDGED)
        of = "dataset itself" if teacher == JUDGED else f"teacher {teacher}"
        what += f" Its labels are those of the {of}."
    sections = [
        f"# {name}",
        what,
        "## Quality",
        _quality(record.get("quality", {})),
        "## Made by",
        f"    {record.get('command') or 'a call of the library'}",
        f"Commit of the source: {record.get('commit') or 'unknown (installed from a package)'}. "
        "On the CPU, the same command on the same data, machine and versions gives the same "
        "weights.",
        "## Data",
        _table(
            ("what", "value"),
            [
                ("dataset", record.get("dataset") or "unknown"),
                ("digest of its texts", record.get("texts", "")),
                *((f"labels: {key}", _shown(value)) for key, value in labels.items()),
            ],
        ),
        "## Settings",
        _table(
            ("setting", "value"),
            [
                ("layers of the encoder", _shown(record.get("layers")) or all_layers),
                *((name, _shown(record[name])) for name in OWN_SETTINGS if name in record),
                *_rows(model or {}),
                *_rows(record["training"]),
            ],
        ),
        "## Versions",
        _table(("library", "version"), record["versions"].items()),
    ]
    return "\n\n".join(sections) + "\n"


def _quality(quality: Mapping[str, Mapping[str, float | None]]) -> str:
    rows = [
        (split, measure, "undefined" if value is None else f"{value:.4f}")
        for split, measures in quality.items()
        for measure, value in measures.items()
    ]
    return _table(("split", "measure", "value"), rows) if rows else "It was not measured."


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _shown(value)) for name, value in settings.items()]


def _shown(value: Any) -> str:
    """Returns a value as JSON, a str as it is, and None as an empty str."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(columns), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                     for line in lines)  # fmt: skip
