import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DiPairError, DirectoryError, FormatError, StoreError
from dipair_index.records import Passage
from dipair_index.rerank import part_builder
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

QUERIES = ["why does dough rise", "how bees dance", "moon"]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_builder, "PASSAGES_PER_CHUNK", 5)


@pytest.fixture
def target(quick_path: Path, lone_encoder: DualEncoder, passages: list[Passage]) -> Path:
    """An index of the first twelve passages."""
    build_index(passages[:12], quick_path / "i", lone_encoder)
    return quick_path / "i"


def interrupted_after(passages: list[Passage], count: int) -> Iterator[Passage]:
    yield from passages[:count]
    raise KeyboardInterrupt


def seen(index_dir: Path, encoder: DualEncoder) -> dict[str, Any]:
    """Everything that a reader of an index sees, scores to the last bit."""
    assert list(verify_index(index_dir)) == []
    with DiPairIndex.open(index_dir, encoder) as index, Snapshot.open(index_dir) as snapshot:
        ids = list(snapshot)
        return {
            "ids": ids,
            "found": index.search(QUERIES, top_k=30, raw_scores=True),
            "nearest": index.search(QUERIES, top_k=5, rerank=False, raw_scores=True),
            "texts": snapshot.passages(ids),
            "tokens": snapshot.tokens(ids).tobytes(),
        }


def from_scratch(passages: list[Passage], folder: Path, encoder: DualEncoder) -> dict[str, Any]:
    build_index(passages, folder / "scratch", encoder)
    return seen(folder / "scratch", encoder)


def assert_tidy(index_dir: Path) -> None:
    assert sorted(os.listdir(index_dir)) == ["manifest.json", "parts", "writer.lock"]
    names = [part.name for part in Manifest.read(index_dir).parts]
    assert sorted(os.listdir(index_dir / "parts")) == names


