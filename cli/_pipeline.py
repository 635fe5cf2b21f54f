"""The group of all commands: their order, their settings, and one place that shows errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click

from dipair_index.cli._console import printable
from dipair_index.cli._settings import defaults_of, origin_of, share_variables, variable_prefix
from dipair_index.errors import DiPairError

CONFIG = "dipair_index.config"
"""Where click keeps the path of --config for the whole command."""


class Interrupted(click.ClickException):
    """Ctrl-C, with the exit code that shells give it."""

    exit_code = 130


class Pipeline(click.Group):
    """A group that lists its commands in the order of the pipeline, and shows no tracebacks."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Lets every option of the command be set by a variable of its own name."""
        share_variables(cmd, variable_prefix(name or cmd.name or ""))
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order in which they were added."""
        return list(self.commands)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Reads the options before the command."""
        with _sentences():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; an error that a user can fix becomes one sentence and exit code 1."""
        with _sentences(ctx):
            return super().invoke(ctx)


@contextmanager
def _sentences(ctx: click.Context | None = None) -> Iterator[None]:
    """Turns each error that a user can fix into one sentence without control characters."""
    try:
        try:
            yield
        except click.BadParameter as error:
            if ctx and (origin := origin_of(error, ctx.meta.get(CONFIG))):
                vars(error)["message"] = f"{error.message.rstrip('.')} ({origin})"
            raise
        except DiPairError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as stop:
            raise Interrupted(str(stop) or "interrupted") from stop
        except UnicodeEncodeError as error:
            raise click.ClickException(
                f"{error.object!r} cannot be written in {error.encoding}: use a UTF-8 locale, such "
                "as LC_ALL=C.UTF-8, and names in UTF-8"
            ) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly when the reader of a pipe has gone
            raise click.ClickException(_sentence(error, ctx)) from error
    except click.ClickException as error:
        vars(error)["message"] = printable(error.message)
        raise


def _sentence(error: OSError, ctx: click.Context | None) -> str:
    """What the system refused, the file, and the next step if it is known."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}{what}"
    group = cast(Pipeline, ctx.command) if ctx else None
    command = group.commands.get(ctx.invoked_subcommand or "") if group and ctx else None
    resumes = command is not None and any(each.name == "resume" for each in command.params)
    again = "with --resume" if resumes else "again"
    return f"{where}{what}: free some space, then run the same command {again}"


def read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Makes the settings of --config the defaults of the commands."""
    ctx.meta[CONFIG] = path
    group = ctx.command
    assert isinstance(group, click.Group)
    ctx.default_map = defaults_of(group, path)
