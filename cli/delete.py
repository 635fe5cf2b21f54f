"""`dipair-index delete`: deletes passages from an index by their ids."""

from __future__ import annotations

from pathlib import Path

import click

from dipair_index.cli._console import remark
from dipair_index.cli._encoding import command_for
from dipair_index.cli._options import index_dir_option
from dipair_index.cli._types import TEXT
from dipair_index.words import counted

WORTH_COMPACTING = 0.2  # of what is stored


@click.command()
@click.argument("passage_ids", nargs=-1, type=TEXT, metavar="[ID]...")
@click.option("--ids", metavar="FILE", help="Read ids from this file, one a line; - for stdin")
@index_dir_option("Delete from this index")
@click.option("--ignore-missing", is_flag=True, help="Ignore ids that are not in the index")
def delete(
    passage_ids: tuple[str, ...], ids: str | None, index_dir: Path, ignore_missing: bool
) -> None:
    """Delete passages from an index by their ids.

    If one of the ids is not in the index, nothing is deleted.

    \b
    Example:
      dipair-index delete p17 p42
      dipair-index delete --ids gone.txt --ignore-missing
    """
    if not passage_ids and ids is None:
        raise click.UsageError("no passage is named: give ids, or --ids FILE")
    from dipair_index.errors import MissingPassagesError
    from dipair_index.formats.lines import iter_lines
    from dipair_index.stores.index_writer import IndexWriter

    asked = dict.fromkeys(passage_ids)
    if ids is not None:
        asked.update((line, None) for _, line in iter_lines(ids))
    with IndexWriter(index_dir) as writer:
        try:
            count = writer.delete(asked, ignore_missing=ignore_missing)
        except MissingPassagesError as error:
            raise MissingPassagesError(
                f"nothing was deleted, since these ids are {error}. Take them out, or pass "
                "--ignore-missing"
            ) from error
        now = writer.current
    if absent := len(asked) - count:
        outside = counted(
            absent, f"id is not in {index_dir} and was", f"ids are not in {index_dir} and were"
        )
        remark(f"{outside} left out")
    remark(f"deleted {counted(count, 'passage')}: {index_dir} holds {now.passages:,}")
    stored = sum(part.passages for part in now.parts)
    of_stored = counted(stored, "stored passage is", "stored passages are")
    if stored - now.passages > WORTH_COMPACTING * stored:
        remark(
            f"{stored - now.passages:,} of {of_stored} deleted: free the "
            f"disk space with `{command_for('compact', index_dir)}`"
        )
