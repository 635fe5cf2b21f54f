"""`score` on files of pairs and tuples, with tiny DiPair models and cross-encoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.scorers import score_tuples

Run = Callable[..., Result]

ROWS = [
    ("1", "how bees dance", "bees dance in the winter", "honey"),
    ("2", "the queen", "yeast and heat", ""),
    ("3", "how bees dance", "the moon", "tide and gravity"),
]
NAMES = ("no", "asked", "title", "about")
PAIR = "query=asked,passage=title"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in [NAMES, *ROWS]))
    return path


def save_classifier(folder: Path, encoder: Path, tokenizer: Any, outputs: int) -> Path:
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(3)
    model = BertForSequenceClassification.from_pretrained(encoder, num_labels=outputs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scored(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def of_tiny_model(folder: Path) -> np.ndarray:
    texts = {"query": [row[1] for row in ROWS], "passage": [row[2] for row in ROWS]}
    return score_tuples(DualEncoder.load(folder), texts)


def test_rows_come_back_with_their_score_in_whatever_batches(
    run: Run, file: Path, tiny_model_dir: Path
) -> None:
    arguments = ("score", file, "--columns", PAIR, "--model", tiny_model_dir)
    header, *lines = scored(run(*arguments))
    assert header == [*NAMES, "score"]
    assert [tuple(line[:4]) for line in lines] == ROWS
    expected = 1 / (1 + np.exp(-of_tiny_model(tiny_model_dir)))
    assert [float(line[4]) for line in lines] == pytest.approx(expected, rel=1e-4)
    small = scored(run(*arguments, "--batch-size", 2))
    assert [float(line[4]) for line in small[1:]] == pytest.approx(expected, rel=1e-4)
    assert len(small) == 4


def test_json_lines_come_from_json_lines_on_standard_input(run: Run, tiny_model_dir: Path) -> None:
    rows = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    rows[1] = {**rows[1], "more": [1, 2]}
    stdin = "".join(json.dumps(row) + "\n" for row in rows)
    result = run("score", "-", "--columns", PAIR, "--model", tiny_model_dir, "--json",
                 "--raw-scores", stdin=stdin)  # fmt: skip
    found = [json.loads(line) for line in result.stdout.splitlines()]
    scores = [row.pop("score") for row in found]
    assert found == rows
    assert scores == pytest.approx(of_tiny_model(tiny_model_dir).tolist(), rel=1e-4)
    assert "3 rows are scored by" in result.stderr


def test_text_with_tabs_stays_in_its_cell(run: Run, tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"query": "a\\tb\\n", "passage": "c", "n": 3}\n')
    header, line = scored(run("score", tmp_path / "rows.jsonl", "--model", tiny_model_dir))
    assert (header[:3], line[:3]) == (["query", "passage", "n"], ["a b ", "c", "3"])


def test_a_cross_encoder_scores_tuples_and_several_outputs_have_a_column_each(
    run: Run, file: Path, tmp_path: Path, tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    columns = f"{PAIR},about"
    texts = [[row[place] for row in ROWS] for place in (1, 2, 3)]
    for outputs in (1, 3):
        folder = save_classifier(tmp_path / str(outputs), tiny_encoder_dir, tiny_tokenizer, outputs)
        logits = open_teacher(str(folder)).logits(*texts).reshape(3, outputs)
        arguments = ("score", file, "--columns", columns, "--model", folder)
        header, *lines = scored(run(*arguments, "--raw-scores"))
        assert header[4:] == (["score"] if outputs == 1 else ["score_0", "score_1", "score_2"])
        found = np.array([line[4:] for line in lines], float)
        np.testing.assert_allclose(found, logits, atol=1e-4)
    shares = np.array([line[4:] for line in scored(run(*arguments))[1:]], float)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-4)
    assert (shares.argmax(1) == logits.argmax(1)).all()


def test_a_cross_encoder_of_ours_reads_the_sides_as_in_its_training(
    run: Run, file: Path, tmp_path: Path, tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> None:
    folder = save_classifier(tmp_path / "ours", tiny_encoder_dir, tiny_tokenizer, 1)
    training = {"sides": ["query", "about", "passage"]}
    (folder / "training.json").write_text(json.dumps(training))
    texts = [[row[place] for row in ROWS] for place in (1, 3, 2)]
    expected = open_teacher(str(folder)).logits(*texts)
    arguments = ("score", file, "--model", folder, "--raw-scores", "--columns")
    for columns in (f"{PAIR},about", "about,query=asked,passage=title"):
        lines = scored(run(*arguments, columns))
        assert [float(line[4]) for line in lines[1:]] == pytest.approx(expected, rel=1e-4)
    result = run(*arguments, PAIR)
    assert result.exit_code == 1
    assert "ours reads query, about, passage, and these are tuples of query, passage: name a" in (
        " ".join(result.stderr.split())
    )


def test_what_cannot_be_scored_is_said(
    run: Run, file: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    (tmp_path / "scored.tsv").write_text("query\tpassage\tscore\na\tb\t1\n")
    for arguments, code, message in (
        ((file,), 1, "must be a header that names query, passage: add it, or name the right"),
        ((file, "--columns", "query=asked"), 1, "--columns lacks passage"),
        ((tmp_path / "no.tsv",), 1, "there is no file"),
        ((tmp_path / "scored.tsv",), 2, "has a column score already: rename or remove it"),
        ((file, "--columns", f"{PAIR},about", "--model", tiny_model_dir), 1,
         "reads query, passage, and these are tuples of query, passage, about: name a model"),
        ((file, "--columns", PAIR, "--model", tmp_path / "no"), 1, "no model could be loaded from"),
    ):  # fmt: skip
        result = run("score", *arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        assert message in " ".join(result.stderr.split())
