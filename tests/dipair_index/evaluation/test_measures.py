"""Measures by hand and by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dipair_index.evaluation.measures import area_under_curve


def test_the_auc_counts_ties_half() -> None:
    """Of 2 x 2 pairs: 0.5 > 0.2, 0.5 = 0.5 (half), 0.9 > both: 3.5 of 4."""
    relevant = np.array([True, True, False, False])
    assert area_under_curve(relevant, np.float32([0.5, 0.9, 0.2, 0.5])) == 3.5 / 4
    random = np.random.default_rng(0)
    relevant = np.repeat([True, False], 50)
    scores = random.integers(0, 9, 100).astype(np.float32) + relevant
    expected = roc_auc_score(relevant, scores)
    assert area_under_curve(relevant, scores) == pytest.approx(expected)
    assert area_under_curve(relevant[:50], scores[:50]) is None
