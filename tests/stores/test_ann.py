"""FaissIndex against an exact search, and what happens to bad input and bad files."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from dipair_index.errors import DirectoryError, FormatError, SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.ann import FaissIndex
from dipair_index.stores.ann_info import AnnInfo, VectorSource
from dipair_index.stores.faiss_kinds import check_kind

DIM = 24
SOURCE = VectorSource("use", "abc123", "3-0f")
Exact = Callable[..., tuple[list[list[str]], FloatArray]]


def unit(vectors: np.ndarray) -> FloatArray:  # type: ignore[type-arg]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def clustered(count: int, queries: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Passages in 30 clusters, and queries near some of the passages."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, DIM))
    vectors = centres[rng.integers(0, 30, count)] + 0.5 * rng.normal(size=(count, DIM))
    asked = vectors[rng.integers(0, count, queries)] + 0.3 * rng.normal(size=(queries, DIM))
    return unit(vectors), unit(asked)


def ids_of(count: int) -> list[str]:
    # not in the order of the rows, and "p10" before "p9"
    return [f"p{number}" for number in reversed(range(count))]


def recall(got: list[list[str]], expected: list[list[str]]) -> float:
    pairs = zip(got, expected, strict=True)
    return float(np.mean([len({*one} & {*other}) / len(other) for one, other in pairs]))


@pytest.mark.parametrize("kind", ["flat", "Flat"])
@pytest.mark.parametrize("queries", [1, 50])
def test_flat_finds_the_same_ids_and_scores_as_numpy(exact: Exact, kind: str, queries: int) -> None:
    vectors, asked = clustered(2000, queries)
    ids, scores = FaissIndex.build(ids_of(2000), vectors, kind=kind).search(asked, 20)
    exact_ids, exact_scores = exact(ids_of(2000), vectors, asked, 20)
    assert ids == exact_ids
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact_scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.98), ("ivf", 0.9), ("IVF16,Flat", 0.9)])
def test_approximate_kinds_find_most_and_score_truly(exact: Exact, kind: str, least: float) -> None:
    vectors, asked = clustered(4000, 60)
    ids, scores = FaissIndex.build(ids_of(4000), vectors, kind=kind).search(asked, 10)
    exact_ids, _ = exact(ids_of(4000), vectors, asked, 10)
    assert recall(ids, exact_ids) >= least
    by_id = dict(zip(ids_of(4000), vectors, strict=True))
    for query in range(60):
        true = [float(asked[query] @ by_id[each]) for each in ids[query]]
        np.testing.assert_allclose(scores[query], true, rtol=0, atol=1e-6)
        assert true == sorted(true, reverse=True)


@pytest.mark.parametrize("top_k", [1, 3, 7, 40])
@pytest.mark.parametrize("queries", [1, 30])
def test_ties_are_broken_by_id_also_where_they_cross_the_end(
    exact: Exact, top_k: int, queries: int
) -> None:
    vectors, asked = clustered(8, queries)
    vectors = np.tile(vectors, (5, 1))
    exact_ids, exact_scores = exact(ids_of(40), vectors, asked, top_k)
    ids, scores = FaissIndex.build(ids_of(40), vectors).search(asked, top_k)
    assert ids == exact_ids
    np.testing.assert_allclose(scores, exact_scores, rtol=0, atol=1e-6)


@pytest.fixture(params=["FAISS decides", "BLAS", "no BLAS"])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How FAISS computes many products: by BLAS from so many queries on, which rounds by place."""
    if request.param != "FAISS decides":
        threshold = 1 if request.param == "BLAS" else 2**30
        monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", threshold)


