"""PreTTR end to end: trained in two stages, built, searched, measured and scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.stores.manifest import Manifest

Run = Callable[..., Result]

TOPICS = {"bees honey": "the queen of the bees", "tea leaves": "green tea in the water",
          "moon tide": "gravity of the moon", "bread dough": "yeast and heat"}  # fmt: skip
PASSAGE_LENGTH, DIM = 12, 16


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prettr") / "pairs.tsv"
    rows = [
        f"{word} {asked}\t{passage}\t{int(asked == of)}\t{split}\n"
        for asked in TOPICS
        for word, split in (("the", "train"), ("a", "train"), ("how", "valid"), ("why", "test"))
        for of, passage in TOPICS.items()
    ]
    path.write_text("query\tpassage\tlabel\tsplit\n" + "".join(rows))
    return path


@pytest.fixture(scope="module")
def model(run: Run, pairs: Path, tiny_encoder_dir: Path) -> Path:
    dataset, out = pairs.parent / "some.dataset", pairs.parent / "prettr.model"
    columns = "query,passage,label,split"
    made = run("make-dataset", "pairs", pairs, "--columns", columns, "--out", dataset)
    assert made.exit_code == 0, made.output
    assert run("label", "--dataset", dataset, "--judged").exit_code == 0
    trained = run(
        "train", "--dataset", dataset, "--out", out, "--encoder", tiny_encoder_dir,
        "--system", "prettr", "--head-layers", 1, "--dim", DIM, "--query-length", 8,
        "--passage-length", PASSAGE_LENGTH, "--group", 4, "--batch-queries", 4,
        "--stage-one-epochs", 20, "--stage-one-learning-rate", 3e-3, "--stage-two-epochs", 5,
        "--stage-two-learning-rate", 1e-3,
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert "so the model answers with torch alone: only tsf and aligned heads" in " ".join(
        trained.stderr.split()
    )
    return out


def scores_of_pairs(run: Run, model: Path, pairs: Path) -> dict[tuple[str, str], float]:
    result = run("score", pairs, "--model", model, "--raw-scores", "--json")
    assert result.exit_code == 0, result.output
    rows = map(json.loads, result.stdout.splitlines())
    return {(row["query"], row["passage"]): row["score"] for row in rows}


def test_what_it_was_trained_on_is_ranked_right(run: Run, pairs: Path, model: Path) -> None:
    scores = scores_of_pairs(run, model, pairs)
    for asked, passage in TOPICS.items():
        best = max(TOPICS.values(), key=lambda each: scores[f"the {asked}", each])
        assert best == passage


def test_an_index_of_all_tokens_answers_as_the_pairs_are_scored(
    run: Run, pairs: Path, model: Path, tmp_path: Path
) -> None:
    corpus, index = tmp_path / "corpus.tsv", tmp_path / "prettr.index"
    corpus.write_text("".join(f"p{row}\t{text}\n" for row, text in enumerate(TOPICS.values())))
    built = run("build", "--corpus", corpus, "--index-dir", index, "--model", model,
                "--codec", "float32")  # fmt: skip
    assert built.exit_code == 0, built.output
    manifest = Manifest.read(index)
    assert (manifest.max_passage_tokens, manifest.dim) == (PASSAGE_LENGTH, DIM)
    expected = scores_of_pairs(run, model, pairs)
    found = run("rerank", "--index-dir", index, "--query", "how moon tide", "--raw-scores",
                "--json", "--candidates", 4, "--top-k", 4)  # fmt: skip
    assert found.exit_code == 0, found.output
    scores = {each["text"]: each["score"] for each in json.loads(found.stdout)["results"]}
    assert scores == pytest.approx(
        {text: expected["how moon tide", text] for text in TOPICS.values()}, abs=1e-4
    )
    measured = run("bench", "--index-dir", index, "--queries", _queries(tmp_path),
                   "--candidates", 4, "--repeat", 1, "--json")  # fmt: skip
    assert measured.exit_code == 0, measured.output
    record = json.loads(measured.stdout)
    assert record["backend"] == "torch"
    assert record["bytes_per_passage"]["tokens"] >= 4 * PASSAGE_LENGTH * DIM


def _queries(folder: Path) -> Path:
    path = folder / "queries.tsv"
    path.write_text("q1\thow moon tide\nq2\tthe bees honey\n")
    return path


def test_it_has_no_graphs_and_says_so(run: Run, model: Path, tmp_path: Path) -> None:
    assert DualEncoder.load(model).model.config.system == "prettr"
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("p1\ttea\n")
    refused = run("build", "--corpus", corpus, "--index-dir", tmp_path / "i", "--model", model,
                  "--backend", "onnx")  # fmt: skip
    assert refused.exit_code == 1
    assert "holds no ONNX graphs" in " ".join(refused.stderr.split())
