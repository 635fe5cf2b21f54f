"""The settings of a match: which pairs of two indexes are scored, how, and where the scores go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dipair_index.errors import SettingsError
from dipair_index.models.systems import Backend, Precision
from dipair_index.optional import PACKAGES, is_installed
from dipair_index.rerank.arguments import checked_count

BLOCK_PAIRS = 2**18
"""The pairs of a block, which a killed run repeats: half a minute of the head on two cores."""


@dataclass(frozen=True)
class MatchSettings:
    """What `match_indexes` is asked for; plain values, so that any process can do a part of it.

    Exactly one of `pairs`, `every` and `nearest` says which pairs are scored: those of a file or
    folder, every left text with every right one, or with its nearest ones.
    """

    left: Path
    right: Path
    pairs: str | None = None
    every: bool = False
    nearest: int | None = None
    top_k: int | None = None
    min_score: float | None = None
    raw_scores: bool = False
    model: str | None = None
    block_pairs: int = BLOCK_PAIRS
    device: str = "cpu"
    backend: Backend = "auto"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        chosen = [self.pairs is not None, self.every, self.nearest is not None]
        if sum(chosen) != 1:
            raise SettingsError(
                "give exactly one of pairs (a file of ids), every (all pairs) and nearest (a count)"
            )
        for name in ("nearest", "top_k", "block_pairs"):
            if (value := getattr(self, name)) is not None:
                checked_count(name, value)
        if self.pairs is not None and (self.top_k, self.min_score) != (None, None):
            raise SettingsError(
                "every pair of a file gets its score: top_k and min_score are for all pairs, and "
                "for the nearest"
            )
        if self.nearest is not None and self.top_k is not None and self.top_k > self.nearest:
            raise SettingsError(
                f"top_k must be nearest ({self.nearest}) or less, got {self.top_k}: only so many "
                "are scored"
            )

    @property
    def settled_backend(self) -> Backend:
        """The backend that computes: torch where "auto" finds it, for what it computes once a text.

        It takes seconds longer to start than ONNX Runtime, which a long run does not feel.
        """
        has_torch = all(map(is_installed, PACKAGES["torch"]))
        return "torch" if self.backend == "auto" and has_torch else self.backend
