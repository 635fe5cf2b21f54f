"""LMDB environments whose transactions enlarge the map as needed, with readable errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dipair_index.errors import StoreError
from dipair_index.stores.shared_environment import SharedEnvironment

if TYPE_CHECKING:
    import lmdb

Result = TypeVar("Result")

KEYS_PER_BATCH = 10_000


class Environment:
    """An LMDB folder with named databases. Threads may share it, and open a folder several times.

    With `readonly` it creates nothing: if the folder's lock file is absent or cannot be written (a
    copy, a read-only disk), it reads without a lock, which is safe while no process writes. A
    transaction never outlives a call, since the map can only grow between transactions. Raises
    `StoreError` if a folder to be read is absent, or if LMDB cannot open it.
    """

    def __init__(
        self, path: Path, names: Sequence[str], *, readonly: bool, map_bytes: int | None = None
    ) -> None:
        self.path = path
        self.readonly = readonly
        self._closed = False
        if readonly and not (path / "data.mdb").is_file():
            raise StoreError(f"there is no store at {path}: build one first")
        with self._sentences("open"):
            # absolute, since the working directory may be another one when it is opened again
            self._shared = SharedEnvironment.acquire(
                path.absolute(), readonly=readonly, map_bytes=map_bytes
            )
            try:
                self._shared.open_databases(names)
            except BaseException:
                self._shared.release()
                raise
        self.page_bytes = self._shared.page_bytes

    @property
    def databases(self) -> dict[str, Any]:
        """LMDB's handles by name, valid during a transaction."""
        return self._shared.databases

    @property
    def generation(self) -> int:
        """A number that changes when the file is remapped, which invalidates all addresses."""
        return self._shared.generation

    def stored_bytes(self) -> int:
        """Returns the bytes on disk."""
        return (self._shared.folder / "data.mdb").stat().st_size

    def read(self, work: Callable[[Any], Result]) -> Result:
        """Returns the result of `work` on a read transaction, whose values are borrowed buffers."""
        return self.read_twice(lambda _, lending: work(lending))

    def read_twice(self, work: Callable[[Any, Any], Result]) -> Result:
        """Like `read`, with two transactions on one snapshot: one copies values, one lends them.

        Copying is faster for small values.
        """
        import lmdb

        with self._shared.lock, self._sentences("read"):
            env = self._opened()
            while True:
                try:
                    with env.begin() as copying, env.begin(buffers=True) as lending:
                        # unless a writer came in between
                        if copying.id() == lending.id():
                            return work(copying, lending)
                except lmdb.MapResizedError:
                    # another process has grown the map
                    self._shared.resize(0)

    def write(self, work: Callable[[Any], Result], *, bytes_needed: int = 0) -> Result:
        """Runs `work` in one all-or-nothing write transaction, and returns its result.

        Afterwards the change survives the end of this process. A power cut may undo this one
        transaction as a whole, until the next one or `close`.

        If the map is too small, `work` runs again on a larger one, so it must change nothing but
        the transaction. `bytes_needed` is an estimate that saves the second run. Raises
        `StoreError` if the store is readonly or closed, or if LMDB cannot write.
        """
        import lmdb

        with self._shared.lock, self._sentences("write to"):
            if self.readonly:
                raise StoreError(f"{self.path} was opened readonly and takes no changes")
            env = self._opened()
            while True:
                try:
                    with env.begin(write=True) as transaction:
                        return work(transaction)
                except lmdb.MapFullError:
                    size = env.info()["map_size"]
                    self._shared.resize(size + max(size, 2 * bytes_needed))
                except lmdb.MapResizedError:
                    self._shared.resize(0)

    def keys(self, name: str) -> Iterator[str]:
        """Yields the keys of a database in order, read in batches: later changes may be seen."""
        batch = self.read(lambda txn: self._batch_of_keys(txn, name, b""))
        while batch:
            yield from batch
            # the smallest key after the last
            start = batch[-1].encode() + b"\0"
            batch = self.read(partial(self._batch_of_keys, name=name, start=start))

    def _batch_of_keys(self, txn: Any, name: str, start: bytes) -> list[str]:
        with txn.cursor(self.databases[name]) as cursor:
            # LMDB refuses an empty key
            found = cursor.set_range(start) if start else cursor.first()
            keys = cursor.iternext(keys=True, values=False) if found else ()
            return [bytes(key).decode() for key in islice(keys, KEYS_PER_BATCH)]

    def close(self) -> None:
        """Closes the files; closing twice is fine."""
        with self._shared.guard, self._shared.lock, self._sentences("write to"):
            if not self._closed:
                self._closed = True
                try:
                    if not self.readonly:
                        self._shared.env().sync(True)
                finally:
                    self._shared.release()

    def _opened(self) -> lmdb.Environment:
        if self._closed:
            raise StoreError(f"the store at {self.path} is closed")
        return self._shared.env()

    @contextmanager
    def _sentences(self, verb: str) -> Iterator[None]:
        """Converts errors of LMDB and of the system, and keys that are not UTF-8."""
        import lmdb

        try:
            yield
        except (lmdb.Error, OSError, UnicodeDecodeError) as error:
            raise StoreError(f"cannot {verb} the store at {self.path}: {_advice(error)}") from error


def _advice(error: Exception) -> str:
    import lmdb

    text = str(error)
    # a write that a full disk cuts short is an "Input/output error" to LMDB
    full = ("No space left", "Input/output error", "File too large", "quota exceeded")
    if isinstance(error, lmdb.DiskError) or any(each in text for each in full):
        return f"{text}. Nothing of this batch was stored: make room on the disk and run it again"
    damage = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, UnicodeDecodeError)
    if isinstance(error, damage):
        return f"{text}. The file is damaged or not LMDB's: restore it or build it again"
    return text
