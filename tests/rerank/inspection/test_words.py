"""The words that kept tokens stand for."""

from __future__ import annotations

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.inspection.words import Vocabulary, present, words_behind


@pytest.fixture(scope="module")
def default() -> DualEncoder:
    return DualEncoder.load()


def test_a_token_is_nearest_to_its_own_word(default: DualEncoder) -> None:
    vocabulary = Vocabulary(default, "passage", 300)
    assert len(vocabulary.words) == 300
    assert all(word.isalpha() for word in vocabulary.words)
    text = "a house of the king"
    places = {"house": 3, "king": 6}  # after [CLS] and the passage's marker
    nearest = vocabulary.nearest(default.encode_passages([text]).tokens[0], 2)
    for word, place in places.items():
        assert nearest[place][0].word == word
        assert nearest[place][0].weight > nearest[place][1].weight


def test_words_behind_a_token_are_those_whose_absence_moves_it(default: DualEncoder) -> None:
    text = "The yeast in a dough makes gas."
    behind = words_behind(default, "passage", text)
    kept = present(default.encode_passages([text]).tokens[0])
    assert len(behind) == len(kept)
    for words, token in zip(behind, kept, strict=True):
        for word in words:
            assert text[word.start : word.end] == word.word
            without = f"{text[: word.start]}{text[word.end :]}"
            left = present(default.encode_passages([without]).tokens[0])
            assert word.weight == pytest.approx(1 - (left @ token).max(), abs=1e-4)
        weights = [word.weight for word in words]
        assert weights == sorted(weights, reverse=True)
    assert behind[3][0].word == "yeast"


def test_a_text_without_words_has_none(default: DualEncoder) -> None:
    assert all(words == [] for words in words_behind(default, "passage", "?!"))


def test_absent_tokens_are_left_out() -> None:
    tokens = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], np.float32)
    np.testing.assert_allclose(present(tokens), [[0.6, 0.8], [0.0, -1.0]], atol=1e-6)
