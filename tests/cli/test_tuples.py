"""From a file of 3-ary tuples to a dataset, labels, measures and scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from dipair_index.data.dataset import Dataset
from dipair_index.data.labels import read_labels
from dipair_index.data.layout import DatasetLayout
from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.scorers import score_tuples
from dipair_index.formats.tables import read_table

Run = Callable[..., Result]

THINGS = ["bees honey", "tea leaves", "moon tide", "bread dough", "piano keys", "river ice"]
COLUMNS = "query=term,passage=title,about=description,label=relevance"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        {"term": f"{word} {query}", "title": f"the {title}", "description": about,
         "relevance": 3 if title == query else 1 if about else 0}
        for query in THINGS for word in ("green", "black")
        for title in THINGS[:4] for about in ("", "in the winter")
    ]  # fmt: skip
    path = tmp_path / "shop.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def dataset(run: Run, file: Path, tmp_path: Path) -> Path:
    out = tmp_path / "shop.dataset"
    result = run("make-dataset", "pairs", file, "--columns", COLUMNS, "--max-label", 3,
                 "--out", out, "--valid-share", 0.25, "--test-share", 0.25)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[:5] for line in result.stdout.splitlines()] == [
        ["set", "tuples", "labelled", "queries", "mean label"],
        *([name, str(8 * queries), str(8 * queries), str(queries), label]
          for name, queries, label in zip(
              ("transfer", "train", "valid", "test"), (6, 6, 3, 3), means(out), strict=True)),
    ]  # fmt: skip
    assert result.stdout.splitlines()[0].endswith("words/query\twords/passage\twords/about")
    return out


def means(dataset: Path) -> list[str]:
    train, valid, test = (
        np.mean(read_table(dataset / f"{split}.parquet")["label"].to_pylist())
        for split in ("train", "valid", "test")
    )
    return [f"{round(float(mean), 4):,}" for mean in (train, train, valid, test)]


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> Path:
    """A random model of queries, passages and what they are about."""
    import torch

    from dipair_index.models.dipair import DiPairModel

    torch.manual_seed(1)
    sizes = {"dim": 16, "head_intermediate": 32, "extra_sides": {"about": [3, 16]}}
    folder = tmp_path_factory.mktemp("models") / "threefold"
    DiPairModel.from_encoder(str(tiny_encoder_dir), **sizes).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_the_judgements_of_tuples_become_their_labels(run: Run, dataset: Path) -> None:
    result = run("label", "--dataset", dataset, "--judged")
    assert result.exit_code == 0, result.output
    labels = read_labels(DatasetLayout(dataset).labels)
    assert labels.num_rows == Dataset.open(dataset).record["table"]["train"]["pairs"] == 48
    assert labels.column_names == ["query_id", "passage_id", "about_id", "logit"]
    train = read_table(dataset / "train.parquet")["label"].to_numpy()
    shares = 1 / (1 + np.exp(-labels["logit"].to_numpy()))
    np.testing.assert_allclose(shares, train, atol=2e-4)
    moved = int(((train == 0) | (train == 1)).sum())
    assert f"{moved} labels were moved to 0.0001 or 0.9999, since 0 and 1 have" in result.stderr
    assert "48 pairs are labelled" in result.stderr


def test_a_model_of_tuples_is_measured_and_scores_the_file_it_came_from(
    run: Run, dataset: Path, file: Path, model: Path
) -> None:
    result = run("evaluate", "--dataset", dataset, "--model", model, "--json", "--resamples", 0)
    (measured,) = json.loads(result.stdout)["results"]
    judged = Dataset.open(dataset).judged("test")
    pairs, texts = judged.as_pairs(), judged.texts
    expected = np.corrcoef(score_tuples(DualEncoder.load(model), texts), pairs.labels)[0, 1]
    assert (measured["measure"], measured["value"]) == ("Pearson", pytest.approx(expected))
    # tuples of one passage with two descriptions are two, also for ranking measures
    ranking = run("evaluate", "--dataset", dataset, "--model", model, "--relevant-from", 0.5,
                  "--measure", "P@8", "--json")  # fmt: skip
    (measured,) = json.loads(ranking.stdout)["results"]
    assert measured["value"] == pytest.approx(np.mean(pairs.labels >= 0.5))

    columns = COLUMNS.removesuffix(",label=relevance")
    result = run("score", file, "--columns", columns, "--model", model, "--json", "--raw-scores")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    scores = {(row["term"], row["title"], row["description"]): row["score"] for row in rows}
    assert len(scores) == 96
    logits = score_tuples(DualEncoder.load(model), texts)
    found = [scores[key] for key in zip(*texts.values(), strict=True)]
    assert found == pytest.approx(logits.tolist(), abs=1e-4)


def test_a_model_of_pairs_is_refused_by_its_sides(
    run: Run, dataset: Path, tiny_model_dir: Path
) -> None:
    result = run("evaluate", "--dataset", dataset, "--model", tiny_model_dir)
    assert result.exit_code == 1
    assert "reads query, passage, and these are tuples of query, passage, about" in result.stderr


def test_scores_from_elsewhere_become_labels(run: Run, dataset: Path, tmp_path: Path) -> None:
    layout = DatasetLayout(dataset)
    rows = [
        "\t".join([*ids.values(), "0.25"])
        for ids in read_table(layout.transfer, ["query_id", "passage_id", "about_id"]).to_pylist()
    ]
    scores = tmp_path / "scores.tsv"
    scores.write_text("\n".join(["query_id\tpassage_id\tabout_id\tscore", *rows]))
    result = run("label", "--dataset", dataset, "--scores", scores, "--scores-are", "probability")
    assert result.exit_code == 0, result.output
    labels = read_labels(layout.labels)["logit"].to_pylist()
    assert labels == pytest.approx([-np.log(3)] * 48)
    for arguments, message in (
        ((), "give one of --teacher NAME, --scores FILE and --judged"),
        (("--judged", "--scores", scores), "give one of --teacher NAME, --scores FILE and"),
        (("--judged", "--limit", 3), "--limit is for the labels of a teacher: leave it"),
    ):
        result = run("label", "--dataset", dataset, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_teacher_labels_the_sides_in_the_order_of_its_training(
    run: Run, dataset: Path, tmp_path: Path, tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    from transformers import BertForSequenceClassification

    folder = tmp_path / "teacher"
    BertForSequenceClassification.from_pretrained(tiny_encoder_dir, num_labels=1).save_pretrained(
        folder
    )
    tiny_tokenizer.save_pretrained(folder)
    order = ["query", "about", "passage"]
    (folder / "training.json").write_text(json.dumps({"sides": order}))
    result = run("label", "--dataset", dataset, "--teacher", folder)
    assert result.exit_code == 0, result.output
    layout = DatasetLayout(dataset)
    labels = read_labels(layout.labels)
    texts = []
    for side in order:
        text_of = Dataset.open(dataset).texts(side)
        texts.append([text_of[name] for name in labels[f"{side}_id"].to_pylist()])
    expected = open_teacher(str(folder)).logits(*texts)
    np.testing.assert_allclose(labels["logit"].to_numpy(), expected, atol=1e-5)


def test_a_refused_file_leaves_nothing_behind(run: Run, file: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = run("make-dataset", "pairs", file, "--columns", COLUMNS, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "expected a label from 0 to 1, got 3: fix it, or say with --max-label" in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_json_prints_what_dataset_json_says(run: Run, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("make-dataset", "pairs", file, "--columns", COLUMNS, "--max-label", 3,
                 "--out", out, "--json")  # fmt: skip
    assert json.loads(result.stdout) == Dataset.open(out).record
    # equal texts are one item, named by the digest of the text
    assert Dataset.open(out).texts("about") == {
        "e3b0c44298fc1c14": "",
        "b051b34ff4389bdc": "in the winter",
    }


def test_judgements_train_a_model_that_knows_its_tuples(
    run: Run, dataset: Path, tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    out = tmp_path / "threefold"
    assert run("label", "--dataset", dataset, "--judged").exit_code == 0
    result = run(
        "train", "--dataset", dataset, "--out", out, "--encoder", tiny_encoder_dir,
        "--extra-side", "about=2:16", "--dim", 16, "--head-intermediate", 32, "--group", 4,
        "--batch-queries", 3, "--stage-one-epochs", 20,
        "--stage-one-learning-rate", 3e-3, "--stage-two-epochs", 20,
        "--stage-two-learning-rate", 2e-3, "--loss", "binary",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert DualEncoder.load(out).model.config.sides == ("query", "passage", "about")
    following = f"score FILE --columns query,passage,about --model {out}"
    assert f"next, `dipair-index {following}`" in " ".join(result.stderr.split())
    refused = run("build", "--corpus", "-", "--index-dir", tmp_path / "i", "--model", out,
                  stdin="p1\tlava\n")  # fmt: skip
    assert "score its tuples with `dipair-index score`" in " ".join(refused.stderr.split())
    result = run("evaluate", "--dataset", dataset, "--model", out, "--split", "train", "--json")
    (measured,) = json.loads(result.stdout)["results"]
    assert measured["value"] > 0.4
