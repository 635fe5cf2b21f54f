import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, FormatError, SettingsError
from dipair_index.records import Passage
from dipair_index.rerank import build, part_builder
from dipair_index.rerank.build import add_passages, build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.unfinished import UnfinishedPart
from dipair_index.stores.index_directory import Layout
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.names import DEFAULT_CODEC
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

QUERIES = ["why does dough rise", "how bees dance", "moon"]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_builder, "PASSAGES_PER_CHUNK", 5)


def interrupted_after(passages: list[Passage], count: int) -> Iterator[Passage]:
    yield from passages[:count]
    raise KeyboardInterrupt


def answers(index_dir: Path, encoder: DualEncoder) -> dict[str, Any]:
    """Everything that a reader of an index sees, scores to the last bit; and nothing is left."""
    assert sorted(os.listdir(index_dir)) == ["manifest.json", "parts", "writer.lock"]
    manifest = Manifest.read(index_dir)
    assert sorted(os.listdir(index_dir / "parts")) == [part.name for part in manifest.parts]
    assert list(verify_index(index_dir)) == []
    with DiPairIndex.open(index_dir, encoder) as index, Snapshot.open(index_dir) as snapshot:
        ids = list(snapshot)
        return {
            "ids": ids,
            "found": index.search(QUERIES, top_k=30, raw_scores=True),
            "texts": snapshot.passages(ids),
            "tokens": snapshot.tokens(ids).tobytes(),
            "vectors": [part.ann.vectors().tobytes() for part in snapshot.parts],
            "truncated": manifest.truncated,
            "digest": manifest.passages_digest,
        }


@pytest.fixture
def undisturbed(tmp_path: Path, encoder: DualEncoder, passages: list[Passage]) -> dict[str, Any]:
    build_index(passages, tmp_path / "undisturbed.index", encoder)
    return answers(tmp_path / "undisturbed.index", encoder)


def test_a_build_says_what_it_did(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    counts: list[int] = []
    target = tmp_path / "some.index"
    summary = build_index(passages, target, encoder, report=counts.append)

    assert counts == [0, 5, 10, 15, 20, 24]
    assert (summary.passages, summary.encoded, summary.truncated) == (24, 24, 0)
    manifest = Manifest.read(target)
    assert (manifest.codec, manifest.ann_kind, manifest.passages) == (DEFAULT_CODEC, "flat", 24)
    assert manifest.model_fingerprint == manifest.embedder_fingerprint == encoder.fingerprint
    (part,) = manifest.parts
    folder = Layout(target).part(part.name)
    expected = ["ann", "files.json", "passages", "texts.npy", "tokens"]
    assert sorted(os.listdir(folder.root)) == expected
    assert os.listdir(folder.tokens) == os.listdir(folder.passages) == ["data.mdb"]
    assert summary.token_bytes == (folder.tokens / "data.mdb").stat().st_size > 24 * 8 * 16
    assert answers(target, encoder)["ids"] == [passage.passage_id for passage in passages]
    assert list(tmp_path.iterdir()) == [target]


def test_texts_that_are_cut_are_counted_and_the_count_outlives_an_interruption(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    long = [passage._replace(text="bees " * 200) for passage in passages[:7]]
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(long, 6), tmp_path / "i", encoder)
    summary = build_index(long, tmp_path / "i", encoder, resume=True)

    assert summary.truncated == Manifest.read(tmp_path / "i").truncated == 7


@pytest.mark.parametrize("stored", [5, 7, 10, 24])
def test_an_interrupted_build_goes_on_to_the_same_index(
    tmp_path: Path,
    encoder: DualEncoder,
    passages: list[Passage],
    undisturbed: dict[str, Any],
    stored: int,
) -> None:
    target = tmp_path / "some.index"
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, stored), target, encoder)
    with pytest.raises(DirectoryError, match=r"is not an index: it has no manifest\.json"):
        Snapshot.open(target)
    summary = build_index(passages, target, encoder, resume=True)

    assert summary.encoded == 24 - 5 * (stored // 5)
    assert answers(target, encoder) == undisturbed


def fail_at_ten(patch: pytest.MonkeyPatch) -> None:
    """Lets the disk be full when ten passages are to be counted."""
    saved = UnfinishedPart._save

    def save(self: UnfinishedPart) -> None:
        if self.progress.passages == 10:
            raise OSError(28, "No space left on device")
        saved(self)

    patch.setattr(UnfinishedPart, "_save", save)


KILLED = """
import os, signal, sys
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.formats.collections import read_passages
from dipair_index.rerank import build, part_builder

def killed(stored):
    if stored == 10:
        os.kill(os.getpid(), signal.SIGKILL)

part_builder.PASSAGES_PER_CHUNK = 5
model, corpus, target = sys.argv[1:]
build.build_index(read_passages(corpus), target, DualEncoder.load(model), report=killed)
"""


def test_a_killed_build_goes_on_to_the_same_index(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], tiny_model_dir: Path
) -> None:
    from dipair_index.formats.collections import read_passages, write_passages

    corpus, target = tmp_path / "corpus.jsonl", tmp_path / "some.index"
    write_passages(passages, corpus)
    command = [sys.executable, "-c", KILLED, str(tiny_model_dir), str(corpus), str(target)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    summary = build_index(read_passages(corpus), target, encoder, resume=True)
    build_index(read_passages(corpus), tmp_path / "undisturbed.index", encoder)

    assert summary.encoded == 14
    assert answers(target, encoder) == answers(tmp_path / "undisturbed.index", encoder)


def test_a_chunk_that_was_stored_but_not_counted_is_stored_again(
    tmp_path: Path,
    encoder: DualEncoder,
    passages: list[Passage],
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "some.index"
    with monkeypatch.context() as patch:
        fail_at_ten(patch)
        with pytest.raises(OSError, match="No space left"):
            build_index(passages, target, encoder)
    summary = build_index(passages, target, encoder, resume=True)

    assert summary.encoded == 19
    assert answers(target, encoder) == undisturbed


def test_what_was_stored_but_not_counted_is_forgotten_where_other_passages_follow(
    tmp_path: Path,
    encoder: DualEncoder,
    passages: list[Passage],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        fail_at_ten(patch)
        with pytest.raises(OSError, match="No space left"):
            build_index(passages, tmp_path / "i", encoder)
    others = [*passages[:5], *passages[12:18]]
    assert build_index(others, tmp_path / "i", encoder, resume=True).encoded == 6

    assert answers(tmp_path / "i", encoder)["texts"] == others
    with Snapshot.open(tmp_path / "i") as snapshot:
        assert not snapshot.contains([passage.passage_id for passage in passages[5:12]]).any()


@pytest.mark.parametrize(
    "lost", ["tokens", "passages", "progress/ids.jsonl", "progress/vectors.f32"]
)
def test_an_unfinished_part_that_lost_something_is_not_gone_on_with(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], lost: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, 10), tmp_path / "i", encoder)
    place = tmp_path / "i" / "building" / lost
    if place.is_dir():
        shutil.rmtree(place)
    else:
        os.truncate(place, place.stat().st_size - 1)
    with pytest.raises(DirectoryError, match="has lost some of its 10 passages: pass --over"):
        build_index(passages, tmp_path / "i", encoder, resume=True)
    assert build_index(passages, tmp_path / "i", encoder, overwrite=True).encoded == 24


def test_an_unfinished_build_is_neither_taken_up_nor_thrown_away_unasked(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    target = tmp_path / "some.index"
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, 10), target, encoder)
    with pytest.raises(
        DirectoryError, match="holds 10 passages of an interrupted build: pass --res"
    ):
        build_index(passages, target, encoder)
    assert build_index(passages, target, encoder, overwrite=True).encoded == 24


