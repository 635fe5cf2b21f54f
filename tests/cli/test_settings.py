"""Settings from files and variables: each does what its flag does, under the flag's own name."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from dipair_index.cli import cli

WORDS = {"dim": "12", "head_hidden": "7,9", "candidates": "60", "extra_side": "title=4"}
"""Values of options that take more than their type says."""


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def words(option: click.Option, folder: Path) -> str:
    """A value that is not the default."""
    if option.name in WORDS:
        return WORDS[option.name]
    kind = option.type
    if isinstance(kind, click.Choice):
        return next(str(choice) for choice in kind.choices if choice != option.default)
    if isinstance(kind, click.Path):
        return str(folder if kind.dir_okay else folder / "file")
    return "0.25" if isinstance(kind, click.types.FloatParamType) else "33"


OPTIONS = [
    pytest.param(path, command, option, name, id=f"{' '.join(path)} {name}")
    for path, command in commands()
    for option in command.params
    if isinstance(option, click.Option)
    for name in [*option.opts, *option.secondary_opts]
    if name.startswith("--")
]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command without its work, and returns what its function would be given."""

    def call(
        command: click.Command, *arguments: str, env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        given: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            patch.setattr(command, "callback", lambda *_, **values: given.update(values))
            patch.setattr(
                "dipair_index.threads.limit_threads", lambda count: given.update(threads=count)
            )
            result = CliRunner().invoke(cli, arguments, env=env)
        assert result.exit_code == 0, result.output
        return given

    return call


@pytest.mark.parametrize(("path", "command", "option", "name"), OPTIONS)
def test_every_option_goes_by_its_own_name_in_files_and_variables(
    tmp_path: Path, called: Any, path: tuple[str, ...], command: click.Command,
    option: click.Option, name: str,
) -> None:  # fmt: skip
    value = None if option.is_flag else words(option, tmp_path)
    needed = [
        word
        for parameter in command.params
        if parameter.required and parameter is not option
        for word in (["file"] if isinstance(parameter, click.Argument) else
                     [parameter.opts[0], words(parameter, tmp_path)])
    ]  # fmt: skip
    start = [*path, *needed]
    typed = called(command, *start, name, *([value] if value is not None else []))
    # a switch that is on anyway, such as --shared-encoder, changes nothing
    assert option.required or option.secondary_opts or typed != called(command, *start)

    bare = name.removeprefix("--")
    for key in (bare, bare.replace("-", "_")):
        settings: Any = {key: True if value is None else value}
        for part in reversed(path):
            settings = {part: settings}
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        assert called(command, "--config", str(tmp_path / "settings.json"), *start) == typed

    variable = "_".join(["DIPAIR", *path, bare]).upper().replace("-", "_")
    assert called(command, *start, env={variable: value or "1"}) == typed


def run(folder: Path, settings: object, *arguments: str, name: str = "c.json") -> Result:
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / name).write_text(text, encoding="utf-8")
    return CliRunner().invoke(cli, ["--config", str(folder / name), *arguments])


def test_names_of_parameters_that_once_were_the_only_ones_are_taken_too(
    tmp_path: Path, called: Any
) -> None:
    rerank, evaluate = cli.commands["rerank"], cli.commands["evaluate"]
    (tmp_path / "c.json").write_text(
        '{"rerank": {"as_json": true, "run_file": "x.run"}, "evaluate": {"indexes": ["a", "b"]}}'
    )
    config = ("--config", str(tmp_path / "c.json"))
    assert called(rerank, *config, "rerank")["as_json"] is True
    assert called(rerank, *config, "rerank")["run_file"] == "x.run"
    assert called(evaluate, *config, "evaluate")["indexes"] == ("a", "b")
    assert called(rerank, "rerank", env={"DIPAIR_RERANK_AS_JSON": "1"})["as_json"] is True


def test_a_flag_goes_before_a_variable_and_that_before_the_file(
    tmp_path: Path, called: Any
) -> None:
    rerank, train = cli.commands["rerank"], cli.commands["train"]
    (tmp_path / "c.json").write_text(
        '{"rerank": {"top-k": 4}, "train": {"separate-encoders": true, "shared-projections": true}}'
    )
    config, env = ("--config", str(tmp_path / "c.json")), {"DIPAIR_RERANK_TOP_K": "5"}
    assert called(rerank, *config, "rerank")["top_k"] == 4
    assert called(rerank, *config, "rerank", env=env)["top_k"] == 5
    assert called(rerank, *config, "rerank", "--top-k", "6", env=env)["top_k"] == 6
    assert called(train, *config, "train")["shared_encoder"] is False
    env = {"DIPAIR_TRAIN_SHARED_ENCODER": "1", "DIPAIR_TRAIN_SEPARATE_PROJECTIONS": "true"}
    assert called(train, *config, "train", env=env)["shared_encoder"] is True
    assert called(train, *config, "train", env=env)["shared_projections"] is False
    assert (
        called(train, *config, "train", "--separate-encoders", env=env)["shared_encoder"] is False
    )


