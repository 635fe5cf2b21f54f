from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index

SUBJECTS = ("bees", "volcano", "tea", "moon", "bread", "piano", "solar panels", "glacier")
SENTENCES = (
    "the {} in winter",
    "how the {} is and why the {} does",
    "what heat and light is to the {} in the river of ice",
)


@pytest.fixture(scope="session")
def passages() -> list[Passage]:
    """24 passages, no two with the same text; every third has a title and metadata."""
    return [
        Passage(
            f"p{3 * row + column:02}",
            sentence.format(*[subject] * sentence.count("{}")),
            subject.capitalize() if column == 0 else "",
            {"column": 0} if column == 0 else {},
        )
        for row, subject in enumerate(SUBJECTS)
        for column, sentence in enumerate(SENTENCES)
    ]


@pytest.fixture(scope="session")
def encoder(tiny_model_dir: Path) -> DualEncoder:
    return DualEncoder.load(tiny_model_dir)


class LoneEncoder(DualEncoder):
    """Encodes each text by itself, once: else rounding would depend on what shares its batch."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._known: dict[tuple[str, tuple[int, ...]], EncodedTexts] = {}

    def encode_tokenised(self, texts: Tokenised) -> EncodedTexts:
        encoded = []
        for ids in texts.ids:
            key = (texts.side, tuple(ids))
            if key not in self._known:
                self._known[key] = super().encode_tokenised(Tokenised(texts.side, [ids], 0))
            encoded.append(self._known[key])
        tokens, vectors = zip(*encoded, strict=True)
        return EncodedTexts(np.concatenate(tokens), np.concatenate(vectors))


@pytest.fixture(scope="session")
def lone_encoder(tiny_model_dir: Path) -> DualEncoder:
    """An encoder that gives a text the same bits wherever it stands."""
    return LoneEncoder.load(tiny_model_dir)


@pytest.fixture(scope="session")
def index_dir(
    tmp_path_factory: pytest.TempPathFactory, encoder: DualEncoder, passages: list[Passage]
) -> Path:
    """An index with exact tokens, so that its scores can be compared with fresh ones."""
    folder = tmp_path_factory.mktemp("built") / "exact.index"
    build_index(passages, folder, encoder, codec="float32")
    return folder


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The tiny model with one number changed."""
    encoder = DualEncoder.load(tiny_model_dir)
    with torch.no_grad():
        encoder.model.head.output.bias += 1
    folder = tmp_path_factory.mktemp("other")
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return folder
