"""Two indexes and the head of their model, opened to score pairs of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from dipair_index.closing import Closing
from dipair_index.encoders.base import TextEncoder
from dipair_index.encoders.open import backend_for, open_encoder
from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.records import FloatArray
from dipair_index.rerank.fitting import check_built_by
from dipair_index.rerank.long_texts import best_window
from dipair_index.rerank.offline.settings import MatchSettings
from dipair_index.rerank.offline.symmetry import is_symmetric, reads_sides_alike
from dipair_index.rerank.open_scorer import open_token_scorer
from dipair_index.rerank.scorer import PairSide
from dipair_index.stores.codecs import EncodedRows
from dipair_index.stores.id_table import Integers
from dipair_index.stores.manifest import PASSAGE, QUERY, Manifest
from dipair_index.stores.names import SPLIT
from dipair_index.stores.snapshot import Snapshot


class StoredTexts(NamedTuple):
    """The encoded windows of some texts, each text's one after the other, and their owners."""

    rows: EncodedRows
    owners: Integers

    @classmethod
    def of(cls, snapshot: Snapshot, ids: Sequence[str]) -> StoredTexts:
        """Reads the windows of texts by their ids."""
        rows, owners = snapshot.encoded_windows(ids)
        order = np.argsort(owners, kind="stable")
        return cls(rows[order], owners[order])

    def windows(self) -> tuple[Integers, Integers]:
        """Returns the number of windows of each text, and the row of its first."""
        counts = np.bincount(self.owners)
        return counts, np.cumsum(counts) - counts


class Matcher(Closing):
    """The left and the right index, and the head. It is a context manager.

    Raises `DirectoryError` if an index is absent or different models built the two, and
    `SettingsError` if their sides make no pairs that the head reads.
    """

    def __init__(self, settings: MatchSettings) -> None:
        self.settings = settings
        # before a model is loaded
        manifests = [Manifest.read(root) for root in (settings.left, settings.right)]
        _check_model(settings, *manifests)
        with ExitStack() as opened:
            self.left = opened.enter_context(Snapshot.open(settings.left))
            self.right = opened.enter_context(Snapshot.open(settings.right))
            self.encoder = self._open_encoder()
            self.is_self_match = settings.left.resolve() == settings.right.resolve()
            self.left_is_query = self._left_is_query()
            self.is_symmetric = self.is_self_match and is_symmetric(self.encoder)
            self._scorer = open_token_scorer(self.encoder, settings.precision)
            self._opened = opened.pop_all()

    def _open_encoder(self) -> TextEncoder:
        settings, manifest = self.settings, self.left.manifest
        encoder = open_encoder(
            settings.model or manifest.model,
            backend=backend_for(settings.precision, settings.settled_backend),
            device=settings.device,
        )
        check_built_by(encoder, manifest, settings.left)
        return encoder

    def _left_is_query(self) -> bool:
        """Returns whether the head reads the left texts as queries; it reads the right ones so if
        these are the queries.
        """
        sides = (self.left.manifest.side, self.right.manifest.side)
        if sides in ((QUERY, PASSAGE), (PASSAGE, QUERY)):
            return sides[0] == QUERY
        names = f"{self.settings.left} and {self.settings.right}"
        if strange := [side for side in sides if side not in (QUERY, PASSAGE)]:
            raise SettingsError(
                f"the head reads tuples, and one of {names} holds texts of the side {strange[0]}: "
                "score tuples with `dipair-index score`"
            )
        if not reads_sides_alike(self.encoder):
            what = self.settings.left if self.is_self_match else f"each of {names}"
            raise SettingsError(
                f"{what} holds texts of the side {sides[0]}, but the model encodes queries and "
                f"passages differently: build an index of the same texts with --side "
                f"{PASSAGE if sides[0] == QUERY else QUERY}, and match the two"
            )
        return True

    def grid_logits(self, left: StoredTexts, right: StoredTexts) -> FloatArray:
        """Returns the logits of every left text with every right one, (left, right).

        Of texts with windows, the best pair of windows counts.
        """
        logits = self._grid_logits(left.rows, right.rows)
        if not self._has_windows or not logits.size:
            return logits
        best = np.full((left.owners[-1] + 1, right.owners[-1] + 1), -np.inf, np.float32)
        np.maximum.at(best, (left.owners[:, np.newaxis], right.owners), logits)
        return best

    @property
    def _has_windows(self) -> bool:
        return SPLIT in (self.left.manifest.long, self.right.manifest.long)

    def _grid_logits(self, left: EncodedRows, right: EncodedRows) -> FloatArray:
        if self.left_is_query:
            tokens = self.left.codec.decode(left)
            return self._scorer.encoded_logits(tokens, right, self.right.codec)
        tokens = self.right.codec.decode(right)
        logits = self._scorer.encoded_logits(tokens, left, self.left.codec)
        return np.ascontiguousarray(logits.T)

    def pair_logits(
        self, left: StoredTexts, left_at: Integers, right: StoredTexts, right_at: Integers
    ) -> FloatArray:
        """Returns the logits, (pairs,), of the texts at these places of `left` and of `right`.

        Of texts with windows, the best pair of windows counts.
        """
        if not self._has_windows:
            return self._pair_logits(left.rows, left_at, right.rows, right_at)
        (lefts, left_first), (rights, right_first) = left.windows(), right.windows()
        of_right = rights[right_at]
        combined = lefts[left_at] * of_right
        pairs = np.repeat(np.arange(len(combined)), combined)
        number = np.arange(len(pairs)) - np.repeat(np.cumsum(combined) - combined, combined)
        logits = self._pair_logits(
            left.rows,
            left_first[left_at][pairs] + number // of_right[pairs],
            right.rows,
            right_first[right_at][pairs] + number % of_right[pairs],
        )
        return best_window(logits, pairs, len(combined))

    def _pair_logits(
        self, left: EncodedRows, left_at: Integers, right: EncodedRows, right_at: Integers
    ) -> FloatArray:
        sides = (
            PairSide(left, self.left.codec, left_at),
            PairSide(right, self.right.codec, right_at),
        )
        return self._scorer.pair_logits(*(sides if self.left_is_query else sides[::-1]))

    def scores(self, logits: FloatArray) -> FloatArray:
        """Returns the scores that are asked for: the logits, or their sigmoid in [0, 1]."""
        if self.settings.raw_scores:
            return logits
        return (1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))).astype(np.float32)

    def close(self) -> None:
        """Closes both indexes; closing twice is fine."""
        self._opened.close()


def _check_model(settings: MatchSettings, left: Manifest, right: Manifest) -> None:
    if left.model_fingerprint != right.model_fingerprint:
        raise DirectoryError(
            f"{settings.left} was built by the model {left.model} ({left.model_fingerprint}), and "
            f"{settings.right} by {right.model} ({right.model_fingerprint}): build one of them "
            "again by the model of the other"
        )
    if settings.nearest is not None and left.embedder_fingerprint != right.embedder_fingerprint:
        raise DirectoryError(
            f"the vectors of {settings.left} are those of {left.embedder}, and of "
            f"{settings.right} those of {right.embedder}: build both with the same --vectors to "
            "find the nearest"
        )
