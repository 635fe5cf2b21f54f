"""The LMDB environments of this process: one per folder, shared, and reopened after a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dipair_index.errors import StoreError
from dipair_index.files import utf8_path

if TYPE_CHECKING:
    import lmdb

DEFAULT_MAP_BYTES = 64 * 2**20
MAX_DATABASES = 8
MAX_READERS = 1024
READER_BYTES = 64


class SharedEnvironment:
    """The environment of a folder, of which LMDB allows one per process, and its number of users.

    `lock` is held during each transaction, so the map is resized and the process is forked between
    transactions only. LMDB's environments cannot be used in a forked child, where they are
    therefore opened again.
    """

    open_ones: ClassVar[dict[tuple[int, int], SharedEnvironment]] = {}
    guard: ClassVar[threading.RLock] = threading.RLock()
    """Held while environments are opened and closed; taken before any `lock`."""

    def __init__(self, folder: Path, *, readonly: bool, map_bytes: int | None) -> None:
        self.folder = folder
        self.readonly = readonly
        self.users = 0
        self.lock = threading.RLock()
        self.generation = 0
        self.databases: dict[str, Any] = {}
        self.forked = False
        self._env = self._open(map_bytes)
        self._key = _identity(folder)
        self.page_bytes = int(self._env.stat()["psize"])

    @classmethod
    def acquire(
        cls, folder: Path, *, readonly: bool, map_bytes: int | None = None
    ) -> SharedEnvironment:
        """Returns the environment of the folder, and counts one more user."""
        with cls.guard:
            known = (folder / "data.mdb").exists() and cls.open_ones.get(_identity(folder))
            shared = known or cls(folder, readonly=readonly, map_bytes=map_bytes)
            if shared.readonly and not readonly:
                raise StoreError(
                    f"the store at {folder} is open for reading in this process: close it there "
                    "before it is written to"
                )
            cls.open_ones[shared._key] = shared
            shared.users += 1
            return shared

    def release(self) -> None:
        """Counts one user less; after the last one, closes the environment."""
        with self.guard, self.lock:
            self.users -= 1
            if not self.users:
                del self.open_ones[self._key]
                self._env.close()

    def env(self) -> lmdb.Environment:
        """Returns LMDB's environment; the caller must hold the lock."""
        if self.forked:
            self._env.close()
            self._env = self._open(None)
            self.forked = False
            self.generation += 1
        return self._env

    def open_databases(self, names: Sequence[str]) -> None:
        """Opens the named databases, and creates them if the environment may be written to."""
        import lmdb

        with self.lock:
            env = self.env()
            try:
                for name in names:
                    if name not in self.databases:
                        self.databases[name] = env.open_db(name.encode(), create=not self.readonly)
            except lmdb.NotFoundError as error:
                raise StoreError(
                    f"{self.folder} is an LMDB folder of another program: it has no "
                    f"{' or no '.join(names)}"
                ) from error

    def resize(self, size: int) -> None:
        """Remaps the file with `size` bytes, or, if that is 0, with the size in the file."""
        self.generation += 1
        self._env.set_mapsize(size)

    def _open(self, map_bytes: int | None) -> lmdb.Environment:
        import lmdb

        lock_file = self.folder / "lock.mdb"
        if not self.readonly:
            self.folder.mkdir(parents=True, exist_ok=True)
            _allocate_lock_file(lock_file)
        lock = not self.readonly or os.access(lock_file, os.W_OK)
        env = lmdb.open(
            utf8_path(self.folder).encode(),
            map_size=map_bytes or DEFAULT_MAP_BYTES,
            max_dbs=MAX_DATABASES,
            max_readers=MAX_READERS,
            readonly=self.readonly,
            create=not self.readonly,
            lock=lock,
            # one flush to disk per transaction instead of two: see Environment.write
            metasync=False,
            # a read takes two; but a spare transaction occupies a slot in the lock file, which a
            # forked child would release by closing its copy
            max_spare_txns=0 if lock else 2,
        )
        try:
            for name in self.databases:
                self.databases[name] = env.open_db(name.encode(), create=False)
        except BaseException:
            env.close()
            raise
        return env


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder / "data.mdb")
    return found.st_dev, found.st_ino


def _hold_all() -> None:
    SharedEnvironment.guard.acquire()
    for shared in SharedEnvironment.open_ones.values():
        shared.lock.acquire()


def _let_go(*, forked: bool) -> None:
    for shared in SharedEnvironment.open_ones.values():
        shared.forked = shared.forked or forked
        shared.lock.release()
    SharedEnvironment.guard.release()


os.register_at_fork(
    before=_hold_all,
    after_in_parent=partial(_let_go, forked=False),
    after_in_child=partial(_let_go, forked=True),
)


def _allocate_lock_file(file: Path) -> None:
    """Allocates the lock file of a new store on disk.

    LMDB creates it with holes, and writing to a hole on a full disk would end the process. An
    existing file is left unchanged, since closing it here would release this process's own locks.
    """
    try:
        with file.open("xb") as target:
            target.write(bytes(READER_BYTES * (MAX_READERS + 4)))
    except FileExistsError:
        return
    except OSError:
        file.unlink(missing_ok=True)
        raise
