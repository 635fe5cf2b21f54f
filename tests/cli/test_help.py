from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dipair_index import __version__
from dipair_index.cli import cli
from dipair_index.cli._reference import reference

README = Path(__file__).parents[2] / "README.md"
REFERENCE = Path(__file__).parents[2] / "docs" / "cli.md"


def commands(group: click.Group = cli, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def test_commands_are_listed_in_the_order_of_the_pipeline() -> None:
    listed = CliRunner().invoke(cli, ["--help"]).output.split("Commands:")[1]
    names = [line.split()[0] for line in listed.splitlines() if line[2:3].isalpha()]
    assert names[:13] == [
        "make-dataset", "train-teacher", "label", "train", "export",
        "build", "add", "update", "delete", "compact", "verify", "info", "rerank",
    ]  # fmt: skip


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_and_option_has_help_and_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]

    assert result.exit_code == 0
    assert f"Example:\n    dipair-index {' '.join(path)}" in result.output
    assert "None]" not in result.output  # as of a range without bounds
    assert command.get_short_help_str().endswith((".", "..."))
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name
        assert not (getattr(parameter, "help", None) or "").endswith("."), parameter.name


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_stands_in_the_readme(name: str) -> None:
    assert f"dipair-index {name}" in README.read_text(encoding="utf-8")


def test_the_version_is_said_whatever_the_environment_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIPAIR_VERSION", "1")
    result = CliRunner().invoke(cli, ["--version"], prog_name="dipair-index")
    assert result.output == f"dipair-index {__version__}\n"
    assert "Usage:" in CliRunner().invoke(cli, ["build", "--help"]).output


@pytest.mark.parametrize(
    ("path", "former", "present"),
    [
        ("build", "--precision", "--encode-precision"),
        ("add", "--precision", "--encode-precision"),
        ("update", "--precision", "--encode-precision"),
        ("train", "--half", "--bf16"),
        ("train-teacher", "--half", "--bf16"),
        ("train", "--keep", "--token-pooling"),
    ],
)
def test_former_names_are_taken_and_not_shown(path: str, former: str, present: str) -> None:
    option = next(each for each in cli.commands[path].params if present in each.opts)
    assert former in option.opts  # the tests of settings try each of these
    shown = CliRunner().invoke(cli, [path, "--help"]).output.replace(",", " ").split()
    assert present in shown
    assert former not in shown
    assert option.get_error_hint(click.Context(cli.commands[path])) == f"'{present}'"


def test_the_options_of_train_are_in_sections() -> None:
    shown = CliRunner().invoke(cli, ["train", "--help"]).output
    sections = {
        part.splitlines()[0]: part.split() for part in shown.split("\n\n") if " options:\n" in part
    }
    assert list(sections) == ["Model options:", "Training options:", "Run options:"]
    for section, name in (("Model", "--head-layers"), ("Training", "--loss"), ("Run", "--resume")):
        assert name in sections[f"{section} options:"]
    for parameter in cli.commands["train"].params:
        assert any(parameter.opts[0] in words for words in sections.values())


def test_the_reference_is_that_of_the_commands() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run `make docs-cli`"


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_the_reference_holds_every_option(path: tuple[str, ...]) -> None:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    section = reference().split(f"## dipair-index {' '.join(path)}\n")[1].split("\n## ")[0]
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or f"`{parameter.opts[0]}" in section
