"""The blocks of a match on a Ray cluster: Ray Data hands their numbers to actors.

Each actor opens the head and the two indexes once, by their paths on its own machine, and writes
the files of its blocks. Ray restarts an actor that dies and gives its block to another; the file is
the same whoever writes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from dipair_index import errors
from dipair_index.errors import DiPairError, SettingsError
from dipair_index.optional import require
from dipair_index.progress import Report
from dipair_index.rerank.offline.folder import OutputFolder
from dipair_index.rerank.offline.matcher import Matcher
from dipair_index.rerank.offline.run import work_of, write_block
from dipair_index.rerank.offline.settings import MatchSettings
from dipair_index.rerank.offline.work import Work
from dipair_index.words import reason

BLOCK, KIND, COMPLAINT = "block", "kind", "complaint"
TASKS_PER_WORKER = 1000
"""The most tasks for which blocks are handed out one by one, a worker; else several together."""


class RayEngine:
    """The `Engine` that computes in `workers` processes of a Ray cluster, by default all it has.

    A cluster that this process is connected to, or that RAY_ADDRESS names, is used; otherwise one
    is started on this machine. Raises `MissingPackageError` if Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        require("ray", "the engine ray")
        self._workers = workers

    def __call__(self, work: Work, out: str, blocks: list[int], report: Report) -> Iterator[int]:
        """Has blocks computed; yields each when its file is written."""
        if not blocks:
            return
        import ray.data

        _connect()
        on_gpu = not work.settings.device.startswith("cpu")
        one: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        there = int(
            ray.cluster_resources().get(  # type: ignore[no-untyped-call]
                "GPU" if on_gpu else "CPU", 1
            )
        )
        workers = max(1, min(self._workers or there, len(blocks)))
        tasks = min(len(blocks), TASKS_PER_WORKER * workers)
        shares = [pa.table({BLOCK: each}) for each in np.array_split(blocks, tasks)]
        written = ray.data.from_arrow(shares).map_batches(
            BlockWriter,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_args=(work.settings, out),
            **one,
        )
        done = 0
        for row in written.iter_rows():
            if row[COMPLAINT]:
                raise _error(row[KIND], row[COMPLAINT])
            done += work.pairs_in(row[BLOCK])
            report(done)
            yield row[BLOCK]


def _connect() -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts one here, and has Ray Data be quiet.

    Raises `SettingsError` if there is no cluster at that address.
    """
    import ray
    from ray.data import DataContext

    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SettingsError(
                f"there is no Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')} "
                f"({reason(error)}): run `ray start --head`, or unset it for a cluster of this "
                "machine"
            ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False


class BlockWriter:
    """The actor: opens the head and the indexes, then writes the blocks that it is given."""

    def __init__(self, settings: MatchSettings, out: str) -> None:
        self._settings, self._out = settings, out

    @cached_property
    def _work(self) -> Work:
        return work_of(Matcher(self._settings))

    @cached_property
    def _folder(self) -> OutputFolder:
        return OutputFolder(self._out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Writes one block; returns its number, or the sentence that says what is wrong with it.

        Errors that a user can mend are returned, since Ray would try others again and again.
        """
        (block,) = batch[BLOCK].tolist()
        kind = complaint = ""
        try:
            write_block(self._work, self._folder, block, lambda count: None)
        except DiPairError as error:
            kind, complaint = type(error).__name__, str(error)
        values = {BLOCK: block, KIND: kind, COMPLAINT: complaint}
        return {name: np.array([value]) for name, value in values.items()}


def _error(kind: str, complaint: str) -> DiPairError:
    found: type[DiPairError] = getattr(errors, kind, DiPairError)
    return found(complaint)