def test_lists_and_nothing_are_taken_where_an_option_has_a_use_for_them(
    tmp_path: Path, called: Any
) -> None:
    (tmp_path / "c.json").write_text(json.dumps({
        "bench": {"candidates": [10, 20], "repeat": None},
        "train": {"head-hidden": [8, 4]},
        "evaluate": {"model": "one", "measure": ["AUC", "R@5"]},
    }))  # fmt: skip
    config = ("--config", str(tmp_path / "c.json"))
    assert called(cli.commands["bench"], *config, "bench")["candidates"] == [10, 20]
    assert called(cli.commands["bench"], *config, "bench")["repeat"] == 3
    assert called(cli.commands["train"], *config, "train")["head_hidden"] == [8, 4]
    evaluate = called(cli.commands["evaluate"], *config, "evaluate")
    assert (evaluate["model"], evaluate["measure"]) == (("one",), ("AUC", "R@5"))


REFUSED = [
    ("{", "cannot be read as settings"),
    ("[1]", "expected an object a command"),
    ("null", "expected an object a command"),
    ("[" * 100_000, "cannot be read as settings"),
    ({"rerank": [1]}, "expected an object of settings for rerank"),
    ({"rerank": 7}, "expected an object of settings for rerank"),
    ({"rerenk": {}}, "there is no command 'rerenk', only make-dataset, "),
    ({"export": {"pytorch": {}}}, "there is no command 'export pytorch', only onnx"),
    ({"rerank": {"topk": 5}}, "rerank has no setting topk: did you mean top-k? See"),
    ({"train": {"shared-encoders": True}}, "did you mean shared-encoder? See `dipair-index train"),
    ({"make-dataset": {"pairs": {"colour": 1}}}, "make-dataset pairs has no setting colour: did"),
    ({"rerank": {"help": True}}, "rerank has no setting help"),
    ({"rerank": {"json": True, "as_json": True}}, "rerank: json and as_json are one setting"),
    ({"train": {"shared-encoder": 1, "separate-encoders": 1}}, "are one setting: keep one"),
    ({"rerank": {"top-k": [5]}}, "rerank: top-k: expected one value, got [5]"),
    ({"rerank": {"query": {"text": "x"}}}, "rerank: query: expected one value, got {"),
    ({"evaluate": {"measure": [["AUC"]]}}, "evaluate: measure: expected a value, or a list of"),
    ({"rerank": {"top-k": "many"}}, "'many' is not a valid integer"),
    ({"rerank": {"top-k": 5.5}}, "'5.5' is not a valid integer"),
    ({"rerank": {"top-k": True}}, "'True' is not a valid integer"),
    ({"rerank": {"top-k": 0}}, "0 is not in the range x>=1"),
    ({"rerank": {"json": "perhaps"}}, "'perhaps' is not a valid boolean"),
    ({"rerank": {"no-rerank": 7}}, "'7' is not a valid boolean"),
    ({"rerank": {"backend": "jax"}}, "'jax' is not one of 'auto', 'torch', 'onnx'"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_settings_that_cannot_be_are_refused_in_a_sentence(
    tmp_path: Path, settings: object, sentence: str
) -> None:
    result = run(tmp_path, settings, "rerank", "--query", "tea")
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert sentence in result.stderr
    assert "c.json" in result.stderr  # where to look
    assert result.stdout == ""


def test_a_variable_that_cannot_be_is_refused_by_its_name(tmp_path: Path) -> None:
    env = {"DIPAIR_RERANK_TOP_K": "many"}
    result = CliRunner().invoke(cli, ["rerank", "--query", "tea"], env=env)
    assert result.exit_code == 2
    assert "(from the variable DIPAIR_RERANK_TOP_K)" in result.stderr
    env = {"DIPAIR_TRAIN_SEPARATE_ENCODERS": "perhaps"}
    result = CliRunner().invoke(cli, ["train"], env=env)
    assert result.exit_code == 1
    assert "DIPAIR_TRAIN_SEPARATE_ENCODERS: 'perhaps' is not a valid boolean" in result.stderr


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    result = run(tmp_path, '\ufeff{"rerank": {"top-k": 0}}', "rerank", "--query", "tea")
    assert "0 is not in the range" in result.stderr


NUMBERS = [
    pytest.param(path, command, option, id=f"{' '.join(path)} {option.opts[0]}")
    for path, command in commands()
    for option in command.params
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
    or option.name in ("dim", "head_hidden")
    or (option.name, path[-1]) == ("candidates", "bench")
]


@pytest.mark.parametrize(("path", "command", "option"), NUMBERS)
def test_numbers_that_are_none_or_cannot_be_held_are_refused(
    path: tuple[str, ...], command: click.Command, option: click.Option
) -> None:
    is_float = isinstance(option.type, click.types.FloatParamType)
    needed = ["file" for each in command.params if each.required and each.opts[0][0] != "-"]
    for value in ("nan", "inf", "-inf", "1e400", "", "x", "1.5" if not is_float else "NaN",
                  "99999999999999999999" if not is_float else "1e309"):  # fmt: skip
        result = CliRunner().invoke(cli, [*path, *needed, option.opts[0], value])
        assert result.exit_code == 2, (value, result.output)
        assert f"Invalid value for '{option.opts[0]}'" in result.stderr


def test_threads_are_bounded_aloud(called: Any) -> None:
    assert called(cli.commands["rerank"], "rerank", "--threads", "3")["threads"] == 3
    assert called(cli.commands["rerank"], "rerank", "--threads", "100000")["threads"] < 5000
