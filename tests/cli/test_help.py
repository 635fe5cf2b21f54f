from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dipair_index import __version__
from dipair_index.cli import cli

README = Path(__file__).parents[2] / "README.md"


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
