"""The card says what training.json holds, and provenance says where the code came from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dipair_index.training import provenance
from dipair_index.training.model_card import model_card

RECORD = {
    "encoder": "some-bert",
    "layers": None,
    "model": {"system": "ffnn", "dim": 16, "head_hidden": [32, 32]},
    "training": {"seed": 7, "loss": "binary", "stage_two_layers": None},
    "dataset": "f00d",
    "texts": "beef",
    "labels": {"teacher": "a|b", "digest": "cafe", "pairs": 12},
    "versions": {"torch": "2.0"},
    "quality": {"valid": {"AUC": 0.91}, "test": {"Pearson": None}},
    "commit": "abc-dirty",
    "command": "dipair-index train --seed 7",
}


def test_a_card_holds_all_that_is_needed_to_make_the_model_again() -> None:
    lines = model_card("mine.model", RECORD).splitlines()
    assert lines[0] == "# mine.model"
    for line in (
        "| valid | AUC | 0.9100 |",
        "| test | Pearson | undefined |",
        "    dipair-index train --seed 7",
        "| dataset | f00d |",
        "| digest of its texts | beef |",
        "| labels: digest | cafe |",
        "| labels: pairs | 12 |",
        r"| labels: teacher | a\|b |",
        "| layers of the encoder | all |",
        "| head_hidden | [32, 32] |",
        "| seed | 7 |",
        "| torch | 2.0 |",
    ):
        assert line in lines
    assert any(line.startswith("Commit of the source: abc-dirty.") for line in lines)


def test_a_card_of_a_cross_encoder_that_was_not_measured_says_so() -> None:
    record = {key: value for key, value in RECORD.items() if key not in ("model", "quality")}
    card = model_card("tiny", {**record, "commit": None})
    assert "A cross-encoder that `dipair-index` trained from some-bert." in card
    assert "It was not measured." in card
    assert "Commit of the source: unknown (installed from a package)." in card


def test_a_card_says_where_the_weights_began_and_whose_the_labels_are() -> None:
    record = {key: value for key, value in RECORD.items() if key != "model"} | {
        "random_start": True, "max_tokens": 160, "sides": ["query", "passage"],
    }  # fmt: skip
    card = model_card("tiny", record)
    assert "trained from random weights, with the tokenizer of some-bert." in card
    assert "Its labels are those of the teacher a|b." in card
    assert "On the CPU, the same command on the same data, machine and versions gives" in card
    for line in (
        "| layers of the encoder | those of BERT-Tiny |",
        '| sides | ["query", "passage"] |',
        "| random_start | true |",
        "| max_tokens | 160 |",
    ):
        assert line in card.splitlines()
    for labels in ({"digest": "cafe", "pairs": 12}, {"teacher": "judged", "pairs": 12}):
        card = model_card("tiny", {**record, "random_start": False, "labels": labels})
        assert "trained from some-bert. Its labels are those of the dataset itself." in card


def test_the_commit_is_that_of_the_source_and_says_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    source = tmp_path / "provenance.py"
    source.write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert provenance.source_commit() is None
    git("init", "--quiet")
    assert provenance.source_commit() is None  # a file that the checkout does not know
    git("add", source.name)
    git("commit", "--quiet", "--message", "One")
    head = git("rev-parse", "HEAD")
    assert provenance.source_commit() == head
    source.write_text("2")
    assert provenance.source_commit() == f"{head}-dirty"


def test_versions_name_every_library() -> None:
    versions = provenance.library_versions()
    assert {"python", "torch", "transformers", "dipair-index"} <= set(versions)
    assert "unknown" not in versions.values()