def test_an_index_that_was_added_to_is_as_one_that_was_built_of_all(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    counts: list[int] = []
    summary = add_passages(passages[12:], target, lone_encoder, report=counts.append)

    assert counts == [0, 5, 10, 12]
    assert (summary.passages, summary.encoded, summary.replaced) == (12, 12, 0)
    assert summary.token_bytes > 12 * 8 * 16
    assert len(Manifest.read(target).parts) == 2
    assert seen(target, lone_encoder) == from_scratch(passages, target.parent, lone_encoder)
    assert_tidy(target)


def test_an_update_replaces_what_is_there_and_adds_what_is_not(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    changed = passages[3]._replace(text="gravity", title="", metadata={"new": 1})
    summary = add_passages([changed, *passages[12:14]], target, lone_encoder, update=True)

    assert (summary.passages, summary.replaced) == (3, 1)
    expected = [*passages[:3], *passages[4:12], changed, *passages[12:14]]
    assert seen(target, lone_encoder) == from_scratch(expected, target.parent, lone_encoder)
    assert_tidy(target)


def test_passages_that_are_there_already_are_refused_and_nothing_is_changed(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    before = Manifest.read(target)
    with pytest.raises(
        DirectoryError,
        match=r"2 of these passages are in .* already, such as p03: .*`dipair-index update`",
    ):
        add_passages([passages[20], passages[3], passages[4]], target, lone_encoder)
    assert Manifest.read(target) == before
    assert_tidy(target)


def test_a_refusal_after_some_passages_leaves_them_to_be_gone_on_with(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    """A corpus that is in part in the index: it goes on as an update, or without that part."""
    corpus = [*passages[12:18], passages[0]]
    with pytest.raises(DirectoryError, match="1 of these passages is in .*, such as p00"):
        add_passages(corpus, target, lone_encoder)
    summary = add_passages(corpus, target, lone_encoder, update=True, resume=True)
    assert (summary.passages, summary.encoded, summary.replaced) == (7, 2, 1)
    expected = [*passages[1:18], passages[0]]
    assert seen(target, lone_encoder) == from_scratch(expected, target.parent, lone_encoder)


def test_passages_that_came_meanwhile_are_refused_at_the_end(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    """What was encoded before an interruption is looked for again."""
    with pytest.raises(KeyboardInterrupt):
        add_passages(interrupted_after(passages[12:], 10), target, lone_encoder)
    build_index(passages[12:14], target.parent / "other", lone_encoder)
    os.rename(target / "building", target.parent / "building")
    add_passages(passages[12:14], target, lone_encoder)
    os.rename(target.parent / "building", target / "building")
    before = seen(target, lone_encoder)
    with pytest.raises(DirectoryError, match="2 of these passages are in .*, such as p12"):
        add_passages(passages[12:], target, lone_encoder, resume=True)
    assert seen(target, lone_encoder) == before


@pytest.mark.parametrize("stored", [5, 7, 10, 12])
@pytest.mark.parametrize("update", [False, True])
def test_an_interrupted_add_goes_on_to_the_same_index(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage], stored: int, update: bool
) -> None:
    coming = [*passages[18:], *passages[0:6]] if update else passages[12:]
    before = seen(target, lone_encoder)
    with pytest.raises(KeyboardInterrupt):
        add_passages(interrupted_after(coming, stored), target, lone_encoder, update=update)
    assert seen(target, lone_encoder) == before

    kept = 5 * (stored // 5)
    with pytest.raises(DirectoryError, match=f"holds {kept} passages of an interrupted add"):
        add_passages(coming, target, lone_encoder, update=update)
    summary = add_passages(coming, target, lone_encoder, update=update, resume=True)
    assert (summary.encoded, summary.replaced) == (12 - kept, 6 if update else 0)
    expected = [*passages[6:12], *coming] if update else passages
    assert seen(target, lone_encoder) == from_scratch(expected, target.parent, lone_encoder)
    assert_tidy(target)


def test_what_is_deleted_before_an_add_goes_on_stays_deleted(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    coming = [*passages[10:16]]
    with pytest.raises(KeyboardInterrupt):
        add_passages(interrupted_after(coming, 5), target, lone_encoder, update=True)
    with IndexWriter(target) as writer:
        writer.delete(["p00", "p10"])
        assert writer.compact()
    summary = add_passages(coming, target, lone_encoder, update=True, resume=True)
    assert (summary.encoded, summary.replaced) == (1, 1)
    expected = [*passages[1:10], *coming]
    assert seen(target, lone_encoder) == from_scratch(expected, target.parent, lone_encoder)


def test_an_interrupted_add_can_be_thrown_away(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        add_passages(interrupted_after(passages[12:], 5), target, lone_encoder)
    with pytest.raises(DirectoryError, match="begun with command add, not build"):
        build_index(passages[12:], target, lone_encoder, resume=True, overwrite=True)
    other = passages[20:]
    with pytest.raises(DirectoryError, match="does not begin with the 5 passages of the unf"):
        add_passages(other, target, lone_encoder, resume=True)
    assert add_passages(other, target, lone_encoder, overwrite=True).encoded == 4
    expected = [*passages[:12], *other]
    assert seen(target, lone_encoder) == from_scratch(expected, target.parent, lone_encoder)
    assert_tidy(target)


def test_another_model_is_refused_before_anything_is_done(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage], other_model_dir: Path
) -> None:
    before = seen(target, lone_encoder)
    with pytest.raises(DirectoryError, match="was built by the model .*, but .*other"):
        add_passages(passages[12:], target, DualEncoder.load(other_model_dir))
    assert seen(target, lone_encoder) == before
    assert_tidy(target)


@pytest.mark.parametrize(
    ("coming", "error", "message"),
    [
        ([], FormatError, "there is no passage to index"),
        ([Passage("x", "tea"), Passage("x", "ash")], FormatError, "'x' is given twice"),
        ([Passage("", "tea")], StoreError, "a passage id is empty"),
        ([Passage("ü" * 256, "tea")], StoreError, "is 512 bytes long: an id may have 511"),
        ([Passage("\ud800", "tea")], FormatError, "is not valid Unicode"),
        ([Passage("x", "tea", "", {"when": {1}})], StoreError, "'x' cannot be stored as JSON"),
    ],
)
def test_bad_passages_are_refused_and_nothing_is_lost(
    target: Path,
    lone_encoder: DualEncoder,
    coming: list[Passage],
    error: type[DiPairError],
    message: str,
) -> None:
    before = seen(target, lone_encoder)
    with pytest.raises(error, match=message):
        add_passages(coming, target, lone_encoder)
    assert seen(target, lone_encoder) == before
    assert_tidy(target)


@pytest.mark.parametrize("wrong", ["tokens", "vectors"])
def test_a_model_that_gives_nan_is_refused_and_nothing_is_lost(
    target: Path,
    lone_encoder: DualEncoder,
    passages: list[Passage],
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    before = seen(target, lone_encoder)

    def broken(texts: Tokenised) -> EncodedTexts:
        good = DualEncoder.encode_tokenised(lone_encoder, texts)
        return good._replace(**{wrong: np.full_like(getattr(good, wrong), np.nan)})

    with monkeypatch.context() as patch:
        patch.setattr(lone_encoder, "encode_tokenised", broken)
        with pytest.raises(StoreError, match=f"the {wrong[:6]}.* of passage 'p12' hold.* NaN"):
            add_passages(passages[12:14], target, lone_encoder)
    assert seen(target, lone_encoder) == before
    # and nothing of it is in the way
    assert add_passages(passages[12:14], target, lone_encoder).encoded == 2


def test_a_repetition_is_found_in_a_later_chunk_too(
    target: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    with pytest.raises(FormatError, match="the passage id 'p13' is given twice"):
        add_passages([*passages[12:20], passages[13]], target, lone_encoder)
    assert add_passages(passages[12:20], target, lone_encoder, resume=True).encoded == 3
    assert len(seen(target, lone_encoder)["ids"]) == 20