def duplicates(queries: int) -> tuple[list[str], FloatArray, FloatArray]:
    """Eight vectors, each 40 times in no order, their ids in another one; and queries."""
    rng = np.random.default_rng(3)
    vectors, asked = clustered(8, queries)
    ids = [f"p{number:03}" for number in rng.permutation(320)]
    return ids, np.tile(vectors, (40, 1))[rng.permutation(320)], asked


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("kind", ["flat", "SQ8", "IVF1,Flat"])
@pytest.mark.parametrize("top_k", [1, 39, 40, 41, 150])
def test_of_equal_vectors_those_with_the_smallest_ids_are_found(
    exact: Exact, kind: str, top_k: int
) -> None:
    ids, vectors, asked = duplicates(30)
    expected_ids, expected_scores = exact(ids, vectors, asked, top_k)
    index = FaissIndex.build(ids, vectors, kind=kind)
    found, scores = index.search(asked, top_k)
    assert found == expected_ids
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-6)
    deleted = frozenset(ids[:100])
    left = np.flatnonzero([each not in deleted for each in ids])
    expected_ids, _ = exact([ids[row] for row in left], vectors[left], asked, top_k)
    assert index.search(asked, top_k, deleted=deleted)[0] == expected_ids


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "PQ4x4", "IVF8,PQ4x4", "OPQ4,PQ4x4", "HNSW16,SQ8"])
def test_whatever_kind_finds_equal_vectors_gives_them_equal_scores_by_id(kind: str) -> None:
    ids, vectors, asked = duplicates(30)
    vector_of = dict(zip(ids, vectors, strict=True))
    found, scores = FaissIndex.build(ids, vectors, kind=kind).search(asked, 60)
    for query, names in enumerate(found):
        their = scores[query, : len(names)]
        assert list(zip(-their, names, strict=True)) == sorted(zip(-their, names, strict=True))
        same = [np.array_equal(vector_of[a], vector_of[b]) for a, b in itertools.pairwise(names)]
        assert same == (their[1:] == their[:-1]).tolist()


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "SQ8", "IVF8,PQ4x4", "PCA16,Flat"])
def test_a_query_finds_the_same_alone_as_in_a_batch(kind: str) -> None:
    vectors, asked = clustered(700, 40)
    index = FaissIndex.build(ids_of(700), vectors, kind=kind)
    ids, scores = index.search(asked, 20)
    for query in range(40):
        their_ids, their_scores = index.search(asked[query : query + 1], 20)
        assert their_ids == [ids[query]]
        np.testing.assert_allclose(their_scores[0], scores[query], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_threads_that_search_at_once_do_not_disturb_each_other(kind: str) -> None:
    vectors, asked = clustered(700, 40)
    index = FaissIndex.build(ids_of(700), vectors, kind=kind)
    expected = index.search(asked, 20)
    before = faiss.omp_get_max_threads()
    with ThreadPoolExecutor(4) as pool:
        for ids, scores in pool.map(lambda size: index.search(asked[:size], 20), [40, 1, 7] * 8):
            assert ids == expected[0][: len(ids)]
            np.testing.assert_allclose(scores, expected[1][: len(ids)], rtol=0, atol=1e-6)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_forked_child_searches_after_its_parent_has(kind: str) -> None:
    """Threads do not survive a fork: whoever waits for them waits for ever."""
    program = f"""
import os, signal
import numpy as np
from dipair_index.stores.faiss_kinds import check_kind
from dipair_index.stores.ann import FaissIndex
vectors = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
index = FaissIndex.build([str(row) for row in range(400)], vectors, kind={kind!r})
expected = index.search(vectors[:50], 3)[0]
if child := os.fork():
    status = os.waitpid(child, 0)[1]
    raise SystemExit(os.waitstatus_to_exitcode(status))
signal.alarm(60)
os._exit(index.search(vectors[:50], 3)[0] != expected)
"""
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", program], check=True, env=threads)


def test_ties_by_hand(exact: Exact) -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    asked = np.array([[1, 0]], np.float32)
    names = ["b", "z", "c", "a"]
    for ids, scores in (
        FaissIndex.build(names, vectors).search(asked, 2),
        exact(names, vectors, asked, 2),
    ):
        assert ids == [["a", "b"]]
        assert scores.tolist() == [[1, 1]]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_top_k_may_be_larger_than_the_index(exact: Exact, kind: str) -> None:
    vectors, asked = clustered(5, 3)
    ids, scores = FaissIndex.build(ids_of(5), vectors, kind=kind).search(asked, 100)
    assert ids == exact(ids_of(5), vectors, asked, 100)[0]
    assert scores.shape == (3, 5)


def test_ivf_that_finds_fewer_has_shorter_lists_and_scores_of_minus_infinity() -> None:
    vectors, asked = clustered(4000, 5)
    ids, scores = FaissIndex.build(ids_of(4000), vectors, kind="IVF64,Flat").search(asked, 3999)
    for found, row in zip(ids, scores, strict=True):
        assert 100 < len(found) == len(set(found)) < 3999
        assert np.isfinite(row[: len(found)]).all()
        assert (row[len(found) :] == -np.inf).all()


def test_no_queries_is_fine() -> None:
    vectors, _ = clustered(5, 1)
    ids, scores = FaissIndex.build(ids_of(5), vectors).search(np.zeros((0, DIM), np.float32), 3)
    assert ids == []
    assert scores.shape == (0, 3)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, kind: str) -> None:
    vectors, asked = clustered(900, 4)
    ids = [*ids_of(899), "ü\nx"]
    built = FaissIndex.build(ids, vectors, kind=kind, source=SOURCE)
    built.save(tmp_path / "ann")
    built.save(tmp_path / "ann")
    loaded = FaissIndex.load(tmp_path / "ann")
    loaded.save(tmp_path / "ann")
    assert list(loaded.ids) == ids
    assert (loaded.kind, loaded.dim, len(loaded), loaded.source) == (kind, DIM, 900, SOURCE)
    np.testing.assert_array_equal(loaded.vectors(), vectors)
    expected_ids, expected_scores = built.search(asked, 10)
    got_ids, got_scores = loaded.search(asked, 10)
    assert got_ids == expected_ids
    np.testing.assert_array_equal(got_scores, expected_scores)
    info = AnnInfo.read(tmp_path / "ann")
    assert (info.kind, info.count, info.dim, info.source) == (kind, 900, DIM, SOURCE)
    assert json.loads((tmp_path / "ann" / "ann.json").read_text())["source"]["embedder"] == "use"


