"""The whole path of the README on the bundled sample: every command for real, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dipair_index.cli import cli
from dipair_index.formats.collections import write_passages
from dipair_index.stores.snapshot import Snapshot

DEEP = ("--top-k", 400, "--candidates", 400)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_from_the_sample_to_a_reranked_answer_with_a_model_of_ones_own(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = json.loads(run("make-dataset", "msmarco", "--sample", "--json"))
    assert dataset["table"]["train"]["positives"] > 96  # each train query has at least one
    assert dataset["table"]["transfer"]["pairs"] == 96 * 50

    encoder = ("--encoder", tiny_encoder_dir)
    taught = run("train-teacher", *encoder, "--max-steps", 3)
    assert [line.split("\t")[0] for line in taught.splitlines()] == ["AUC valid", "AUC test"]

    run("label", "--teacher", "dipair.teacher", "--per-query", 4, "--limit", 200)
    settings = ("--max-steps", 3, "--group", 4, "--dim", 16, "--batch-queries", 8)
    trained = run("train", *encoder, *settings)
    assert [line.split("\t")[0] for line in trained.splitlines()] == ["AUC valid", "AUC test"]
    record = json.loads((tmp_path / "dipair.model" / "training.json").read_text())
    assert record["labels"]["pairs"] >= 200
    assert record["quality"]["test"]["AUC"] == float(trained.splitlines()[1].split("\t")[1])

    # the vectors that make-dataset has computed serve the index too
    run("build", "--model", "dipair.model", "--vectors", "use", "--ann-from", "dipair.dataset")
    answer = json.loads(run("rerank", "--query", "why is one sunny spot better", "--json"))
    assert len(answer["results"]) == 10
    ranks = sorted(result["retrieval_rank"] for result in answer["results"])
    assert ranks[-1] <= 100


def test_an_index_of_the_sample_through_its_whole_life(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ranking(*arguments: object) -> dict[str, float]:
        asked = ("--query", "how do bees dance in the winter", "--json")
        answer = json.loads(run("rerank", *asked, *DEEP, *arguments))
        return {each["id"]: each["score"] for each in answer["results"]}

    monkeypatch.chdir(tmp_path)
    run("build", "--model", tiny_model_dir)
    first = ranking()
    assert len(first) == json.loads(run("info", "--json"))["passages"] == 336
    replaced, gone, *_ = first
    (tmp_path / "new.jsonl").write_text('{"id": "new", "text": "bees dance in the winter"}\n')
    (tmp_path / "changed.tsv").write_text(f"{replaced}\tthe moon and the tide\nnewer\tgreen tea\n")
    (tmp_path / "gone.txt").write_text(f"{gone}\n")

    run("add", "--corpus", "new.jsonl")
    run("update", "--corpus", "changed.tsv")
    run("delete", "--ids", "gone.txt")
    changed = ranking()
    assert set(changed) == {*first, "new", "newer"} - {gone}
    assert changed[replaced] != first[replaced]
    known = json.loads(run("info", "--json"))
    assert (known["passages"], known["deleted"] > 0) == (337, True)
    run("verify")
    run("compact")
    run("verify")
    known = json.loads(run("info", "--json"))
    assert (known["passages"], known["deleted"], known["parts"]) == (337, 0, 1)
    assert list(ranking().items()) == list(changed.items())

    # what a build of the same passages answers
    with Snapshot.open("dipair.index") as now:
        write_passages(now.passages(list(now)), tmp_path / "live.jsonl")
    run("build", "--corpus", "live.jsonl", "--index-dir", "fresh", "--model", tiny_model_dir)
    assert ranking("--index-dir", "fresh") == pytest.approx(changed, abs=1e-5)


def test_commands_without_their_input_say_which_command_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["train-teacher"], ["train"], ["label", "--teacher", "some"]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 1
        assert "dipair.dataset is not a dataset" in result.stderr
        assert "dipair-index make-dataset" in result.stderr
    assert list(tmp_path.iterdir()) == []
