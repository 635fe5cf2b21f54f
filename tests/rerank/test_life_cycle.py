import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, MissingPassagesError
from dipair_index.records import Passage
from dipair_index.rerank import part_builder
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

NEW = Passage("new", "honey and ash", "Both", {"x": 1})
KINDS = ["hnsw", "ivf", "SQ8", "IVF2,PQ4x4"]


@pytest.fixture
def index(
    quick_path: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> Iterator[DiPairIndex]:
    build_index(passages[:12], quick_path / "i", lone_encoder)
    with DiPairIndex.open(quick_path / "i", lone_encoder) as opened:
        yield opened


def found(index: DiPairIndex) -> list[str]:
    """Ids, by what the head says and then by what the vectors say: the same ones."""
    reranked = [each.id for each in index.search("moon", top_k=99)]
    nearest = [each.id for each in index.search("moon", top_k=99, rerank=False)]
    assert sorted(reranked) == sorted(nearest)
    return sorted(nearest)


def test_what_is_added_is_found_and_what_is_deleted_is_not(index: DiPairIndex) -> None:
    ids = [f"p{number:02}" for number in range(12)]
    assert index.add([NEW]).passages == 1
    assert found(index) == sorted([*ids, "new"])
    (ranked,) = index.rerank("honey", ["new"])
    assert (ranked.text, ranked.title, ranked.metadata) == NEW[1:]

    assert index.add([NEW._replace(text="ice")], update=True).replaced == 1
    assert index.rerank("honey", ["new"])[0].text == "ice"
    assert index.delete(["new", "p03", "new"]) == 2
    assert found(index) == sorted({*ids} - {"p03"})
    with pytest.raises(MissingPassagesError, match="not in the index: p03"):
        index.rerank("honey", ["p01", "p03"])
    before = index.search("honey", top_k=99, raw_scores=True)
    assert index.compact()
    assert not index.compact()
    assert index.search("honey", top_k=99, raw_scores=True) == before
    assert os.listdir(index.path / "parts") == [index.manifest.parts[0].name]


def test_an_interrupted_add_is_gone_on_with(
    index: DiPairIndex, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Iterator[Passage]:
        yield from passages[12:19]
        raise KeyboardInterrupt

    monkeypatch.setattr(part_builder, "PASSAGES_PER_CHUNK", 5)
    with pytest.raises(KeyboardInterrupt):
        index.add(interrupted())
    assert len(index) == len(found(index)) == 12
    with pytest.raises(DirectoryError, match="5 passages of an interrupted add: pass --res"):
        index.add(passages[12:])
    assert index.add(passages[12:], resume=True).encoded == 7
    with pytest.raises(KeyboardInterrupt):
        index.add(interrupted(), update=True)
    assert index.add([NEW], overwrite=True).encoded == 1
    assert found(index) == sorted([*(passage.passage_id for passage in passages), "new"])


def test_a_reader_goes_over_to_a_change_when_it_is_told_to(
    index: DiPairIndex, lone_encoder: DualEncoder
) -> None:
    with DiPairIndex.open(index.path, lone_encoder) as reader:
        before = found(reader)
        assert not reader.refresh()
        index.add([NEW])
        index.delete(["p00"])
        assert found(reader) == before
        assert reader.refresh()
        assert not reader.refresh()
        assert found(reader) == found(index) == sorted([*before[1:], "new"])


def test_an_index_that_was_removed_and_built_anew_is_another(
    index: DiPairIndex, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    before = found(index)
    shutil.rmtree(index.path)
    build_index(passages[:3], index.path, lone_encoder)
    assert Manifest.read(index.path).generation == index.manifest.generation
    assert found(index) == before
    assert index.refresh()
    assert found(index) == ["p00", "p01", "p02"]


def test_a_reader_stays_with_the_old_index_where_the_new_one_has_another_model(
    index: DiPairIndex, passages: list[Passage], other_model_dir: Path
) -> None:
    before = found(index)
    other = DualEncoder.load(other_model_dir)
    build_index(passages[:3], index.path, other, overwrite=True)
    with pytest.raises(DirectoryError, match=r"was built by the model .*name the model it"):
        index.refresh()
    assert found(index) == before
    with DiPairIndex.open(index.path) as opened:
        assert len(opened) == 3


@pytest.mark.parametrize("store", ["lmdb", "tensorstore"])
def test_who_reads_an_old_index_keeps_its_answers_while_its_parts_would_go(
    quick_path: Path, lone_encoder: DualEncoder, passages: list[Passage], store: str
) -> None:
    path = quick_path / "i"
    build_index(passages[:12], path, lone_encoder, store=store)
    with DiPairIndex.open(path, lone_encoder) as index:
        index.add(passages[12:18])
        index.delete(["p02", "p13"])
        expected = index.search("the tea", top_k=99, raw_scores=True)
    reader = DiPairIndex.open(path, lone_encoder)
    with DiPairIndex.open(path, lone_encoder) as index:
        index.compact()
        index.add(passages[18:])
        index.delete(["p04", "p20"])
        index.compact()
    # it has read no token until now
    assert reader.search("the tea", top_k=99, raw_scores=True) == expected
    assert len(os.listdir(path / "parts")) == 3
    reader.close()
    with DiPairIndex.open(path, lone_encoder) as index:
        index.add([NEW])
        names = [part.name for part in index.manifest.parts]
        assert sorted(os.listdir(path / "parts")) == names
    assert list(verify_index(path)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_search_finds_what_was_deleted_or_misses_what_was_added(
    quick_path: Path, lone_encoder: DualEncoder, kind: str
) -> None:
    """Approximate kinds, with vectors of a part that is too small to train among the others."""
    words = ["bees", "honey", "lava", "moon", "tea", "ice"]
    texts = [" ".join(each) for each in itertools.permutations(words, 4)]
    corpus = [Passage(f"p{number:03}", text) for number, text in enumerate(texts[:240:2])]
    path = quick_path / "i"
    live = {passage.passage_id: passage for passage in corpus[:80]}
    build_index(corpus[:80], path, lone_encoder, ann=kind)

    def check() -> None:
        vectors = lone_encoder.encode_passages([each.full_text for each in live.values()]).vectors
        with Snapshot.open(path) as now:
            assert now.manifest.ann_kind == kind
            assert set(now) == live.keys()
            kept = dict(zip(live, vectors, strict=True))
            for part in now.parts:
                for each, vector in zip(part.ann.ids, part.ann.vectors(), strict=True):
                    if each not in part.deleted:
                        np.testing.assert_array_equal(vector, kept[each])
            everything, _ = now.search(vectors, len(live))
            nearest, scores = now.search(vectors, 10)
        for own, these, near, similar in zip(live, everything, nearest, scores, strict=True):
            assert len(these) == len(set(these))
            assert set(these) == live.keys()
            # product quantisers of 80 vectors tell few of them apart
            assert own in near or "PQ" in kind
            assert near == [each for _, each in sorted(zip(-similar, near, strict=True))]

    check()
    with DiPairIndex.open(path, lone_encoder) as index:
        index.add(corpus[80:90])
        live.update({passage.passage_id: passage for passage in corpus[80:90]})
        check()
        gone = list(live)[::3]
        index.delete(gone)
        for each in gone:
            del live[each]
        check()
        changed = [live[each]._replace(text="winter " + live[each].text) for each in list(live)[:9]]
        index.add(changed, update=True)
        for passage in changed:
            del live[passage.passage_id]
            live[passage.passage_id] = passage
        check()
        index.compact()
        check()
        index.add(corpus[90:])
        live.update({passage.passage_id: passage for passage in corpus[90:]})
        check()
        index.delete(list(live)[5:])
        live = dict(list(live.items())[:5])
        check()
        index.compact()
        check()
    assert list(verify_index(path)) == []
