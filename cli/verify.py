"""`dipair-index verify`: finds damage in an index."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli._console import progress, remark, say
from dipair_index.cli._options import index_dir_option
from dipair_index.words import counted


@click.command()
@index_dir_option("Verify this index")
def verify(index_dir: Path) -> None:
    """Read a whole index and print each damaged range of bytes.

    The exit status is 1 if anything is damaged.

    \b
    Example:
      dipair-index verify --index-dir passages.index
    """
    from dipair_index.stores.manifest import Manifest
    from dipair_index.stores.verification import verify_index

    damaged = False
    with progress("Verifying", "bytes") as report:
        for sentence in verify_index(index_dir, report):
            damaged = True
            say(sentence)
    if damaged:
        raise click.ClickException(f"{index_dir} is not what was written: see above")
    manifest = Manifest.read(index_dir)
    parts = counted(len(manifest.parts), "part")
    remark(f"whole: {counted(manifest.passages, 'passage')} in {parts}")
