"""The scores that tools of evaluation are given: logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_raw_scores(search_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of `DiPairIndex.search` by which its scores are logits.

    trec_eval, on which PyTerrier and MTEB rest, compares scores in single precision, in which
    unequal probabilities near 1 become equal. Fused scores have no logits.
    """
    return {"raw_scores": search_settings.get("fusion") is None, **search_settings}
