"""What can go wrong for a user, each with a sentence that says what to do.

DiPairError
├── FormatError            data is not what it should be: a file, or passages (also a ValueError)
├── MissingPassagesError   ids that the store or the index does not hold (also a KeyError)
├── ModelError             a model cannot be loaded, or does not fit what it is used for
├── TrainingError          training cannot go on, since the loss diverged
├── DirectoryError         a directory is missing, foreign, unfinished or in the way
├── StoreError             stored data cannot be read or written (full disk, damaged file)
├── WriteError             another file cannot be written (full disk, no permission)
├── DownloadError          a file could not be fetched
└── SettingsError          settings that cannot work (also a ValueError)

`IndexDirectoryError` is the former name of `DirectoryError`: deprecated, and to be removed in 0.2.
"""

from __future__ import annotations

from collections.abc import Iterable

from dipair_index.words import listed


class DiPairError(Exception):
    """Base of all errors that `dipair-index` shows without a traceback.

    Examples
    --------
    >>> from dipair_index import DiPairError, DiPairIndex
    >>> try:
    ...     DiPairIndex.open("nowhere.index")
    ... except DiPairError as error:
    ...     print(type(error).__name__, str(error)[:26])
    DirectoryError there is no index at nowhe
    """

    def __str__(self) -> str:
        # KeyError would show the repr of its argument
        return str(self.args[0]) if self.args else ""


class FormatError(DiPairError, ValueError):
    """Data, in a file or given as passages, that is not what it should be."""


class MissingPassagesError(DiPairError, KeyError):
    """Passage ids that are not where they were looked for."""

    @classmethod
    def naming(cls, ids: Iterable[str], where: str) -> MissingPassagesError:
        """Names the first five ids and counts the others."""
        return cls(f"not in {where}: {listed(ids)}")


class ModelError(DiPairError):
    """A model that cannot be loaded or does not fit."""


class TrainingError(DiPairError):
    """Training that cannot go on."""


class DirectoryError(DiPairError):
    """A directory of an index, a dataset, labels or a model that cannot be used as asked."""


IndexDirectoryError = DirectoryError  # deprecated


class StoreError(DiPairError):
    """Stored data that cannot be read or written."""


class WriteError(DiPairError):
    """A file that cannot be written, other than those of a store."""


class DownloadError(DiPairError):
    """A file that could not be fetched."""


class SettingsError(DiPairError, ValueError):
    """Settings that cannot work."""


class MissingPackageError(DiPairError, ImportError):
    """An optional package that is needed and not installed."""
