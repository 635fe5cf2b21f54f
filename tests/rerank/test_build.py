import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dipair_index.dual_encoder import DualEncoder
from dipair_index.errors import IndexDirectoryError, SettingsError
from dipair_index.records import Passage
from dipair_index.rerank import build
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.ann import AnnInfo, FaissIndex
from dipair_index.stores.index_directory import Manifest, working_directory

QUERIES = ["why does dough rise", "how bees dance", "moon"]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHUNK", 5)


def interrupted_after(passages: list[Passage], count: int) -> Iterator[Passage]:
    yield from passages[:count]
    raise KeyboardInterrupt


def answers(index_dir: Path, encoder: DualEncoder) -> tuple[object, bytes, bytes]:
    """Everything that a reader of an index sees, scores to the last bit."""
    with DiPairIndex.open(index_dir, encoder) as index:
        found = index.search(QUERIES, top_k=24, raw_scores=True)
        tokens = index._tokens.get([f"p{number:02}" for number in range(24)])
    return found, tokens.tobytes(), (index_dir / "ann" / "index.faiss").read_bytes()


@pytest.fixture
def undisturbed(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> tuple[object, bytes, bytes]:
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
    files = (target / "tokens").iterdir()
    assert summary.token_bytes == sum(file.stat().st_size for file in files) > 24 * 8 * 16
    manifest = Manifest.read(target)
    assert (manifest.codec, manifest.ann_kind, manifest.passages) == ("int8", "flat", 24)
    assert manifest.model_fingerprint == manifest.embedder_fingerprint == encoder.fingerprint
    assert sorted(path.name for path in target.iterdir()) == [
        "ann", "manifest.json", "passages", "tokens"]  # fmt: skip
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
    undisturbed: tuple[object, bytes, bytes],
    stored: int,
) -> None:
    target = tmp_path / "some.index"
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, stored), target, encoder)
    assert not target.exists()
    summary = build_index(passages, target, encoder, resume=True)

    assert summary.encoded == 24 - 5 * (stored // 5)
    assert answers(target, encoder) == undisturbed
    assert not working_directory(target).exists()


KILLED = """
import os, signal, sys
from dipair_index.dual_encoder import DualEncoder
from dipair_index.formats import read_passages
from dipair_index.rerank import build

def killed(passages):
    for number, passage in enumerate(passages):
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        yield passage

build.CHUNK = 5
model, corpus, target = sys.argv[1:]
build.build_index(killed(read_passages(corpus)), target, DualEncoder.load(model))
"""


def test_a_killed_build_goes_on_to_the_same_index(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], tiny_model_dir: Path
) -> None:
    from dipair_index.formats import read_passages, write_passages

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
    undisturbed: tuple[object, bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "some.index"
    saved = build.UnfinishedBuild._save
    with monkeypatch.context() as patch:

        def fail_at_ten(self: build.UnfinishedBuild) -> None:
            if self.progress.passages == 10:
                raise OSError(28, "No space left on device")
            saved(self)

        patch.setattr(build.UnfinishedBuild, "_save", fail_at_ten)
        with pytest.raises(OSError, match="No space left"):
            build_index(passages, target, encoder)
    summary = build_index(passages, target, encoder, resume=True)

    assert summary.encoded == 19
    assert answers(target, encoder) == undisturbed


def test_an_unfinished_build_is_neither_taken_up_nor_thrown_away_unasked(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    target = tmp_path / "some.index"
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, 10), target, encoder)
    with pytest.raises(IndexDirectoryError, match=r"unfinished build of 10 passages.*--resume"):
        build_index(passages, target, encoder)
    assert build_index(passages, target, encoder, overwrite=True).encoded == 24


def test_a_build_resumes_only_with_its_own_settings_and_passages(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], other_model_dir: Path
) -> None:
    target = tmp_path / "some.index"
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted_after(passages, 10), target, encoder)
    with pytest.raises(IndexDirectoryError, match="begun with codec int8, not float16"):
        build_index(passages, target, encoder, codec="float16", resume=True)
    with pytest.raises(IndexDirectoryError, match="begun with model"):
        build_index(passages, target, DualEncoder.load(other_model_dir), resume=True)
    for other in (passages[1:], passages[:4], [passages[0]._replace(text="x"), *passages[1:]]):
        with pytest.raises(IndexDirectoryError, match="does not begin with the 10 passages"):
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
    with pytest.raises(SettingsError, match="no passage to index"):
        build_index([], tmp_path / "some.index", encoder)
    with pytest.raises(SettingsError, match="cannot make an index 'nonsense'.*flat, hnsw, ivf"):
        build_index([], tmp_path / "some.index", encoder, ann="nonsense")
    assert list(tmp_path.iterdir()) == []


