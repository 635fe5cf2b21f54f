"""FaissIndex against ExactIndex, and what happens to bad input and bad files."""

import json
from pathlib import Path

import numpy as np
import pytest

from dipair_index.errors import IndexDirectoryError, SettingsError, StoreError
from dipair_index.records import FloatArray
from dipair_index.stores.ann import AnnInfo, ExactIndex, FaissIndex, VectorSource

DIM = 24
SOURCE = VectorSource("use", "abc123", "3-0f")


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
def test_flat_finds_the_same_ids_and_scores_as_numpy(kind: str, queries: int) -> None:
    vectors, asked = clustered(2000, queries)
    ids, scores = FaissIndex.build(ids_of(2000), vectors, kind=kind).search(asked, 20)
    exact_ids, exact_scores = ExactIndex(ids_of(2000), vectors).search(asked, 20)
    assert ids == exact_ids
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact_scores, atol=1e-6)


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.98), ("ivf", 0.9), ("IVF16,Flat", 0.9)])
def test_approximate_kinds_find_most_and_score_truly(kind: str, least: float) -> None:
    vectors, asked = clustered(4000, 60)
    ids, scores = FaissIndex.build(ids_of(4000), vectors, kind=kind).search(asked, 10)
    exact_ids, _ = ExactIndex(ids_of(4000), vectors).search(asked, 10)
    assert recall(ids, exact_ids) >= least
    by_id = dict(zip(ids_of(4000), vectors, strict=True))
    for query in range(60):
        true = [float(asked[query] @ by_id[each]) for each in ids[query]]
        np.testing.assert_allclose(scores[query], true, atol=1e-6)
        assert true == sorted(true, reverse=True)


@pytest.mark.parametrize("top_k", [1, 3, 7, 40])
@pytest.mark.parametrize("queries", [1, 30])
def test_ties_are_broken_by_id_also_where_they_cross_the_end(top_k: int, queries: int) -> None:
    vectors, asked = clustered(8, queries)
    vectors = np.tile(vectors, (5, 1))
    exact_ids, exact_scores = ExactIndex(ids_of(40), vectors).search(asked, top_k)
    ids, scores = FaissIndex.build(ids_of(40), vectors).search(asked, top_k)
    assert ids == exact_ids
    np.testing.assert_allclose(scores, exact_scores, atol=1e-6)


def test_ties_by_hand() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    for index in (
        FaissIndex.build(["b", "z", "c", "a"], vectors),
        ExactIndex(["b", "z", "c", "a"], vectors),
    ):
        ids, scores = index.search(np.array([[1, 0]], np.float32), 2)
        assert ids == [["a", "b"]]
        assert scores.tolist() == [[1, 1]]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_top_k_may_be_larger_than_the_index(kind: str) -> None:
    vectors, asked = clustered(5, 3)
    ids, scores = FaissIndex.build(ids_of(5), vectors, kind=kind).search(asked, 100)
    assert ids == ExactIndex(ids_of(5), vectors).search(asked, 100)[0]
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
    with pytest.raises(SettingsError, match="passage id 'p1' is given twice"):
        FaissIndex.build(["p1", *ids_of(29)], vectors)
    with pytest.raises(SettingsError, match=r"for 29 ids, got \(30, 24\)"):
        FaissIndex.build(ids_of(29), vectors)
    with pytest.raises(SettingsError, match="must be finite"):
        FaissIndex.build(ids_of(30), vectors * np.nan)
    with pytest.raises(SettingsError, match="needs vectors"):
        FaissIndex.build([], np.zeros((0, DIM), np.float32))
    with pytest.raises(StoreError, match="a passage id is empty"):
        FaissIndex.build(["", *ids_of(29)], vectors)
    for index in (FaissIndex.build(ids_of(30), vectors), ExactIndex(ids_of(30), vectors)):
        with pytest.raises(SettingsError, match="top_k must be 1 or more, got 0"):
            index.search(asked, 0)
        with pytest.raises(SettingsError, match="must have the index's 24 numbers, got 3"):
            index.search(np.ones((1, 3), np.float32), 1)
        with pytest.raises(SettingsError, match=r"must be \(ids, dim\)"):
            index.search(asked[0], 1)


def test_a_compressed_kind_gives_vectors_back_as_it_kept_them() -> None:
    vectors, _ = clustered(300, 1)
    index = FaissIndex.build(ids_of(300), vectors, kind="SQ8")
    np.testing.assert_allclose(index.vectors(), vectors, atol=0.01)


def saved(folder: Path) -> Path:
    vectors, _ = clustered(50, 1)
    FaissIndex.build(ids_of(50), vectors).save(folder)
    return folder


def test_damaged_folders_are_told_from_absent_and_newer_ones(tmp_path: Path) -> None:
    with pytest.raises(IndexDirectoryError, match=r"no ANN index in .*: no ann\.json"):
        FaissIndex.load(tmp_path)
    for damage in ("{", "[]", '{"format_version": 1}', "\udcff"):
        folder = saved(tmp_path / "a")
        (folder / "ann.json").write_text(damage, "utf-8", "surrogateescape")
        with pytest.raises(IndexDirectoryError, match=r"ann\.json is damaged .*build it again"):
            FaissIndex.load(folder)
    (folder / "ann.json").write_text('{"format_version": 2}')
    with pytest.raises(IndexDirectoryError, match="has format version 2, this version reads 1"):
        FaissIndex.load(folder)


def test_a_damaged_faiss_file_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path / "a") / "index.faiss"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(StoreError, match=r"index\.faiss is cut short"):
        FaissIndex.load(tmp_path / "a")
    file.write_bytes(b"junk" + whole[4:])
    with pytest.raises(StoreError, match=r"index\.faiss is damaged \(.*not recognized"):
        FaissIndex.load(tmp_path / "a")
    file.unlink()
    with pytest.raises(StoreError, match=r"index\.faiss is cut short"):
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
    info = json.loads((folder / "ann.json").read_text())
    (folder / "ann.json").write_text(json.dumps({**info, "count": 49}))
    with pytest.raises(StoreError, match=r"50 ids and 50 vectors of 24, but ann\.json says 49 of"):
        FaissIndex.load(folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    vectors, _ = clustered(5, 1)
    with pytest.raises(StoreError, match=r"cannot write the ANN index to .*file/ann"):
        FaissIndex.build(ids_of(5), vectors).save(tmp_path / "file" / "ann")
