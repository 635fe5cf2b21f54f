"""`dipair-index compact`: rewrites an index as one part, without deleted passages."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli._console import progress, remark
from dipair_index.cli._options import index_dir_option
from dipair_index.words import counted


@click.command()
@index_dir_option("Compact this index")
def compact(index_dir: Path) -> None:
    """Free the space of deleted passages, and merge all parts of an index into one.

    The index is then what `build` would make of its passages. It can be searched meanwhile, and
    takes twice its size on disk until the copy is complete.

    \b
    Example:
      dipair-index compact --index-dir passages.index
    """
    from dipair_index.stores.index_info import IndexInfo
    from dipair_index.stores.index_writer import IndexWriter

    before = IndexInfo.read(index_dir)
    parts = len(before.manifest.parts)
    with IndexWriter(index_dir) as writer, progress("Copying", "passages") as report:
        try:
            changed = writer.compact(report)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("interrupted: the index answers as before") from stop
    if not changed:
        remark(f"nothing to compact: {index_dir} is one part, and nothing in it is deleted")
        return
    now = IndexInfo.read(index_dir)
    copied = counted(now.manifest.passages, "passage, which was", "passages, which were")
    remark(
        f"compacted {copied} in {counted(parts, 'part')}: "
        f"{before.sizes.total:,} bytes before, {now.sizes.total:,} now"
    )
    if now.old_parts:
        remark(
            "the old parts are still read by a process: the next change after it ends removes them"
        )
