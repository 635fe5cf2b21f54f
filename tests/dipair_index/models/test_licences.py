"""The licence of a model, read from its card."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipair_index.models.licences import Licence, licence_of


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", Licence("apache-2.0")),
        (
            "---\nlicense: other\nlicense_name: of-its-own\nlicense_link: https://a.test/l\n---\n",
            Licence("of-its-own", "https://a.test/l"),
        ),
        ("---\nlanguage: en\n---\n", None),
        ("# A model without metadata\n", None),
        ("---\nlicense: [apache\n---\n", None),
        ("---\n- license\n---\n", None),
    ],
)
def test_the_card_states_the_licence(tmp_path: Path, card: str, licence: Licence | None) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_a_model_without_a_card_states_none(tmp_path: Path) -> None:
    assert licence_of(tmp_path) is None
    assert licence_of(tmp_path / "missing") is None


def test_a_licence_in_words_has_its_link() -> None:
    assert str(Licence("mit")) == "mit"
    assert str(Licence("own", "https://a.test")) == "own (https://a.test)"