def test_same_seed_same_ivf() -> None:
    vectors, asked = clustered(900, 20)
    first, again = (
        FaissIndex.build(ids_of(900), vectors, kind="ivf", seed=3).search(asked, 10)[0]
        for _ in range(2)
    )
    assert first == again


def test_bad_settings_are_refused() -> None:
    vectors, asked = clustered(30, 1)
    with pytest.raises(SettingsError, match=r"cannot make an index 'Flatt': choose flat, hnsw"):
        FaissIndex.build(ids_of(30), vectors, kind="Flatt")
    with pytest.raises(SettingsError, match=r"cannot make an index 'LSH'"):
        FaissIndex.build(ids_of(30), vectors, kind="LSH")
    with pytest.raises(SettingsError, match="ivf needs at least 39 vectors to train, got 30: use"):
        FaissIndex.build(ids_of(30), vectors, kind="ivf")
    with pytest.raises(SettingsError, match=r"cannot build 'IVF100,Flat' from 30 vectors \(.*100"):
        FaissIndex.build(ids_of(30), vectors, kind="IVF100,Flat")
    with pytest.raises(FormatError, match="passage id 'p1' is given twice"):
        FaissIndex.build(["p1", *ids_of(29)], vectors)
    with pytest.raises(SettingsError, match=r"for 29 ids, got \(30, 24\)"):
        FaissIndex.build(ids_of(29), vectors)
    with pytest.raises(SettingsError, match="must be finite"):
        FaissIndex.build(ids_of(30), vectors * np.nan)
    with pytest.raises(SettingsError, match="needs vectors"):
        FaissIndex.build([], np.zeros((0, DIM), np.float32))
    with pytest.raises(StoreError, match="a passage id is empty"):
        FaissIndex.build(["", *ids_of(29)], vectors)
    index = FaissIndex.build(ids_of(30), vectors)
    with pytest.raises(SettingsError, match="top_k must be 1 or more, got 0"):
        index.search(asked, 0)
    with pytest.raises(SettingsError, match="must have the index's 24 dimensions, got 3"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(SettingsError, match=r"must be \(ids, dim\)"):
        index.search(asked[0], 1)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("IVF0,Flat", r"IVF0: lists must be from 1 to"),
        ("HNSW0", "HNSW0: neighbours must be from 2 to 512"),
        ("HNSW1,SQ8", "HNSW1: neighbours must be from 2 to 512"),
        ("NSG0", "NSG0: neighbours"),
        ("RR0,Flat", "RR0: numbers must be from 1 to"),
        ("PQ2x20", "x20: bits must be from 1 to 16"),
        ("IVF999999999,Flat", "IVF999999999: lists must be"),
        ("PCA64,Flat", "64 dimensions cannot be made of 24"),
        ("IDMap,Flat", "IDMap holds ids of its own"),
        ("Flat,IDMap2", "IDMap holds ids of its own"),
        ("BFlat", "could not parse"),
        ("PQ7", "cannot make an index 'PQ7'"),
        ("", "cannot make an index ''"),
        (",", "cannot make an index ','"),
    ],
)
def test_kinds_that_cannot_work_are_refused_before_any_work(kind: str, why: str) -> None:
    vectors, _ = clustered(30, 1)
    for work in (
        lambda: check_kind(kind, DIM),
        lambda: FaissIndex.build(ids_of(30), vectors, kind=kind),
    ):
        with pytest.raises(SettingsError, match=why):
            work()


