"""Digests of data: short ones that recognise it, and checksums that notice damage.

Datasets, encoders and labels are recognised by a short digest, 16 hex digits of SHA-256: it is
written into records that people read, and 64 bits suffice to tell any number of collections apart.
The files of an index have a BLAKE2b checksum of 32 hex digits, since `verify` reads all of them
and BLAKE2b is the faster hash if a CPU has no instructions for SHA-256. ONNX graphs are recorded
with their full SHA-256, which `sha256sum` shows as well.
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

    Equal ids and texts in the same order give the same digest. An index and a dataset reuse each
    other's vectors if their passages (ids and the texts that the encoder reads, in the order of
    the collection) have equal digests.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def update(self, ids: Iterable[str], texts: Iterable[str]) -> None:
        """Adds texts and their ids."""
        for text_id, text in zip(ids, texts, strict=True):
            # lengths first, so that two different lists never become the same bytes
            data = (text_id.encode(), text.encode())
            self._hash.update(b"%d %d " % (len(data[0]), len(data[1])))
            self._hash.update(data[0] + data[1])
            self.count += 1

    def hexdigest(self) -> str:
        """Returns the first 16 hex digits of the digest of all texts added so far."""
        return self._hash.hexdigest()[:SHORT]
