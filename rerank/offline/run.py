"""Runs a match: plans its blocks, has an engine compute those that are missing, and merges them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dipair_index.progress import Report
from dipair_index.rerank.offline.all_pairs import AllPairs
from dipair_index.rerank.offline.folder import OutputFolder
from dipair_index.rerank.offline.given_pairs import GivenPairs
from dipair_index.rerank.offline.matcher import Matcher
from dipair_index.rerank.offline.nearest import Nearest
from dipair_index.rerank.offline.settings import MatchSettings
from dipair_index.rerank.offline.work import Work
from dipair_index.stores.snapshot import Snapshot


class MatchSummary(NamedTuple):
    """What a match has done: `scored` of its `pairs` in this call, in `seconds`, and its blocks."""

    pairs: int
    scored: int
    blocks: int
    seconds: float


class Engine(Protocol):
    """Has blocks computed and written; yields the number of each that is done, in any order."""

    def __call__(self, work: Work, out: str, blocks: list[int], report: Report) -> Iterator[int]:
        """`report` is called with the pairs that were scored so far."""


def run_match(
    settings: MatchSettings,
    out: str | Path,
    *,
    engine: Engine,
    overwrite: bool = False,
    report: Callable[[int, int], None] = lambda done, pairs: None,
) -> MatchSummary:
    """Scores the pairs that `settings` describe into the folder or bucket `out`.

    A run that ends early goes on when it is called again, with the same bytes as an undisturbed
    one. `report` is called with the pairs scored so far, those of earlier calls included, and with
    all of them. Raises `DiPairError` of many kinds; what is done stays done.
    """
    started = time.monotonic()
    with Matcher(settings) as matcher:
        work, folder = work_of(matcher), OutputFolder(out)
        with folder.running(manifest_of(matcher, work), overwrite=overwrite):
            merging = Merging(work, folder)
            left = merging.left()
            scored = sum(map(work.pairs_in, left))
            before = work.pairs - scored
            report(before, work.pairs)
            for block in engine(
                work, str(out), left, lambda count: report(before + count, work.pairs)
            ):
                merging.add(block)
        return MatchSummary(work.pairs, scored, work.blocks, time.monotonic() - started)


def work_of(matcher: Matcher) -> Work:
    """Returns the blocks of a match."""
    if matcher.settings.pairs is not None:
        return GivenPairs(matcher)
    return AllPairs(matcher) if matcher.settings.every else Nearest(matcher)


def _report_after(report: Report, before: int, count: int) -> None:
    report(before + count)


def run_here(work: Work, out: str, blocks: Iterable[int], report: Report) -> Iterator[int]:
    """The `Engine` of one process: one block after another."""
    done, folder = 0, OutputFolder(out)
    for block in blocks:
        write_block(work, folder, block, partial(_report_after, report, done))
        done += work.pairs_in(block)
        report(done)
        yield block


def write_block(work: Work, folder: OutputFolder, block: int, report: Report) -> None:
    """Computes a block and writes its file, unless a worker did that died before it could say so.

    It is what every engine does.
    """
    kind = "scores" if work.parts_of(block) is None else "part"
    if not folder.holds(kind, block):
        folder.write(kind, block, work.table(block, report))


class Merging:
    """Which blocks are missing, and outputs that are merged once all of their blocks are there."""

    def __init__(self, work: Work, folder: OutputFolder) -> None:
        self._work = work
        self._folder = folder
        self._done = folder.done()

    def left(self) -> list[int]:
        """Returns the blocks that are missing; merges what an earlier run left unmerged."""
        missing = []
        for block in range(self._work.blocks):
            parts = self._work.parts_of(block)
            if parts is None:
                if block not in self._done.scores:
                    missing.append(block)
            elif parts[0] in self._done.scores:
                # it ended before it had deleted the parts
                if block in self._done.parts:
                    self._folder.delete_parts([block])
            elif block not in self._done.parts:
                missing.append(block)
            elif block == parts[1][-1]:
                self.add(block)
        return missing

    def add(self, block: int) -> None:
        """Notes that the file of a block is there."""
        parts = self._work.parts_of(block)
        if parts is None:
            return
        output, blocks = parts
        self._done.parts.add(block)
        if self._done.parts.issuperset(blocks):
            tables = [self._folder.read_part(each) for each in blocks]
            self._folder.write("scores", output, self._work.merged(output, tables))
            self._folder.delete_parts(blocks)
            self._done.parts.difference_update(blocks)


def manifest_of(matcher: Matcher, work: Work) -> dict[str, Any]:
    """Returns what the manifest of a match says: all that its bytes depend on."""
    settings, encoder = matcher.settings, matcher.encoder
    return {
        "format_version": 1,
        "model": encoder.name,
        "model_fingerprint": encoder.fingerprint,
        "left": _described(settings.left, matcher.left),
        "right": _described(settings.right, matcher.right),
        "pairs": settings.pairs,
        "pairs_digest": work.files.digest() if isinstance(work, GivenPairs) else None,
        "every": settings.every,
        "nearest": settings.nearest,
        "top_k": settings.top_k,
        "min_score": settings.min_score,
        "raw_scores": settings.raw_scores,
        "block_pairs": settings.block_pairs,
        "blocks": work.blocks,
        "backend": encoder.backend,
        "device": encoder.device,
        "precision": settings.precision,
    }


def _described(root: Path, snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    return {
        "index": str(root),
        "digest": manifest.digest,
        "side": manifest.side,
        "texts": manifest.passages,
    }