@pytest.mark.parametrize(
    ("kind", "least"),
    [("OPQ4,PQ4x2", 256), ("OPQ4,IVF2,PQ4x2", 256), ("PCA16,Flat", 24), ("OPQ4,PQ4x2,RFlat", 256),
     ("IVF25,Flat", 25)],
)  # fmt: skip
def test_too_few_vectors_to_train_are_refused_before_faiss_fails(kind: str, least: int) -> None:
    """OPQ of fewer vectors than dimensions writes past its memory, and ends the process."""
    vectors, asked = clustered(least, 2)
    with pytest.raises(SettingsError, match=f"{least - 1} vectors .it takes {least} to train"):
        FaissIndex.build(ids_of(least - 1), vectors[1:], kind=kind)
    check_kind(kind, DIM)
    ids, _ = FaissIndex.build(ids_of(least), vectors, kind=kind).search(asked, 3)
    assert [len(found) for found in ids] == [3, 3]


def test_opq_of_fewer_vectors_than_dimensions_is_refused() -> None:
    vectors = np.random.default_rng(0).normal(size=(290, 300)).astype(np.float32)
    with pytest.raises(SettingsError, match="290 vectors .it takes 300 to train, one for each dim"):
        FaissIndex.build(ids_of(290), vectors, kind="OPQ4,IVF2,PQ4x4")


KINDS = ["flat", "hnsw", "ivf", "IVF4,Flat", "SQ8", "SQfp16", "PQ4x4", "IVF4,SQ8", "PCA16,Flat",
         "HNSW16,SQ8"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_vectors_back_as_they_were_given(tmp_path: Path, kind: str) -> None:
    vectors, _ = clustered(700, 1)
    built = FaissIndex.build(ids_of(700), vectors, kind=kind)
    np.testing.assert_array_equal(built.vectors(), vectors)
    built.save(tmp_path / "a")
    loaded = FaissIndex.load(tmp_path / "a")
    np.testing.assert_array_equal(loaded.vectors(), vectors)
    # as a merge of parts does
    again = FaissIndex.build(ids_of(690), loaded.vectors()[10:], kind=kind)
    np.testing.assert_array_equal(again.vectors(), vectors[10:])


def test_vectors_are_kept_beside_only_where_faiss_does_not_keep_them(tmp_path: Path) -> None:
    vectors, _ = clustered(50, 1)
    for kind, beside in (("SQ8", True), ("flat", False)):
        FaissIndex.build(ids_of(50), vectors, kind=kind).save(tmp_path / "a")
        assert (tmp_path / "a" / "vectors.npy").exists() == beside
        np.testing.assert_array_equal(FaissIndex.load(tmp_path / "a").vectors(), vectors)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "SQ8"])
