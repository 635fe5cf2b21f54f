"""DSE end to end: sentence pairs with grades and with classes, one query online, and all pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.head import HeadScorer

Run = Callable[..., Result]

TOPICS = ["bees honey", "tea leaves", "moon tide", "bread dough", "piano keys", "river ice"]
SENTENCES = [f"{first} {topic}" for topic in TOPICS for first in ("the", "how", "what is")]
LEARNING = (
    "--system", "dse", "--head-hidden", "64,64", "--similarity-residual", "cosine",
    "--head-dropout", 0, "--batch-queries", 14, "--group", 18, "--stage-one-epochs", 300,
    "--stage-one-learning-rate", 5e-3, "--stage-two-epochs", 1, "--vector-weight", 0,
)  # fmt: skip


def grade(one: str, other: str) -> int:
    """From 0 to 5, as in STS: of one topic, beginning alike, or neither."""
    return 5 if one[-6:] == other[-6:] else 2 if one[:3] == other[:3] else 0


def split_of(sentence: str) -> str:
    number = SENTENCES.index(sentence)
    return "valid" if number % 9 == 4 else "test" if number % 9 == 8 else "train"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        f"{one}\t{other}\t{grade(one, other)}\t{split_of(one)}\n"
        for one, other in product(SENTENCES, SENTENCES)
    ]
    path = tmp_path_factory.mktemp("sts") / "pairs.tsv"
    path.write_text("sentence1\tsentence2\tgrade\tsplit\n" + "".join(rows))
    return path


@pytest.fixture(scope="module")
def dataset(run: Run, pairs: Path) -> Path:
    out = pairs.parent / "sts.dataset"
    columns = "query=sentence1,passage=sentence2,label=grade,split"
    result = run("make-dataset", "pairs", pairs, "--columns", columns, "--max-label", 5,
                 "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def graded(run: Run, dataset: Path, tiny_encoder_dir: Path) -> Path:
    """A model trained on the grades, by regression as in the poster."""
    out = dataset.parent / "graded.model"
    assert run("label", "--dataset", dataset, "--judged").exit_code == 0
    result = run("train", "--dataset", dataset, "--out", out, "--encoder", tiny_encoder_dir,
                 *LEARNING)  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads((out / "training.json").read_text())
    assert (record["training"]["loss"], record["model"]["dim"]) == ("regression", None)
    return out


def logits(run: Run, model: Path, pairs: Path) -> dict[tuple[str, str], float]:
    columns = "query=sentence1,passage=sentence2"
    result = run("score", pairs, "--columns", columns, "--model", model, "--raw-scores", "--json")
    assert result.exit_code == 0, result.output
    rows = map(json.loads, result.stdout.splitlines())
    return {(row["sentence1"], row["sentence2"]): row["score"] for row in rows}


def test_grades_are_learnt_by_regression(run: Run, pairs: Path, graded: Path) -> None:
    scores = logits(run, graded, pairs)
    trained = [pair for pair in scores if split_of(pair[0]) == "train"]
    learnt, grades = [scores[pair] for pair in trained], [grade(*pair) for pair in trained]
    assert np.corrcoef(learnt, grades)[0, 1] > 0.6


def test_a_query_is_scored_against_stored_sentences_as_the_pairs_are(
    run: Run, pairs: Path, graded: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "sentences.tsv"
    corpus.write_text("".join(f"s{row}\t{text}\n" for row, text in enumerate(SENTENCES)))
    index = tmp_path / "sentences.index"
    built = run("build", "--corpus", corpus, "--index-dir", index, "--model", graded,
                "--codec", "float32")  # fmt: skip
    assert built.exit_code == 0, built.output
    count = str(len(SENTENCES))
    found = run("rerank", "--index-dir", index, "--query", SENTENCES[4], "--raw-scores", "--json",
                "--candidates", count, "--top-k", count)  # fmt: skip
    expected = logits(run, graded, pairs)
    ranked = json.loads(found.stdout)["results"] if found.exit_code == 0 else found.output
    scores = {result["text"]: result["score"] for result in ranked}
    assert list(scores) == sorted(SENTENCES, key=lambda text: -scores[text])
    assert scores == pytest.approx(
        {text: expected[SENTENCES[4], text] for text in SENTENCES}, abs=1e-4
    )


def test_all_pairs_take_one_pass_a_sentence_and_score_as_the_pairs_do(
    run: Run, pairs: Path, graded: Path
) -> None:
    encoder = DualEncoder.load(graded)
    first = encoder.encode_queries(SENTENCES).tokens
    second = encoder.encode_passages(SENTENCES).tokens
    assert first.shape == (len(SENTENCES), 1, encoder.sizes.vector_dim)
    scores = HeadScorer(encoder.model).logits(first, second)
    expected = logits(run, graded, pairs)
    np.testing.assert_allclose(
        scores, [[expected[one, other] for other in SENTENCES] for one in SENTENCES], atol=1e-4
    )


def test_classes_are_learnt_from_a_teachers_outputs(
    run: Run, dataset: Path, pairs: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    """As in MNLI: the teacher has an output a class, and the student as many."""
    from dipair_index.data.dataset import Dataset
    from dipair_index.formats.tables import read_table

    opened = Dataset.open(dataset)
    texts = {side: opened.texts(side) for side in opened.sides}
    lines = ["query_id\tpassage_id\tscore_0\tscore_1\tscore_2"]
    for row in read_table(opened.layout.transfer, opened.id_columns).to_pylist():
        one, other = texts["query"][row["query_id"]], texts["passage"][row["passage_id"]]
        right = (0, 2, 5).index(grade(one, other))
        outputs = "\t".join("4" if number == right else "-4" for number in range(3))
        lines.append(f"{row['query_id']}\t{row['passage_id']}\t{outputs}")
    scores = tmp_path / "teacher.tsv"
    scores.write_text("\n".join(lines) + "\n")
    labels, out = tmp_path / "labels", tmp_path / "classes.model"
    imported = run("label", "--dataset", dataset, "--scores", scores, "--labels", labels)
    assert imported.exit_code == 0, imported.output
    trained = run("train", "--dataset", dataset, "--labels", labels, "--out", out,
                  "--encoder", tiny_encoder_dir, *LEARNING, "--loss", "multi-class")  # fmt: skip
    assert trained.exit_code == 0, trained.output

    result = run("score", pairs, "--columns", "query=sentence1,passage=sentence2",
                 "--model", out, "--json")  # fmt: skip
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    shares = np.array([[row[f"score_{number}"] for number in range(3)] for row in rows])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    right = np.array([(0, 2, 5).index(int(row["grade"])) for row in rows])
    trained = np.array([row["split"] == "train" for row in rows])
    majority = np.bincount(right[trained]).max() / trained.sum()
    assert (shares[trained].argmax(1) == right[trained]).mean() > majority + 0.1
