"""What the tests of faults let other processes do to an index.

A server imports this module, with torch and a model, once; each process is a fork of it, so that
hundreds of them take minutes. The server has one thread and holds no file of an index.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tqdm

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DiPairError
from dipair_index.records import Passage
from dipair_index.rerank import part_builder
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.stores import file_digests, index_writer
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

MODEL = "FAULT_WORKERS_MODEL"
"""The variable that tells the server which model to load."""
SECONDS = 600.0
"""More than any of these processes takes."""
BLOCK_BYTES = 10_000
NOBODY = 65534

SUBJECTS = ("bees", "honey", "queen", "volcano", "lava", "tea", "moon", "tide", "sun", "piano")
THINGS = ("dance", "winter", "erupts", "green", "light", "yeast", "keys", "strings", "heat", "ice")

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Change:
    """One change of an index: "build", "add", "update", "delete" or "compact".

    "build overwrite" and "add overwrite" have --overwrite.
    """

    command: str
    passages: tuple[Passage, ...] = ()
    ids: tuple[str, ...] = ()
    store: str = "lmdb"

    def run(
        self,
        index_dir: Path,
        encoder: DualEncoder,
        *,
        resume: bool = False,
        report: Callable[[int], None] = lambda count: None,
    ) -> None:
        if self.passages:
            options: dict[str, Any] = {"overwrite": "overwrite" in self.command}
            if self.command.startswith("build"):
                command, options["store"] = build_index, self.store
            else:
                command, options["update"] = add_passages, self.command == "update"
            command(self.passages, index_dir, encoder, resume=resume, report=report, **options)
        else:
            with IndexWriter(index_dir) as writer:
                if self.command == "delete":
                    writer.delete(self.ids)
                else:
                    writer.compact(report)

    def after(self, before: Mapping[str, Passage]) -> dict[str, Passage]:
        """What the index holds when this was done to one that holds `before`."""
        kept = {} if self.command.startswith("build") else dict(before)
        kept.update({passage.passage_id: passage for passage in self.passages})
        return {key: passage for key, passage in kept.items() if key not in self.ids}


def some_passages(count: int, *, first: int = 0, seed: int = 0) -> tuple[Passage, ...]:
    """Passages p<first> to p<first + count - 1>, no two texts alike whatever the seeds."""
    return tuple(
        Passage(
            f"p{number:04}",
            " ".join((*_drawn(SUBJECTS, number, seed), *_drawn(THINGS, seed, number))),
            "how" if number % 3 == 0 else "",
            {"number": number, "seed": seed},
        )
        for number in range(first, first + count)
    )


def _drawn(words: Sequence[str], number: int, seed: int) -> list[str]:
    return random.Random(f"{number} {seed}").sample(words, 5)


BEFORE = (
    Change("build", some_passages(40)),
    Change("add", some_passages(10, first=40)),
    Change("delete", ids=("p0001", "p0041")),
)
"""What an index of two parts is made by."""
CHANGES = {
    "build": Change("build", some_passages(40)),
    "overwrite": Change("build overwrite", some_passages(36, seed=1)),
    # the two parts are merged first
    "add": Change("add", some_passages(24, first=50)),
    "update": Change("update", some_passages(24, first=30, seed=1)),
    "delete": Change("delete", ids=("p0000", "p0002", "p0040", "p0049")),
    "compact": Change("compact"),
}
"""One of each command, "build" where nothing is, the others to what `BEFORE` makes."""


# ==== Processes ====


class Ended(NamedTuple):
    """The last word of a change: what went wrong, if anything, and how many steps it took."""

    complaint: str
    steps: int


@dataclass(frozen=True)
class Outcome:
    """How a process ended: what it said and when, in seconds, and its exit code."""

    said: list[Any]
    heard: list[float]
    exit_code: int | None

    @property
    def complaint(self) -> str:
        """The sentence that it ended with, empty where the change was done."""
        last = self.said[-1] if self.said else None
        return last.complaint if isinstance(last, Ended) else f"exit code {self.exit_code}"

    @property
    def acknowledged(self) -> bool:
        """Whether it said that the change was done."""
        return not self.complaint

    @property
    def killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL

    def at_any_moment(self, part: float) -> float:
        """Seconds from the start, after this part of the time that it took."""
        return part * (self.heard[-1] - self.heard[0])

    def near_the_end(self, part: float) -> float:
        """Seconds from the start, after this part of the time since the last count."""
        return self.heard[-2] - self.heard[0] + part * (self.heard[-1] - self.heard[-2])


def server(model_dir: Path) -> Any:
    """The context whose processes are forks of one that has loaded `model_dir`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", __name__])
    with pytest.MonkeyPatch.context() as its:
        its.setenv(MODEL, str(model_dir))
        its.setenv("OMP_NUM_THREADS", "1")
        its.setenv("TOKENIZERS_PARALLELISM", "false")
        # where it finds this module, and not a source tree beside what is installed
        its.chdir(Path(__file__).parent)
        multiprocessing.forkserver.ensure_running()
    return context