def test_a_loaded_index_can_be_saved_over_itself_and_over_another_that_is_read(
    tmp_path: Path, kind: str
) -> None:
    """It is read through a memory map: writing into the mapped file would end the process."""
    vectors, asked = clustered(300, 5)
    FaissIndex.build(ids_of(300), vectors, kind=kind).save(tmp_path / "a")
    loaded = FaissIndex.load(tmp_path / "a")
    expected = loaded.search(asked, 10)
    loaded.save(tmp_path / "a")
    FaissIndex.build(ids_of(40), vectors[:40], kind="SQ8").save(tmp_path / "a")
    found = loaded.search(asked, 10)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(loaded.vectors(), vectors)
    assert len(FaissIndex.load(tmp_path / "a")) == 40


def test_a_save_does_not_write_into_files_that_another_index_shares(tmp_path: Path) -> None:
    vectors, _ = clustered(50, 1)
    FaissIndex.build(ids_of(50), vectors, kind="SQ8").save(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a").iterdir():
        os.link(file, tmp_path / "b" / file.name)
    FaissIndex.build(ids_of(50), -vectors, kind="SQ8").save(tmp_path / "b")
    np.testing.assert_array_equal(FaissIndex.load(tmp_path / "a").vectors(), vectors)
    np.testing.assert_array_equal(FaissIndex.load(tmp_path / "b").vectors(), -vectors)


@pytest.mark.parametrize("top_k", [1, 5, 30, 200])
@pytest.mark.parametrize("gone", [1, 50, 149, 150])
def test_flat_without_the_deleted_ones_is_as_if_they_had_never_been(
    exact: Exact, top_k: int, gone: int
) -> None:
    vectors, asked = clustered(150, 25)
    # the nearest of the first query go first, and each vector is there three times
    vectors = np.tile(vectors[:50], (3, 1))
    index = FaissIndex.build(ids_of(150), vectors)
    deleted = frozenset(index.search(asked[:1], 150)[0][0][:gone])
    left = [row for row, each in enumerate(ids_of(150)) if each not in deleted]
    ids, scores = index.search(asked, top_k, deleted=deleted)
    assert scores.shape == (25, min(top_k, 150 - gone))
    if left:
        kept = [ids_of(150)[row] for row in left]
        exact_ids, exact_scores = exact(kept, vectors[left], asked, top_k)
        assert ids == exact_ids
        np.testing.assert_allclose(scores, exact_scores, rtol=0, atol=1e-6)
    else:
        assert ids == [[]] * 25


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "SQ8", "IVF8,PQ4x4"])
@pytest.mark.parametrize("gone", [10, 600, 695, 700])
def test_no_kind_ever_finds_what_is_deleted_and_each_fills_up_from_behind(
    kind: str, gone: int
) -> None:
    vectors, asked = clustered(700, 8)
    index = FaissIndex.build(ids_of(700), vectors, kind=kind)
    nearest = index.search(asked[:1], 700)[0][0]
    rest = [each for each in ids_of(700) if each not in nearest]
    deleted = frozenset([*nearest, *rest][:gone])
    ids, scores = index.search(asked, 20, deleted=deleted)
    assert scores.shape == (8, min(20, 700 - gone))
    for found, row in zip(ids, scores, strict=True):
        assert not deleted.intersection(found)
        assert len(set(found)) == len(found)
        assert np.isfinite(row[: len(found)]).all()
        assert (row[len(found) :] == -np.inf).all()
    if kind in ("hnsw", "SQ8"):
        # these look at all there is, where need be
        assert {len(found) for found in ids} == {min(20, 700 - gone)}


def saved(folder: Path) -> Path:
    vectors, _ = clustered(50, 1)
    FaissIndex.build(ids_of(50), vectors).save(folder)
    return folder


