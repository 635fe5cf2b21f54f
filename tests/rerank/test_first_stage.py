"""Candidates by words and by both, from an index that lives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.fusion import Fusion
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.names import FIRST_STAGES, LEXICAL_WEIGHT, FirstStage, FusionMethod
from dipair_index.stores.lexical import LexicalIndex, LexicalPart, build_lexical
from dipair_index.stores.verification import verify_index

pytest.importorskip("tantivy")

QUERY = "heat and light is to the moon"


@pytest.fixture(scope="module")
def lexical_dir(
    tmp_path_factory: pytest.TempPathFactory, encoder: DualEncoder, passages: list[Passage]
) -> Path:
    folder = tmp_path_factory.mktemp("lexical") / "i"
    DiPairIndex.build(passages, folder, model=encoder, lexical=True).close()
    return folder


@pytest.fixture
def index(lexical_dir: Path, encoder: DualEncoder) -> Iterator[DiPairIndex]:
    with DiPairIndex.open(lexical_dir, encoder) as opened:
        yield opened


def bm25(folder: Path, passages: list[Passage]) -> dict[str, float]:
    """BM25 in a new index of these passages alone, best first."""
    build_lexical(folder, [passages])
    ids = [passage.id for passage in passages]
    return dict(LexicalIndex([LexicalPart(folder, ids, ())]).search(QUERY, len(ids)))


def test_the_lexical_first_stage_is_bm25(
    tmp_path: Path, index: DiPairIndex, passages: list[Passage]
) -> None:
    expected = bm25(tmp_path / "words", passages)
    raw = index.search(QUERY, 99, rerank=False, raw_scores=True, first_stage="lexical")
    assert [(p.id, p.score) for p in raw] == [*expected.items()]
    assert [p.retrieval_rank for p in raw] == [*range(1, len(raw) + 1)]
    assert raw.timings.encode == 0
    shown = index.search(QUERY, 99, rerank=False, first_stage="lexical")
    assert [p.score for p in shown] == pytest.approx([s / (1 + s) for s in expected.values()])


def test_the_head_orders_what_the_words_found(index: DiPairIndex) -> None:
    found = index.search(QUERY, 5, candidates=8, first_stage="lexical", raw_scores=True)
    words = index.search(QUERY, 8, rerank=False, raw_scores=True, first_stage="lexical")
    by_head = index.rerank(QUERY, [p.id for p in words], 5, raw_scores=True)
    assert [p.id for p in found] == [p.id for p in by_head]
    assert [p.score for p in found] == pytest.approx([p.score for p in by_head], abs=1e-5)
    before = {p.id: (p.rank, p.score) for p in words}
    assert {p.id: (p.retrieval_rank, p.retrieval_score) for p in found}.items() <= before.items()
    assert index.search("zzz ???", first_stage="lexical") == []


@pytest.mark.parametrize("method", [None, "rrf", "weighted"])
def test_both_is_the_fusion_of_vectors_and_words(
    index: DiPairIndex, method: FusionMethod | None
) -> None:
    vectors, words = (
        {
            p.id: p.score
            for p in index.search(QUERY, 6, rerank=False, raw_scores=True, first_stage=stage)
        }
        for stage in FIRST_STAGES[:2]
    )
    fused = Fusion("rrf" if method == "rrf" else "weighted", LEXICAL_WEIGHT).scores(vectors, words)
    order = sorted(fused, key=lambda passage_id: (-fused[passage_id], passage_id))[:6]
    found = index.search(QUERY, 6, rerank=False, first_stage="both", fusion=method)
    assert [p.id for p in found] == order
    assert [p.score for p in found] == pytest.approx([fused[each] for each in order], abs=1e-6)

    reranked = index.search(QUERY, 6, candidates=6, first_stage="both", fusion=method)
    assert {p.id for p in reranked} == set(order)
    assert {p.retrieval_rank for p in reranked} == {*range(1, 7)}


@pytest.mark.parametrize("stage", ["lexical", "both"])
def test_a_filter_holds_for_words(
    index: DiPairIndex, passages: list[Passage], stage: FirstStage
) -> None:
    fulfilling = {passage.id for passage in passages if passage.metadata.get("column") == 0}
    everything = index.search(QUERY, 99, rerank=False, raw_scores=True, first_stage="lexical")
    found = index.search(
        QUERY, 2, rerank=False, raw_scores=True, first_stage=stage, filter={"column": 0}
    )
    assert {p.id for p in found} <= fulfilling
    if stage == "lexical":
        assert [p.id for p in found] == [p.id for p in everything if p.id in fulfilling][:2]


def test_words_follow_the_life_of_the_index(
    quick_path: Path, encoder: DualEncoder, passages: list[Passage]
) -> None:
    path = quick_path / "i"
    live = {passage.id: passage for passage in passages[:12]}

    def found(opened: DiPairIndex) -> dict[str, float]:
        best = opened.search(QUERY, 99, rerank=False, raw_scores=True, first_stage="lexical")
        return {p.id: p.score for p in best}

    with DiPairIndex.build(passages[:12], path, model=encoder, lexical=True) as index:
        index.add(passages[12:])
        live.update((passage.id, passage) for passage in passages[12:])
        assert found(index) == bm25(quick_path / "w", [*live.values()])
        index.delete(["p01", "p14"])
        changed = passages[4]._replace(text="heat and the moon")
        index.add([changed, Passage("new", "lava to the moon")], update=True)
        with DiPairIndex.open(path, encoder) as reader:
            before = found(reader)
            assert "new" in before
            assert not {"p01", "p14"} & before.keys()
            index.compact()
            # its parts have gone, but not for one that reads them
            assert found(reader) == before
        del live["p01"], live["p14"], live["p04"]
        live.update(p04=changed, new=Passage("new", "lava to the moon"))
        now = found(index)
        expected = bm25(quick_path / "w", [*live.values()])
        assert now == expected
        assert set(now) == set(before)
    assert list(verify_index(path)) == []
    damaged = next(path.glob("parts/*/lexical/*.idx"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert str(damaged) in next(verify_index(path))


def test_what_cannot_be_is_refused(
    index: DiPairIndex, index_dir: Path, encoder: DualEncoder
) -> None:
    with pytest.raises(SettingsError, match="first_stage must be one of 'vectors', 'lexical', 'bo"):
        index.search(QUERY, first_stage="words")
    for options in ({"first_stage": "both", "weight": 0.5}, {"first_stage": "lexical"}):
        with pytest.raises(SettingsError, match="leave out rerank=False or fusion"):
            index.search(QUERY, rerank=False, fusion="weighted", **options)
    with (
        DiPairIndex.open(index_dir, encoder) as without,
        pytest.raises(DirectoryError, match="was built without --lexical"),
    ):
        without.search(QUERY, first_stage="lexical")