class Worker:
    """A process with a function of this module, whose first argument is what it speaks into."""

    def __init__(self, context: Any, work: Callable[..., None], *arguments: object) -> None:
        self.said: list[Any] = []
        self._heard: list[float] = []
        self._ear, mouth = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(mouth, *arguments), daemon=True)
        self.process.start()
        mouth.close()

    def hear(self, seconds: float = SECONDS) -> Any:
        """The next thing that it says; None when it has ended, or says nothing for so long."""
        try:
            if not self._ear.poll(seconds):
                return None
            self.said.append(self._ear.recv())
        except (EOFError, OSError):
            return None
        self._heard.append(time.monotonic())
        return self.said[-1]

    def kill(self) -> Outcome:
        """Ends it with signal 9."""
        self.process.kill()
        return self.end()

    def end(self) -> Outcome:
        """Lets it end, and hears everything."""
        while self.hear() is not None:
            pass
        self.process.join(SECONDS)
        outcome = Outcome(self.said, self._heard, self.process.exitcode)
        self.process.kill()
        self._ear.close()
        return outcome


# ==== What a worker does ====


def read_all(mouth: Connection, index_dir: Path) -> None:
    """Reads all that an index holds; says how many passages those are, or the error."""
    try:
        with Snapshot.open(index_dir) as snapshot:
            ids = list(snapshot)
            tokens = snapshot.tokens(ids)
            snapshot.passages(ids)
            snapshot.search(np.ones((1, snapshot.manifest.vector_dim), np.float32), len(ids))
            mouth.send(len(tokens))
    except DiPairError as error:
        mouth.send(str(error))


def without_rights(mouth: Connection, work: Callable[..., None], *arguments: object) -> None:
    """Does `work` as a user who owns nothing, if this one may do everything."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    work(mouth, *arguments)


def save_ann(mouth: Connection, folder: Path, file_limit: int) -> None:
    """Saves an ANN index into `folder`; says the error, if any."""
    vectors = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
    index = FaissIndex.build([f"p{number}" for number in range(200)], vectors)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    try:
        index.save(folder)
    except DiPairError as error:
        mouth.send(str(error))


def verify_flipped(mouth: Connection, index_dir: Path, file: Path, places: list[int]) -> None:
    """Changes a byte of `file` at each of the places in turn; says what `verify_index` says."""
    whole = file.read_bytes()
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 + place % 255
        file.write_bytes(changed)
        mouth.send(list(verify_index(index_dir)))
    file.write_bytes(whole)


def perform(
    mouth: Connection,
    change: Change,
    index_dir: Path,
    resume: bool = False,
    kill_at: int = 0,
    file_limit: int = 0,
) -> None:
    """Does `change`; says "started", the counts of passages, and how it `Ended`.

    It kills itself before its step `kill_at`: each change of the file system that Python makes is
    one. No file of it may grow over `file_limit` bytes, where that is given.
    """
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    steps = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        writes = event == "open" and (arguments[2] or 0) & WRITES
        if event in STEPS or (writes and str(arguments[0]).startswith(str(index_dir))):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    mouth.send("started")
    try:
        change.run(index_dir, encoder(), resume=resume, report=mouth.send)
    except (DiPairError, OSError) as error:
        mouth.send(Ended(f"{type(error).__name__}: {error}", steps))
    else:
        mouth.send(Ended("", steps))


def keep_writing(mouth: Connection, index_dir: Path) -> None:
    """Holds the index until it is killed."""
    with IndexWriter(index_dir):
        mouth.send("holding")
        signal.pause()


@cache
def encoder() -> DualEncoder:
    """The model of the server and of all that it forks."""
    return DualEncoder.load(os.environ[MODEL])


if MODEL in os.environ:  # in the server
    tqdm.tqdm.monitor_interval = 0  # a thread
    encoder().encode_passages(["bees"])
    encoder().name = "tiny"  # of a folder that others may not enter
    # several chunks of a few passages, and several blocks a file
    part_builder.PASSAGES_PER_CHUNK = index_writer.COPIED_AT_ONCE = 16
    file_digests.BLOCK_BYTES = BLOCK_BYTES
