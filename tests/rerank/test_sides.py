"""An index of any side of a model's tuples: built, changed and described as one of passages is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot


@pytest.fixture(scope="module")
def of_three(make_model: Callable[..., DualEncoder]) -> DualEncoder:
    """A model of tuples whose third side keeps three tokens."""
    return make_model(extra_sides={"brand": [3, 16]}, shared_encoder=False)


def tokens_in(index_dir: Path, passages: list[Passage]) -> np.ndarray:
    with Snapshot.open(index_dir) as snapshot:
        return snapshot.tokens([passage.id for passage in passages])


def of_side(encoder: DualEncoder, side: str, passages: list[Passage]) -> np.ndarray:
    return encoder.encode(side, [passage.full_text for passage in passages]).tokens


def test_an_index_of_queries_holds_the_tokens_of_queries_through_its_life(
    encoder: DualEncoder, passages: list[Passage], tmp_path: Path
) -> None:
    folder = tmp_path / "queries.index"
    build_index(passages[:20], folder, encoder, side="query", codec="float32")
    add_passages(passages[20:], folder, encoder)
    assert Manifest.read(folder).side == "query"
    expected = of_side(encoder, "query", passages)
    assert expected.shape[1] == encoder.sizes.max_query_tokens
    np.testing.assert_allclose(tokens_in(folder, passages), expected, atol=1e-5)
    with IndexWriter(folder) as writer:
        assert writer.compact()
    np.testing.assert_allclose(tokens_in(folder, passages), expected, atol=1e-5)
    with Snapshot.open(folder) as snapshot:
        found, _ = snapshot.search(encoder.encode_queries([passages[5].full_text]).vectors, 1)
    assert found == [[passages[5].id]]


@pytest.mark.parametrize("side", ["query", "passage", "brand"])
def test_every_side_of_a_tuple_can_be_stored(
    side: str, of_three: DualEncoder, passages: list[Passage], tmp_path: Path
) -> None:
    folder = tmp_path / "i"
    build_index(passages, folder, of_three, side=side, codec="float32")
    expected = of_side(of_three, side, passages)
    np.testing.assert_allclose(tokens_in(folder, passages), expected, atol=1e-5)
    manifest = Manifest.read(folder)
    assert (manifest.side, manifest.kept_tokens) == (side, expected.shape[1])


def test_a_side_that_the_model_does_not_read_is_refused(
    encoder: DualEncoder, of_three: DualEncoder, passages: list[Passage], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="reads query, passage, and no brand: name one of"):
        build_index(passages, tmp_path / "i", encoder, side="brand")
    with pytest.raises(SettingsError, match="the model also reads brand"):
        build_index(passages, tmp_path / "i", of_three)
    assert not (tmp_path / "i").exists()


def test_passages_are_recorded_as_versions_wrote_them_that_knew_no_sides(index_dir: Path) -> None:
    text = (index_dir / "manifest.json").read_text()
    assert '"side"' not in text
    assert Manifest.read(index_dir).digest in text


def test_an_index_of_queries_is_not_ranked(
    encoder: DualEncoder, passages: list[Passage], tmp_path: Path
) -> None:
    build_index(passages, tmp_path / "i", encoder, side="query")
    with pytest.raises(DirectoryError, match="only passages are ranked"):
        DiPairIndex.open(tmp_path / "i")