def test_damaged_folders_are_told_from_absent_and_newer_ones(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match=r"no ANN index in .*: no ann\.json"):
        FaissIndex.load(tmp_path)
    for damage in ("{", "[]", '{"format_version": 1}', "\udcff"):
        folder = saved(tmp_path / "a")
        (folder / "ann.json").write_text(damage, "utf-8", "surrogateescape")
        with pytest.raises(DirectoryError, match=r"ann\.json is damaged .*build it again"):
            FaissIndex.load(folder)
    (folder / "ann.json").write_text('{"format_version": 2}')
    with pytest.raises(DirectoryError, match="has format version 2, this version reads 1"):
        FaissIndex.load(folder)


def test_a_damaged_faiss_file_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path / "a") / "index.faiss"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(StoreError, match=r"index\.faiss does not have the size"):
        FaissIndex.load(tmp_path / "a")
    file.write_bytes(b"junk" + whole[4:])
    with pytest.raises(StoreError, match=r"index\.faiss is damaged \(.*not recognized"):
        FaissIndex.load(tmp_path / "a")
    file.unlink()
    with pytest.raises(StoreError, match=r"index\.faiss does not have the size"):
        FaissIndex.load(tmp_path / "a")


def test_damaged_ids_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    np.save(folder / "id_ends.npy", np.array([1, 2]))
    with pytest.raises(StoreError, match=r"the ids in .* are damaged"):
        FaissIndex.load(folder)
    (folder / "id_ends.npy").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot read the ids in"):
        FaissIndex.load(folder)
    folder = saved(tmp_path / "a")
    np.save(folder / "vectors.npy", np.zeros((49, DIM), np.float32))
    with pytest.raises(StoreError, match=r"vectors\.npy is damaged \(\(49, 24\), not \(50, 24\)\)"):
        FaissIndex.load(folder)
    (folder / "vectors.npy").write_bytes(b"")
    with pytest.raises(StoreError, match=r"vectors\.npy is damaged \(.*build it again"):
        FaissIndex.load(folder)
    folder = saved(tmp_path / "a")
    info = json.loads((folder / "ann.json").read_text())
    (folder / "ann.json").write_text(json.dumps({**info, "count": 49}))
    with pytest.raises(StoreError, match=r"50 ids and 50 vectors of 24 dimensions, but"):
        FaissIndex.load(folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    vectors, _ = clustered(5, 1)
    with pytest.raises(StoreError, match=r"cannot write the ANN index to .*file/ann"):
        FaissIndex.build(ids_of(5), vectors).save(tmp_path / "file" / "ann")


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "SQ8", "PCA16,Flat"])
def test_a_filter_of_few_is_exact_for_every_kind(exact: Exact, kind: str, queries: int) -> None:
    """Among them kinds that would look at a few of the lists, where none of the few may be."""
    vectors, asked = clustered(2000, queries)
    ids = ids_of(2000)
    index = FaissIndex.build(ids, vectors, kind=kind)
    few = set(ids[::97])
    deleted = frozenset([ids[0], ids[1]])
    left = [row for row, each in enumerate(ids) if each in few - deleted]
    judged: list[str] = []

    def accepts(names: list[str]) -> list[bool]:
        judged.extend(names)
        return [each in few for each in names]

    found, scores = index.search(asked, 40, deleted=deleted, accepts=accepts)
    expected_ids, expected_scores = exact([ids[row] for row in left], vectors[left], asked, 40)
    assert found == expected_ids
    np.testing.assert_allclose(scores[:, : len(left)], expected_scores, rtol=0, atol=1e-6)
    assert (scores[:, len(left) :] == -np.inf).all()
    assert not deleted & set(judged)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_a_filter_of_many_fills_top_k(kind: str) -> None:
    vectors, asked = clustered(2000, 20)
    index = FaissIndex.build(ids_of(2000), vectors, kind=kind)
    every_third = set(ids_of(2000)[::3])
    found, _ = index.search(
        asked, 50, accepts=lambda names: [each in every_third for each in names]
    )
    for names in found:
        assert len(set(names)) == 50
        assert set(names) <= every_third
