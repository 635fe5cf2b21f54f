"""Judged pairs, mined negatives and a transfer set, on a toy collection and an exact embedder."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dipair_index.data.dataset import Dataset
from dipair_index.data.directory import begin, finish
from dipair_index.data.equal_texts import plain_text
from dipair_index.data.mined_dataset import build_dataset
from dipair_index.data.mining import (
    DatasetSettings,
)
from dipair_index.digests import short_digest
from dipair_index.errors import DirectoryError, FormatError, SettingsError
from dipair_index.formats.beir import BeirFiles
from dipair_index.formats.msmarco import MsMarcoFiles
from dipair_index.formats.tables import read_table
from dipair_index.records import FloatArray

TOPICS = ["tea", "ice", "bread", "rope", "moss", "lamp", "coal", "fern"]
WORDS = ["hot", "cold", "old", "new", "wet", "dry", "red", "blue", "thin", "wide"]


class BagOfWords:
    """Counts words: texts that share words are alike."""

    name = "bag"
    fingerprint = "ba9"
    dim = 24
    truncated = 0

    def __init__(self) -> None:
        self.embedded = 0

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        self.embedded += len(texts)
        vectors = np.full((len(texts), self.dim), 0.05, np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                known = [*TOPICS, *WORDS]
                vectors[row, known.index(word) if word in known else -1] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    embed_passages = embed_queries


class NumpyIndex:
    """Keeps vectors in the folder `ann`, and searches all of them."""

    kind = "flat"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.searched = 0

    def reuse(self, key: Any) -> bool:
        note = self.folder / "key.json"
        return note.is_file() and json.loads(note.read_text()) == key

    def build(self, ids: Sequence[str], vectors: FloatArray, key: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        np.save(self.folder / "vectors.npy", vectors)
        (self.folder / "ids.txt").write_text("\n".join(ids))
        (self.folder / "key.json").write_text(json.dumps(key))

    def open(self) -> "NumpyIndex":
        return self

    def search(self, vectors: FloatArray, top_k: int) -> tuple[list[list[str]], FloatArray]:
        self.searched += len(vectors)
        ids = np.array((self.folder / "ids.txt").read_text().split("\n"))
        # no product of BLAS: there, equal passages have unequal scores
        scores = np.einsum("qd,nd->qn", vectors, np.load(self.folder / "vectors.npy"))
        order = np.array([np.lexsort((ids, -row))[:top_k] for row in scores])
        return [ids[row].tolist() for row in order], np.take_along_axis(scores, order, 1)


@contextmanager
def silent(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """8 topics with 10 passages each; a query asks for topic and word, one passage has both."""
    folder = tmp_path / "msmarco"
    folder.mkdir()
    passages = [f"{topic}-{word}\t{topic} {topic} {word}" for topic in TOPICS for word in WORDS]
    (folder / "collection.tsv").write_text("\n".join(passages))
    for split, words in (("train", WORDS[:6]), ("dev", WORDS[6:])):
        asked = [(f"{topic}?{word}", topic, word) for topic in TOPICS for word in words]
        lines = "".join(f"{query_id}\twhich {topic} is {word}\n" for query_id, topic, word in asked)
        (folder / f"queries.{split}.tsv").write_text(lines)
        lines = "".join(
            f"{query_id}\t0\t{topic}-{word}\t3\n{query_id}\t0\t{topic}-old\t0\n"
            for query_id, topic, word in asked
            if word != "old"
        )
        (folder / f"qrels.{split}.tsv").write_text(lines)
    return folder


def make(
    folder: Path,
    out: Path,
    settings: DatasetSettings | None = None,
    *,
    embedder: BagOfWords | None = None,
    unlabelled: Sequence[Path] = (),
    overwrite: bool = False,
) -> tuple[dict[str, Any], NumpyIndex]:
    layout = begin(out, overwrite=overwrite)
    index = NumpyIndex(layout.ann)
    record = build_dataset(
        MsMarcoFiles.find(folder),
        layout,
        embedder or BagOfWords(),
        index,
        settings or DatasetSettings(max_score=0.9, top_k_negatives=8, transfer_top_k=5),
        progress=silent,
        unlabelled=unlabelled,
    )
    finish(layout, out)
    return record, index


def rows(path: Path) -> list[dict[str, Any]]:
    return list(read_table(path).to_pylist())


def content(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# ==== What is in it ====


def test_pairs_are_judged_positives_and_as_many_mined_negatives(folder: Path, tmp_path) -> None:
    record, _ = make(folder, tmp_path / "out")
    splits = {row["query_id"]: row["split"] for row in rows(tmp_path / "out" / "queries.parquet")}
    bag = BagOfWords()
    for split, queries in (("train", 40), ("valid", 16), ("test", 16)):
        pairs = rows(tmp_path / "out" / f"{split}.parquet")
        assert len(pairs) == 2 * queries == record["table"][split]["pairs"]
        for positive, negative in zip(pairs[::2], pairs[1::2], strict=True):
            query_id = positive["query_id"]
            assert negative["query_id"] == query_id
            assert splits[query_id] == split
            topic, word = query_id.split("?")
            assert (positive["passage_id"], positive["label"]) == (f"{topic}-{word}", 1.0)
            assert negative["label"] == 0.0
            assert negative["passage_id"] != positive["passage_id"]
            assert negative["score"] < 0.9
            for pair in (positive, negative):
                vectors = bag.embed_queries(
                    [
                        f"which {topic} is {word}",
                        "{0} {0} {1}".format(*pair["passage_id"].split("-")),
                    ]
                )
                assert pair["score"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-6)


def test_the_transfer_set_holds_the_nearest_passages_of_queries_not_held_out(
    folder: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more.tsv"
    more.write_text("u1\tmoss rope\nfern?old\twhich fern is old\nu2\tWhich  TEA is red\nu3\tcoal\n")
    record, _ = make(folder, tmp_path / "out", unlabelled=[more])
    pairs = rows(tmp_path / "out" / "transfer.parquet")
    by_query: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        by_query.setdefault(pair["query_id"], []).append(pair)
    train = {f"{topic}?{word}" for topic in TOPICS for word in WORDS[:6]}  # judged or not
    assert set(by_query) == train | {"u1", "u3"}  # u2 is a held-out query in other letters
    for found in by_query.values():
        assert [pair["rank"] for pair in found] == [1, 2, 3, 4, 5]
        assert all(one["score"] >= other["score"] for one, other in pairwise(found))
    assert by_query["tea?hot"][0]["passage_id"] == "tea-hot"
    assert record["left_out"] == {
        "dev queries without a positive": 0,
        "unlabelled queries already there": 1,
        "unlabelled queries that are held out": 1,
    }
    assert record["table"]["transfer"]["unlabelled_queries"] == 2


def test_dataset_json_counts_in_the_shape_of_table_1(folder: Path, tmp_path: Path) -> None:
    record, _ = make(folder, tmp_path / "out")
    assert Dataset.open(tmp_path / "out").record == record
    train = record["table"]["train"]
    pairs = rows(tmp_path / "out" / "train.parquet")
    auc = roc_auc_score([pair["label"] for pair in pairs], [pair["score"] for pair in pairs])
    assert train["miner_auc"] == pytest.approx(auc, abs=1e-4)
    assert (train["positives"], train["negatives_missing"], train["queries"]) == (40, 0, 40)
    assert (train["mean_passage_words"], train["mean_query_words"]) == (3.0, 4.0)
    assert record["table"]["transfer"]["pairs"] == 48 * 5
    assert record["passages"] == 80
    assert record["parameters"] == {
        "max_score": 0.9,
        "max_score_percentile": None,
        "top_k_negatives": 8,
        "transfer_top_k": 5,
        "seed": 0,
    }


def test_without_dev_files_held_out_queries_come_from_train(folder: Path, tmp_path: Path) -> None:
    for name in ("queries.dev.tsv", "qrels.dev.tsv"):
        (folder / name).unlink()
    record, _ = make(folder, tmp_path / "out")
    assert [record["table"][split]["queries"] for split in ("train", "valid", "test")] == [36, 2, 2]
    held_out = {row["query_id"] for split in ("valid", "test")
                for row in rows(tmp_path / "out" / f"{split}.parquet")}  # fmt: skip
    transfer = {row["query_id"] for row in rows(tmp_path / "out" / "transfer.parquet")}
    assert not held_out & transfer
    assert len(transfer) == 48 - 4


def test_too_few_candidates_are_counted(folder: Path, tmp_path: Path) -> None:
    record, _ = make(folder, tmp_path / "out", DatasetSettings(max_score=-1.0))
    train = record["table"]["train"]
    assert (train["pairs"], train["positives"], train["negatives_missing"]) == (40, 40, 40)
    assert (train["miner_auc"], train["share_below_threshold"]) == (None, 0.0)


class UnequalWords(BagOfWords):
    """Gives every word a weight of its own, so that no two scores are equal."""

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        weighted = super().embed_queries(texts) * np.sqrt(np.arange(1, self.dim + 1))
        return np.float32(weighted / np.linalg.norm(weighted, axis=1, keepdims=True))

    embed_passages = embed_queries


def test_a_percentile_keeps_that_share_of_the_candidates(folder: Path, tmp_path: Path) -> None:
    quarter = DatasetSettings(max_score_percentile=25, top_k_negatives=30)
    record, _ = make(folder, tmp_path / "out", quarter, embedder=UnequalWords())
    train = record["table"]["train"]
    # a few equal scores at the threshold may fall to either side
    assert train["share_below_threshold"] == pytest.approx(0.25, abs=0.01)
    assert record["parameters"]["max_score"] < 1
    everything, _ = make(folder, tmp_path / "all", DatasetSettings(max_score_percentile=100))
    assert everything["table"]["train"]["share_below_threshold"] == 1.0
    assert everything["parameters"]["max_score"] is None


class WordCounts(BagOfWords):
    """Counts alone, so that every score is a whole number, whichever kernel computes it."""

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        known = [*TOPICS, *WORDS]
        counts = [[text.split().count(word) for word in known] for text in texts]
        return np.pad(np.float32(counts), [(0, 0), (0, self.dim - len(known))])

    embed_passages = embed_queries


COUNTED = DatasetSettings(max_score=2, top_k_negatives=12, transfer_top_k=5, seed=7)


def tables(out: Path) -> dict[str, list[dict[str, Any]]]:
    names = ("queries", "passages", "train", "valid", "test", "transfer")
    return {name: rows(out / f"{name}.parquet") for name in names}


def test_the_dataset_is_the_one_that_has_always_been_made(folder: Path, tmp_path: Path) -> None:
    """The digest is that of version 0.1.0 for the same input and seed."""
    record, _ = make(folder, tmp_path / "out", COUNTED, embedder=WordCounts())
    data = json.dumps([tables(tmp_path / "out"), record], sort_keys=True)
    assert short_digest(data.encode()) == "b79245083cfc59dd"


def texts_and_labels(out: Path) -> dict[tuple[str, str], set[float]]:
    """The labels by query and text, as a model reads them."""
    read = tables(out)
    texts = {row["passage_id"]: plain_text(row["text"]) for row in read["passages"]}
    queries = {row["query_id"]: plain_text(row["text"]) for row in read["queries"]}
    found: dict[tuple[str, str], set[float]] = {}
    for split in ("train", "valid", "test"):
        for row in read[split]:
            pair = (queries[row["query_id"]], texts[row["passage_id"]])
            found.setdefault(pair, set()).add(row["label"])
    return found


@pytest.mark.parametrize("changed", [str, str.upper, lambda text: f"  {text.replace(' ', '  ')} "])
def test_no_text_is_a_positive_and_a_negative_of_one_query(
    folder: Path, tmp_path: Path, changed: Callable[[str], str]
) -> None:
    lines = (folder / "collection.tsv").read_text().splitlines()
    copies = [line.split("\t") for line in lines]
    with open(folder / "collection.tsv", "a") as target:
        target.writelines(f"\n0-copy-{name}\t{changed(text)}" for name, text in copies)
    high = DatasetSettings(max_score=9, top_k_negatives=30, transfer_top_k=6)
    record, _ = make(folder, tmp_path / "out", high, embedder=WordCounts())
    found = texts_and_labels(tmp_path / "out")
    assert {len(labels) for labels in found.values()} == {1}
    assert sum(labels == {0.0} for labels in found.values()) == 40 + 16 + 16
    assert record["table"]["train"]["negatives_missing"] == 0
    # neither is one of a query's negatives or transfer pairs there twice
    read = tables(tmp_path / "out")
    texts = {row["passage_id"]: plain_text(row["text"]) for row in read["passages"]}
    for table in ("train", "valid", "test", "transfer"):
        pairs = [(row["query_id"], texts[row["passage_id"]]) for row in read[table]]
        assert len(set(pairs)) == len(pairs)
    by_query = groupby(read["transfer"], key=lambda row: row["query_id"])
    ranks = [[row["rank"] for row in group] for _, group in by_query]
    assert all(each == list(range(1, len(each) + 1)) for each in ranks)


def test_a_title_is_part_of_what_is_compared(tmp_path: Path) -> None:
    """The encoder reads title and text; the same words in the text alone are the same."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    passages = [
        {"_id": "1", "title": "tea", "text": "hot tea"},
        {"_id": "2", "title": "", "text": "Tea hot tea"},
        {"_id": "3", "title": "ice", "text": "hot tea"},
    ]
    queries = [{"_id": f"q{number}", "text": f"hot tea {number}"} for number in range(4)]
    for name, records in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    for split, names in (("train", ("q0", "q1")), ("dev", ("q2",)), ("test", ("q3",))):
        lines = ["query-id\tcorpus-id\tscore", *(f"{name}\t1\t1" for name in names)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines))
    layout = begin(tmp_path / "out", overwrite=False)
    build_dataset(
        BeirFiles.find(folder), layout, WordCounts(), NumpyIndex(layout.ann),
        DatasetSettings(max_score=9), progress=silent,
    )  # fmt: skip
    finish(layout, tmp_path / "out")
    for split in ("train", "valid", "test"):
        pairs = [
            (row["passage_id"], row["label"]) for row in rows(tmp_path / "out" / f"{split}.parquet")
        ]
        assert set(pairs) == {("1", 1.0), ("3", 0.0)}


