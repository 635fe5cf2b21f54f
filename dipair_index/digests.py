"""Digests of data: short ones that recognise it, and checksums that notice damage.

A short digest, 16 hex digits of SHA-256, stands wherever datasets, encoders and labels are
recognised again: it is written into records that people read, and 64 bits tell apart more
collections than anybody keeps. The files of an index have a BLAKE2b checksum of 32 digits, since
`verify` reads all of them and BLAKE2b is the faster hash where a CPU has no instructions for
SHA-256. ONNX graphs are recorded with their full SHA-256, which `sha256sum` shows as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SHORT = 16


def short_digest(data: bytes | Iterable[bytes]) -> str:
    """Returns 16 hex digits of the SHA-256 of `data`, or of its pieces joined end to end."""
    digest = hashlib.sha256()
    for piece in [data] if isinstance(data, bytes) else data:
        digest.update(piece)
    return digest.hexdigest()[:SHORT]


def checksum(data: bytes | memoryview) -> str:
    """Returns 32 hex digits of BLAKE2b, which change when any byte of `data` does."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class TextsDigest:
    """A digest of ids and texts, to recognise data computed from them.

    The same ones in the same order give the same digest. An index and a dataset reuse each
    other's vectors when the digests of their passages (ids and what the encoder reads, in the
    order of the collection) are equal.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def update(self, ids: Iterable[str], texts: Iterable[str]) -> None:
        """Adds texts and their ids."""
        for text_id, text in zip(ids, texts, strict=True):
            # lengths first, so that no two lists run together into the same bytes
            data = (text_id.encode(), text.encode())
            self._hash.update(b"%d %d " % (len(data[0]), len(data[1])))
            self._hash.update(data[0] + data[1])
            self.count += 1

    def hexdigest(self) -> str:
        """Returns 16 hex digits for what was added so far."""
        return self._hash.hexdigest()[:SHORT]
