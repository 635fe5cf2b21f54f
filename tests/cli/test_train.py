"""`train` and `train-teacher`: what flags, files and systems make of the settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import Result

from dipair_index.cli._train_options import MODEL_SETTINGS
from dipair_index.data.dataset import Dataset
from dipair_index.formats.tables import write_table
from dipair_index.training.run import TrainingRun
from dipair_index.training.settings import TrainingSettings

Run = Callable[..., Result]

GIVEN: dict[str, Any] = {
    "system": "ffnn",
    "layers": 3,
    "max_query_tokens": 2,
    "max-passage-tokens": 6,
    "dim": 32,
    "keep": "last",
    "pooling": "cls",
    "similarity_residual": "cosine",
    "query_length": 16,
    "passage_length": 64,
    "query_prefix": "query: ",
    "passage_prefix": "passage: ",
    "extra_side": ["title=2", "brand=1:8"],
    "shared_encoder": False,
    "shared_projections": True,
    "head_layers": 1,
    "head_attention_heads": 4,
    "head_intermediate": 256,
    "head_hidden": [64, 32],
    "head_dropout": 0.2,
    "loss": "margin-mse",
    "temperature": 2.0,
    "vector_weight": 0.25,
    "group": 4,
    "batch_queries": 32,
    "stages": "one",
    "stage_one_epochs": 3,
    "stage_one_learning_rate": 1e-3,
    "stage_two_epochs": 2,
    "stage_two_learning_rate": 1e-4,
    "stage_two_layers": 1,
    "projection_start": "random",
    "vector_teacher": "use",
    "warm_up": 0.2,
    "max_steps": 7,
    "save_steps": 5,
    "train_embeddings": True,
    "seed": 3,
    "half": True,
    "weights": "int8",
}
"""A value other than the default for all that the paper varies."""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two queries and two passages, labelled."""
    folder = tmp_path / "some.dataset"
    (folder / "labels").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"fingerprint": "f00d"}))
    for side, file in (("query", "queries"), ("passage", "passages")):
        texts = {f"{side}_id": ["a", "b"], "text": ["lava", "green tea"]}
        write_table(pa.table(texts), folder / f"{file}.parquet")
    ids = {"query_id": ["a", "a", "b", "b"], "passage_id": ["a", "b", "a", "b"]}
    pairs = pa.table({**ids, "label": [1.0, 0.0, 1.0, 0.0]})
    for split in ("train", "valid", "test"):
        write_table(pairs, folder / f"{split}.parquet")
    logits = pa.array([3, -3, 3, -3], pa.float32())
    write_table(pa.table({**ids, "logit": logits}), folder / "labels" / "part-00000.parquet")
    (folder / "labels" / "labels.json").write_text(json.dumps({"teacher": "made here"}))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of the library, which does nothing."""
    seen: dict[str, Any] = {}

    def distil(dataset: Dataset, labels: Path, run: TrainingRun, **given: Any) -> dict[str, Any]:
        seen.update(given, command=run.command)
        return {"quality": {"test": {"AUC": 0.5}}}

    monkeypatch.setattr("dipair_index.training.distil.distil", distil)
    # no model is there to be exported; the package's own `train` is the command
    command = sys.modules["dipair_index.cli.train"]
    monkeypatch.setattr("dipair_index.encoders.open.open_encoder", lambda *_, **__: None)
    monkeypatch.setattr(command, "write_graphs", lambda encoder: "")
    return seen


def test_a_file_sets_everything_and_flags_override_it(
    run: Run, dataset: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"train": GIVEN}))
    result = run("--config", config, "train", "--dataset", dataset, "--seed", 5, "--dim", "none")
    assert result.exit_code == 0, result.output
    assert result.stdout == "AUC test\t0.5\n"
    model, settings = asked["model_settings"], asked["settings"]
    assert asked["layers"] == 3
    expected = {key.replace("-", "_"): value for key, value in GIVEN.items()}
    expected |= {"seed": 5, "dim": None, "bf16": expected["half"]}
    assert {name: model[name] for name in MODEL_SETTINGS} == {
        name: expected[name] for name in MODEL_SETTINGS
    }
    assert model["extra_sides"] == {"title": [2, 64], "brand": [1, 8]}
    defaults = TrainingSettings()
    for name, value in vars(settings).items():
        if name in expected:
            assert value == expected[name] != getattr(defaults, name), name
        else:
            assert name == "device"


def test_the_command_of_the_card_gives_the_same_settings_without_the_file(
    run: Run, dataset: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"train": GIVEN}))
    run("--config", config, "train", "--dataset", dataset, "--dim", "none", "--overwrite")
    first = dict(asked)
    words = first["command"].split()
    assert words[:4] == ["dipair-index", "train", "--dataset", str(dataset)]
    assert "--overwrite" not in words
    run(*words[1:])
    assert asked["model_settings"] == first["model_settings"]
    assert asked["settings"] == first["settings"]
    assert asked["command"] == first["command"]


@pytest.mark.parametrize("command", ["train", "train-teacher"])
def test_flags_may_be_false_in_a_file_and_in_the_environment(
    run: Run, dataset: Path, tmp_path: Path, asked: dict[str, Any], command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from dipair_index.training import distil

    stub = distil.distil
    monkeypatch.setattr(
        "dipair_index.training.teacher.train_teacher",
        lambda dataset, run, **given: stub(dataset, Path(), run, **given),
    )
    monkeypatch.setattr("dipair_index.threads.limit_threads", lambda count: None)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({command: {"half": False, "seed": 3}}))
    expected = f"dipair-index {command} --dataset {dataset} --seed 3"
    for arguments in ((), ("--threads", 1)):
        result = run("--config", config, command, "--dataset", dataset, *arguments)
        assert result.exit_code == 0, result.output
        assert asked["command"] == expected
    monkeypatch.setenv(f"DIPAIR_{command.upper().replace('-', '_')}_HALF", "0")
    assert run(command, "--dataset", dataset, "--seed", 3).exit_code == 0
    assert asked["command"] == expected


@pytest.mark.parametrize("command", ["train", "train-teacher"])
def test_the_help_says_what_no_limit_on_the_steps_is(run: Run, command: str) -> None:
    assert "0 and -1 set no limit" in " ".join(run(command, "--help").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "dim", "loss"),
    [
        ([], 256, "both"),
        (["--system", "de-ffnn"], None, "both"),
        (["--system", "de-cos", "--dim", 64], 64, "both"),
        (["--system", "dse"], None, "regression"),
        (["--system", "dse", "--loss", "binary"], None, "binary"),
    ],
)
def test_systems_have_defaults_of_their_own(
    run: Run,
    dataset: Path,
    asked: dict[str, Any],
    arguments: list[object],
    dim: int | None,
    loss: str,
) -> None:
    assert run("train", "--dataset", dataset, *arguments).exit_code == 0
    assert asked["model_settings"]["dim"] == dim
    assert asked["settings"].loss == loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dim", "wide"], "'wide' is not a number of dimensions: pass 256, say, or"),
        (["--head-hidden", "64,x"], "'64,x' is not a list of layer widths, such as 128,128"),
        (["--extra-side", "title"], "--extra-side title: expected NAME=TOKENS or NAME=TOKENS:LEN"),
        (["--extra-side", "title=4:"], "--extra-side title=4:: expected NAME=TOKENS"),
        (["--random-start"], "--random-start means nothing to tsf: leave it out"),
        (["--system", "bert-tiny", "--dim", 64], "--dim means nothing to bert-tiny: leave it out"),
        (["--stage-two-learning-rate", 0], "0.0 is not in the range x>0"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_read(
    run: Run, dataset: Path, asked: dict[str, Any], arguments: list[object], message: str
) -> None:
    result = run("train", "--dataset", dataset, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert asked == {}


def test_bert_tiny_is_trained_and_measured_by_the_same_commands(
    run: Run, dataset: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    result = run(
        "train", "--dataset", dataset, "--system", "bert-tiny", "--encoder", tiny_encoder_dir,
        "--random-start", "--group", 2, "--stage-two-epochs", 20, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == "AUC valid\t1.0\nAUC test\t1.0\n"
    assert "bert-tiny starts from random weights" in result.stderr
    record = json.loads((out / "training.json").read_text())
    assert record["training"]["stage_two_learning_rate"] == 5e-4
    assert record["command"] in (out / "README.md").read_text()
    measured = run("evaluate", "--dataset", dataset, "--model", out, "--json")
    values = json.loads(measured.stdout)["results"]
    assert [(each["system"], each["value"]) for each in values] == [("tiny", 1.0)]


def test_train_teacher_takes_layers_and_writes_a_card(
    run: Run, dataset: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "teacher"
    result = run(
        "train-teacher", "--dataset", dataset, "--encoder", tiny_encoder_dir, "--layers", 1,
        "--epochs", 2, "--seed", 4, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["AUC valid", "AUC test"]
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 1
    card = (out / "README.md").read_text()
    assert f"dipair-index train-teacher --dataset {dataset}" in card
    assert "| seed | 4 |" in card