def test_queries_with_the_same_words_share_their_positives(folder: Path, tmp_path: Path) -> None:
    """Two train queries read the same, and each has one of two good passages."""
    with open(folder / "queries.train.tsv", "a") as target:
        target.write("twin\tWhich tea  is hot\n")
    with open(folder / "qrels.train.tsv", "a") as target:
        target.write("twin\t0\ttea-cold\t1\n")
    high = DatasetSettings(max_score=9, top_k_negatives=30)
    make(folder, tmp_path / "out", high, embedder=WordCounts())
    labels = texts_and_labels(tmp_path / "out")
    assert {len(each) for each in labels.values()} == {1}
    assert labels["which tea is hot", "tea tea cold"] == {1.0}


# ==== The same again, and what is taken over ====


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(folder, tmp_path) -> None:
    make(folder, tmp_path / "one")
    make(folder, tmp_path / "two")
    make(folder, tmp_path / "three", DatasetSettings(max_score=0.9, top_k_negatives=8, seed=1))
    one, two, three = (content(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["train.parquet"] != three["train.parquet"]
    assert set(one) == {
        "dataset.json", "queries.parquet", "passages.parquet", "train.parquet", "valid.parquet",
        "test.parquet", "transfer.parquet", "query_vectors.npy", "query_vectors.json",
        "neighbours.npy", "neighbours.json", "positive_scores.npy", "positive_scores.json",
        "ann/ids.txt", "ann/key.json", "ann/vectors.npy",
    }  # fmt: skip


def test_another_threshold_embeds_and_searches_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(folder, out)
    before = content(out)
    (tmp_path / "out.building").mkdir()
    (out / "ann").rename(tmp_path / "out.building" / "ann")  # what a real index takes over itself
    embedder = BagOfWords()
    wanted = DatasetSettings(max_score=0.2, top_k_negatives=8, transfer_top_k=5)
    _, index = make(folder, out, wanted, embedder=embedder, overwrite=True)
    assert (embedder.embedded, index.searched) == (0, 0)
    assert all(pair["score"] < 0.2 for pair in rows(out / "train.parquet") if not pair["label"])
    after = content(out)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"train.parquet", "valid.parquet", "test.parquet", "dataset.json"}
    assert not (tmp_path / "out.building").exists()


def test_another_collection_takes_nothing_over(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(folder, out)
    with open(folder / "collection.tsv", "a") as target:
        target.write("\nnew\tfern fern red\n")
    embedder = BagOfWords()
    record, index = make(folder, out, embedder=embedder, overwrite=True)
    assert embedder.embedded == 81 + 80
    assert index.searched == 80
    assert record["passages"] == 81


def test_an_interrupted_run_goes_on_with_its_vectors(folder, tmp_path, monkeypatch) -> None:
    from dipair_index.data import neighbours

    monkeypatch.setattr(neighbours, "TEXTS_PER_CHUNK", 16)
    make(folder, tmp_path / "whole")

    class Interrupted(BagOfWords):
        def embed_passages(self, texts: Sequence[str]) -> FloatArray:
            if self.embedded >= 48:
                raise KeyboardInterrupt
            return self.embed_queries(texts)

    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "out", embedder=Interrupted())
    assert not (tmp_path / "out").exists()
    embedder = BagOfWords()
    make(folder, tmp_path / "out", embedder=embedder)
    assert embedder.embedded == 80 - 48 + 80
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_labels_stay_when_only_negatives_change_and_are_never_lost(folder, tmp_path) -> None:
    out = tmp_path / "out"
    make(folder, out)
    (out / "labels").mkdir()
    (out / "labels" / "part-00000.parquet").write_text("hours of a teacher's work")
    other_negatives = DatasetSettings(max_score=0.7, top_k_negatives=8, transfer_top_k=5)
    make(folder, out, other_negatives, overwrite=True)
    assert (out / "labels" / "part-00000.parquet").read_text() == "hours of a teacher's work"
    before = content(out)
    other_pairs = DatasetSettings(max_score=0.7, top_k_negatives=8, transfer_top_k=3)
    with pytest.raises(DirectoryError, match=r"labels holds a teacher's labels of other pai"):
        make(folder, out, other_pairs, overwrite=True)
    assert content(out) == before


# ==== What is refused ====


def test_an_existing_or_foreign_directory_is_left_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(folder, out)
    with pytest.raises(DirectoryError, match=r"out exists: pass --overwrite to replace it"):
        begin(out, overwrite=False)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter-1.tex").write_text("words")
    with pytest.raises(DirectoryError, match=r"thesis is not a dataset \(it has no dataset.j"):
        begin(foreign, overwrite=True)
    foreign.rename(tmp_path / "new.building")
    with pytest.raises(DirectoryError, match=r"new.building holds chapter-1.tex, which does not"):
        begin(tmp_path / "new", overwrite=False)
    assert (tmp_path / "new.building" / "chapter-1.tex").read_text() == "words"


def test_a_dataset_whose_replacement_was_stopped_midway_is_put_back(folder, tmp_path) -> None:
    make(folder, tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.dipair-replaced")
    with pytest.raises(DirectoryError, match=r"out exists: pass --overwrite"):
        begin(tmp_path / "out", overwrite=False)
    assert content(tmp_path / "out") == before


def test_a_link_to_a_dataset_stays_a_link(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "disk" / "out")
    (tmp_path / "disk" / "out.old").mkdir()  # somebody's own
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    make(folder, tmp_path / "link", DatasetSettings(max_score=0.5), overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["out", "out.old"]
    assert Dataset.open(tmp_path / "disk" / "out").record["parameters"]["max_score"] == 0.5


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"table":')
    with pytest.raises(DirectoryError, match=r"dataset.json is damaged .*: run `dipair-index"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_score": 0.5, "max_score_percentile": 10}, "--max-score or --max-score-percentile"),
        ({"max_score_percentile": 0}, "--max-score-percentile 0 is out of range"),
        ({"max_score_percentile": 101}, "--max-score-percentile 101 is out of range"),
        ({"top_k_negatives": 0}, "must be 1 or more"),
        ({"seed": -1}, "--seed must be 0 or more, got -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DatasetSettings(**settings)


def test_qrels_without_a_positive_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "qrels.train.tsv").write_text("tea?hot 0 tea-hot 0\n")
    with pytest.raises(FormatError, match=r"qrels.train.tsv has no positive"):
        make(folder, tmp_path / "out")
