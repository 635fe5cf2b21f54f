"""`dipair-index export`: writes a model in other formats."""

from __future__ import annotations

import click

from dipair_index.cli._console import remark


@click.group()
def export() -> None:
    """Write a model in another format.

    \b
    Example:
      dipair-index export onnx --model models/mine
    """


@export.command()
@click.option("--model", help="Export this DiPair model  [default: the bundled one]")
def onnx(model: str | None) -> None:
    """Write ONNX graphs into a model's folder, so that it answers without torch.

    The graphs are small, since they refer to the weights in the model's own files. If these are
    replaced, the graphs are refused until this command is run again.

    \b
    Example:
      dipair-index export onnx --model models/mine
    """
    from dipair_index.optional import require

    require("export", "exporting ONNX graphs")
    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.rerank.onnx_export import export_onnx

    folder = export_onnx(DualEncoder.load(model))
    remark(f"wrote ONNX graphs into {folder}: `dipair-index rerank` needs no torch with this model")
