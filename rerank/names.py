"""Names and defaults of first stages and fusions, which options show without importing numpy."""

from __future__ import annotations

from typing import Literal, get_args

FirstStage = Literal["vectors", "lexical", "both"]
FIRST_STAGES: tuple[FirstStage, ...] = get_args(FirstStage)

FusionMethod = Literal["rrf", "weighted"]
FUSION_METHODS: tuple[FusionMethod, ...] = get_args(FusionMethod)

HEAD_WEIGHT = 0.7
"""The head's share of a weighted fusion with the first stage."""
LEXICAL_WEIGHT = 0.3
"""The share of BM25 in the weighted fusion that is the first stage `both`."""
