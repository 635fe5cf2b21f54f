"""The exceptions that users see; each message is a sentence that says what to do.

DiPairError
├── FormatError            data, in a file or passed in, is not in the expected form (a ValueError)
├── MissingPassagesError   ids are not in the store or the index (also a KeyError)
├── ModelError             a model cannot be loaded, or does not fit its use
├── TrainingError          training was stopped, since the loss diverged
├── DirectoryError         a directory is missing, unfinished, of another kind, or exists already
├── StoreError             stored data cannot be read or written (full disk, damaged file)
├── WriteError             another file cannot be written (full disk, no permission)
├── DownloadError          a file could not be downloaded
├── SettingsError          settings are invalid or do not fit together (also a ValueError)
└── MissingPackageError    an optional package is not installed (also an ImportError)

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
    """Data, in a file or passed in, that is not in the expected form."""


class MissingPassagesError(DiPairError, KeyError):
    """Passage ids that are not in the store or the index."""

    @classmethod
    def naming(cls, ids: Iterable[str], where: str) -> MissingPassagesError:
        """Returns the error whose message names the first five ids and counts the others."""
        return cls(f"not in {where}: {listed(ids)}")


class ModelError(DiPairError):
    """A model that cannot be loaded, or does not fit its use."""


class TrainingError(DiPairError):
    """Training that was stopped, since the loss diverged."""


class DirectoryError(DiPairError):
    """A directory (of an index, a dataset, labels or a model) that cannot be used as asked."""


class OtherModelError(DirectoryError):
    """An index that another model built than the one that is to read it."""


IndexDirectoryError = DirectoryError  # deprecated


class StoreError(DiPairError):
    """Stored data that cannot be read or written."""


class WriteError(DiPairError):
    """A file that cannot be written, other than those of a store."""


class DownloadError(DiPairError):
    """A file that could not be downloaded."""


class SettingsError(DiPairError, ValueError):
    """Settings that are invalid or do not fit together."""


class MissingPackageError(DiPairError, ImportError):
    """An optional package that is needed but not installed."""