def test_two_builds_of_one_index_do_not_mix(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    def beginning_another() -> Iterator[Passage]:
        with pytest.raises(IndexDirectoryError, match="another build is at work"):
            build_index(passages, tmp_path / "some.index", encoder)
        yield from passages

    assert build_index(beginning_another(), tmp_path / "some.index", encoder).passages == 24


def test_what_stands_where_a_build_would_work_is_left_alone(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    mine = tmp_path / "some.index.building"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(IndexDirectoryError, match=r"in the way .*move it elsewhere"):
            build_index(passages, tmp_path / "some.index", encoder, overwrite=overwrite)
    assert os.listdir(mine) == ["thesis.tex"]


def test_an_index_is_replaced_only_when_asked(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    build_index(passages, tmp_path / "i", encoder)
    with pytest.raises(IndexDirectoryError, match="--overwrite to replace it"):
        build_index(passages[:6], tmp_path / "i", encoder)
    assert Manifest.read(tmp_path / "i").passages == 24
    build_index(passages[:6], tmp_path / "i", encoder, overwrite=True)
    assert Manifest.read(tmp_path / "i").passages == 6


def test_another_encoders_vectors_retrieve(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], tiny_encoder_dir: Path
) -> None:
    build_index(passages, tmp_path / "i", encoder, vectors=str(tiny_encoder_dir))
    with DiPairIndex.open(tmp_path / "i", encoder) as index:
        assert index.manifest.embedder == str(tiny_encoder_dir)
        found = index.search(passages[4].full_text, top_k=1, rerank=False, raw_scores=True)
    assert [(passage.id, round(passage.score, 4)) for passage in found] == [("p04", 1.0)]


def test_the_vectors_of_another_index_are_taken_over(
    tmp_path: Path,
    encoder: DualEncoder,
    passages: list[Passage],
    tiny_encoder_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = str(tiny_encoder_dir)
    build_index(passages, tmp_path / "first", encoder, vectors=name)
    monkeypatch.setattr(
        "dipair_index.sentence_vectors.TransformersEmbedder.embed_passages", _not_again
    )
    build_index(
        passages, tmp_path / "same", encoder, vectors=name, codec="float32",
        ann_from=tmp_path / "first",
    )  # fmt: skip
    build_index(
        passages, tmp_path / "graph", encoder, vectors=name, ann="hnsw",
        ann_from=tmp_path / "first" / "ann",
    )  # fmt: skip

    bytes_of = {name: (tmp_path / name / "ann" / "index.faiss").read_bytes()
                for name in ("first", "same")}  # fmt: skip
    assert bytes_of["first"] == bytes_of["same"]
    assert AnnInfo.read(tmp_path / "graph" / "ann").kind == "hnsw"
    graph, flat = (FaissIndex.load(tmp_path / name / "ann") for name in ("graph", "first"))
    np.testing.assert_array_equal(graph.vectors(), flat.vectors())


def test_vectors_of_other_passages_or_another_encoder_are_not_taken_over(
    tmp_path: Path, encoder: DualEncoder, passages: list[Passage], tiny_encoder_dir: Path
) -> None:
    build_index(passages, tmp_path / "first", encoder)
    before = (tmp_path / "first" / "ann" / "index.faiss").read_bytes()
    with pytest.raises(IndexDirectoryError, match="holds vectors of model .* pass --vectors model"):
        build_index(
            passages, tmp_path / "i", encoder, vectors=str(tiny_encoder_dir),
            ann_from=tmp_path / "first",
        )  # fmt: skip
    others = passages[1:], passages[:8], [*passages, passages[0]._replace(passage_id="p99")]
    for corpus in others:
        with pytest.raises(IndexDirectoryError, match="holds other passages, .* 24 in number"):
            build_index(
                corpus, tmp_path / "i", encoder, ann_from=tmp_path / "first", overwrite=True
            )
    changed = [passages[0]._replace(text="another text"), *passages[1:]]
    with pytest.raises(IndexDirectoryError, match="holds other passages"):
        build_index(changed, tmp_path / "i", encoder, ann_from=tmp_path / "first", overwrite=True)
    assert (tmp_path / "first" / "ann" / "index.faiss").read_bytes() == before


def _not_again(self: object, texts: object) -> None:
    raise AssertionError("the vectors were to be taken over, not computed")
