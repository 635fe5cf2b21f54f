"""The names and defaults of how rankings are fused, which options show without importing numpy."""

from __future__ import annotations

from typing import Literal, get_args

FusionMethod = Literal["rrf", "weighted"]
FUSION_METHODS: tuple[FusionMethod, ...] = get_args(FusionMethod)

HEAD_WEIGHT = 0.5
"""The head's share of a weighted fusion."""
