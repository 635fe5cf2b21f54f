"""The reference of all commands as Markdown, made from the commands: `make docs-cli` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from dipair_index.cli import cli

HEAD = """\
# Commands of dipair-index

Made from the commands by `make docs-cli`: change their help instead of this file.

Each option is also a setting of `--config FILE` and a variable, under its own name: `--top-k 5` of
`rerank` is `{"rerank": {"top-k": 5}}` and `DIPAIR_RERANK_TOP_K=5`. A flag overrides a variable,
and a variable the file. `DIPAIR_MODEL`, `DIPAIR_INDEX_DIR`, `DIPAIR_DEVICE`, `DIPAIR_THREADS`,
`DIPAIR_BACKEND` and `DIPAIR_SEED` set the option of all commands.
"""
INDENT = "\b\n"  # how click is told to leave the lines of a paragraph as they are


def reference() -> str:
    """Returns the Markdown of every command, in the order of the pipeline."""
    return "\n".join([HEAD, *_section(cli, ("dipair-index",))])


def _section(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    """Yields the paragraphs of a command, and then those of a group's commands."""
    children = command.commands if isinstance(command, click.Group) else {}
    usage = [*path, "[OPTIONS]"]
    if children:
        usage += ["COMMAND", "[ARGS]..."]
    arguments = (each for each in command.params if isinstance(each, click.Argument))
    usage += [each.metavar or str(each.name).upper() for each in arguments]
    yield f"## {' '.join(path)}\n\n    {' '.join(usage)}\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith(INDENT):
            title, *lines = paragraph.removeprefix(INDENT).splitlines()
            code = "\n".join(f"    {line.strip()}" for line in lines)
            yield f"{title}\n\n{code}\n"
        else:
            yield f"{paragraph}\n"
    options = [each for each in command.params if isinstance(each, click.Option)]
    if options:
        yield "".join(f"- {_option(each)}\n" for each in options if not each.hidden)
    for name, child in children.items():
        yield from _section(child, (*path, name))


def _option(option: click.Option) -> str:
    """One line: its names and values, its help, and its default."""
    names = [name for name in option.opts if name != getattr(option, "former", None)]
    value = "" if option.is_flag else f" {_value(option)}"
    alternatives = ", ".join([*names, *option.secondary_opts])
    needed = " Required." if option.required else ""
    text, _, unsaid = " ".join((option.help or "").split()).partition(" [default: ")
    default = f"`{_default(option)}`" if option.show_default else unsaid.rstrip("]")
    more = f" Default: {default}." if default else ""
    return f"`{alternatives}{value}`: {text.rstrip('.')}.{needed}{more}"


def _value(option: click.Option) -> str:
    """What stands for the value, whichever words this version of click has for it."""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    if isinstance(option.type, click.Path):
        return "PATH"
    if isinstance(option.type, click.types.IntParamType):
        return "N"
    return "X" if isinstance(option.type, click.types.FloatParamType) else "TEXT"


def _default(option: click.Option) -> str:
    if option.is_flag and option.secondary_opts:
        return (option.opts if option.default else option.secondary_opts)[0]
    return str(option.default) if option.default != "" else '""'


if __name__ == "__main__":
    click.echo(reference(), nl=False)