def test_a_build_resumes_only_with_its_own_settings_and_passages(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], other_model_dir: Path
) -> None:
    target = tmp_path / "some.index"
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, 10), target, encoder)
    with pytest.raises(DirectoryError, match="begun with codec int6, not float16"):
        build_index(passages, target, encoder, codec="float16", resume=True)
    with pytest.raises(DirectoryError, match="begun with model"):
        build_index(passages, target, DualEncoder.load(other_model_dir), resume=True)
    for other in (passages[1:], passages[:4], [passages[0]._replace(text="x"), *passages[1:]]):
        with pytest.raises(DirectoryError, match="does not begin with the 10 passages"):
            build_index(other, target, encoder, resume=True)
    assert build_index(passages, target, encoder, resume=True).encoded == 14


def test_the_kind_of_search_may_change_when_a_build_goes_on(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    with pytest.raises(SettingsError, match="ivf"):
        build_index(passages, tmp_path / "i", encoder, ann="ivf")
    assert build_index(passages, tmp_path / "i", encoder, ann="hnsw", resume=True).encoded == 0
    assert Manifest.read(tmp_path / "i").ann_kind == "hnsw"


def test_a_build_that_stored_nothing_leaves_nothing(tmp_path: Path, encoder: DualEncoder) -> None:
    with pytest.raises(FormatError, match="no passage to index"):
        build_index([], tmp_path / "some.index", encoder)
    with pytest.raises(SettingsError, match="cannot make an index 'nonsense'.*flat, hnsw, ivf"):
        build_index([], tmp_path / "some.index", encoder, ann="nonsense")
    assert list(tmp_path.iterdir()) == []


def test_two_builds_of_one_index_do_not_mix(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    def beginning_another() -> Iterator[Passage]:
        with pytest.raises(DirectoryError, match=f"is being changed by process {os.getpid()}"):
            build_index(passages, tmp_path / "some.index", encoder)
        yield from passages

    assert build_index(beginning_another(), tmp_path / "some.index", encoder).passages == 24


@pytest.mark.parametrize("name", ["thesis.tex", "parts/000001/bolt.step", "building/plan.dwg"])
def test_a_foreign_directory_is_not_built_in(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], name: str
) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(DirectoryError, match=r"is not an index, so it will not be overwr"):
            build_index(passages, tmp_path / "mine", encoder, overwrite=overwrite)
    with pytest.raises(DirectoryError, match=r"is not an index: it has no manifest\.json"):
        add_passages(passages, tmp_path / "mine", encoder)
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [mine]


def test_an_index_that_was_built_meanwhile_is_not_replaced(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = build.open_embedder

    def slowly(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(build, "open_embedder", opened)
        build_index(passages[:6], tmp_path / "i", encoder)
        return opened(*arguments, **more)

    monkeypatch.setattr(build, "open_embedder", slowly)
    with pytest.raises(DirectoryError, match="there is an index at .* already: pass --over"):
        build_index(passages, tmp_path / "i", encoder)
    assert Manifest.read(tmp_path / "i").passages == 6


def test_an_index_is_replaced_only_when_asked(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    build_index(passages, tmp_path / "i", encoder)
    with pytest.raises(DirectoryError, match="--overwrite to replace it"):
        build_index(passages[:6], tmp_path / "i", encoder)
    before = answers(tmp_path / "i", encoder)
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, 5), tmp_path / "i", encoder, overwrite=True)
    with DiPairIndex.open(tmp_path / "i", encoder) as index:
        assert index.search(QUERIES, top_k=30, raw_scores=True) == before["found"]
        build_index(
            passages[:6], tmp_path / "i", encoder, codec="float16", overwrite=True, resume=False
        )
        assert index.search(QUERIES, top_k=30, raw_scores=True) == before["found"]
        assert index.refresh()
        assert (len(index), index.manifest.codec) == (6, "float16")
    add_passages(passages[6:7], tmp_path / "i", encoder)
    assert len(answers(tmp_path / "i", encoder)["ids"]) == 7


def test_a_damaged_index_can_be_replaced(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    build_index(passages, tmp_path / "i", encoder)
    (tmp_path / "i" / "manifest.json").write_bytes(b'{"ki')
    with pytest.raises(DirectoryError, match="is damaged"):
        add_passages(passages[:1], tmp_path / "i", encoder)
    build_index(passages[:6], tmp_path / "i", encoder, overwrite=True)
    assert answers(tmp_path / "i", encoder)["texts"] == passages[:6]


@pytest.mark.parametrize("store", ["lmdb", "tensorstore"])
def test_every_store_gives_the_same_answers(
    tmp_path: Path,
    encoder: DualEncoder,
    passages: list[Passage],
    undisturbed: dict[str, Any],
    store: str,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, 12), tmp_path / "i", encoder, store=store)
    other = "lmdb" if store == "tensorstore" else "tensorstore"
    with pytest.raises(DirectoryError, match=f"begun with store {store}, not {other}"):
        build_index(passages, tmp_path / "i", encoder, store=other, resume=True)
    summary = build_index(passages, tmp_path / "i", encoder, store=store, resume=True)
    assert summary.encoded == 14
    assert summary.token_bytes > 24 * 8 * 16
    assert Manifest.read(tmp_path / "i").store == store
    assert answers(tmp_path / "i", encoder) == undisturbed


def test_tokens_can_be_kept_at_a_url(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], undisturbed: dict[str, Any]
) -> None:
    url = f"file://{tmp_path}/bucket"
    with pytest.raises(SettingsError, match="the store lmdb keeps no tokens at a URL: choose tens"):
        build_index(passages, tmp_path / "i", encoder, store_url=url)
    with pytest.raises(KeyboardInterrupt):
        build_index(
            interrupted_after(passages, 12), tmp_path / "i", encoder, store="tensorstore",
            store_url=url,
        )  # fmt: skip
    build_index(passages, tmp_path / "i", encoder, store="tensorstore", store_url=url, resume=True)
    assert answers(tmp_path / "i", encoder) == undisturbed
    assert len(os.listdir(tmp_path / "bucket")) == 1


def test_equal_passages_of_a_chunk_are_encoded_once(
    tmp_path: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_builder, "PASSAGES_PER_CHUNK", 60)
    texts = ["how bees dance", "the moon and the tide", "tea", "why does dough rise"] * 15
    asked: list[int] = []
    encode = DualEncoder.encode_tokenised

    def counting(self: DualEncoder, tokenised: Tokenised) -> EncodedTexts:
        asked.append(len(tokenised.ids))
        return encode(self, tokenised)

    monkeypatch.setattr(DualEncoder, "encode_tokenised", counting)
    passages = [Passage(f"p{row:02}", text) for row, text in enumerate(texts)]
    build_index(passages, tmp_path / "i", encoder, codec="float32")

    assert asked == [4]
    expected = encoder.encode_passages(texts[:4])
    with Snapshot.open(tmp_path / "i") as snapshot:
        tokens = snapshot.tokens([passage.passage_id for passage in passages])
        (part,) = snapshot.parts
        vectors = part.ann.vectors()
    for row in range(60):
        # one encoding is stored for all of them, so that they are the same to the last bit
        np.testing.assert_array_equal(tokens[row], tokens[row % 4])
        np.testing.assert_array_equal(vectors[row], vectors[row % 4])
        np.testing.assert_allclose(tokens[row], expected.tokens[row % 4], rtol=0, atol=1e-5)
        np.testing.assert_allclose(vectors[row], expected.vectors[row % 4], rtol=0, atol=1e-5)
