"""What can go wrong for a user, each with a sentence that says what to do.

DiPairError
├── FormatError            a data file is not what it should be (also a ValueError)
├── MissingPassagesError   ids that the store or the index does not hold (also a KeyError)
├── ModelError             a model cannot be loaded, or does not fit what it is used for
├── IndexDirectoryError    a directory is missing, foreign, unfinished or in the way
├── StoreError             the stored data cannot be read or written (full disk, corrupt file)
├── DownloadError          a file could not be fetched
├── MissingPackageError    an optional package is not installed (also an ImportError)
└── SettingsError          settings that cannot work (also a ValueError)
"""

from __future__ import annotations

from collections.abc import Iterable

from dipair_index.words import listed


class DiPairError(Exception):
    """Base of all errors that `dipair-index` shows without a traceback."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument
        return str(self.args[0]) if self.args else ""


class FormatError(DiPairError, ValueError):
    """A data file that cannot be read as what it should be."""


class MissingPassagesError(DiPairError, KeyError):
    """Passage ids that are not where they were looked for."""

    @classmethod
    def naming(cls, ids: Iterable[str], where: str) -> MissingPassagesError:
        """Names the first five ids and counts the others."""
        return cls(f"not in {where}: {listed(ids)}")


class ModelError(DiPairError):
    """A model that cannot be loaded or does not fit."""


class IndexDirectoryError(DiPairError):
    """An index or dataset directory that cannot be used as asked."""


class StoreError(DiPairError):
    """Stored data that cannot be read or written."""


class DownloadError(DiPairError):
    """A file that could not be fetched."""


class SettingsError(DiPairError, ValueError):
    """Settings that cannot work."""


class MissingPackageError(DiPairError, ImportError):
    """An optional package that is needed and not installed."""
