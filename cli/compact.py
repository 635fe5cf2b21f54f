"""`dipair-index compact`: an index as one part, without what was deleted."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli._console import progress, remark
from dipair_index.cli._options import index_dir_option
from dipair_index.words import counted


@click.command()
@index_dir_option("Compact this index")
def compact(index_dir: Path) -> None:
    """Free the space of deleted passages, and make all parts of an index one.

    The index is then what `build` would make of its passages. It answers while it is copied, and
    needs its own size once more on the disk until then.

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
        remark("a process reads the old ones still: the next change after it ends removes them")
