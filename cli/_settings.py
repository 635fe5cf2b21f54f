"""Settings besides flags: the variables DIPAIR_*, and the file of --config.

Every option goes by its own long name there, with - or _: `--top-k` of `rerank` is the variable
DIPAIR_RERANK_TOP_K and {"rerank": {"top-k": 5}}. The name of its parameter is taken too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

ENVIRONMENT_PREFIX = "DIPAIR"
SHARED_OPTIONS = ("backend", "device", "index_dir", "model", "seed", "threads")
"""Options that mean the same in all commands, and share a variable: DIPAIR_MODEL."""
SHAPE = '{"rerank": {"top-k": 5}}'


def names_of(parameter: click.Parameter) -> list[str]:
    """The names by which a setting is known, with _ for -: its long options', its parameter's."""
    return list(dict.fromkeys([*_long(parameter.opts), str(parameter.name)]))


def contrary_names_of(parameter: click.Parameter) -> list[str]:
    """The names that set the opposite of a switch: separate_encoders for shared_encoder."""
    return _long(parameter.secondary_opts)


def _long(options: list[str]) -> list[str]:
    return [_plain(option[2:]) for option in options if option.startswith("--")]


def _plain(name: str) -> str:
    return name.replace("-", "_")


def share_variables(command: click.Command, own_prefix: str) -> None:
    """Names the variables of options: DIPAIR_BUILD_MODEL, and DIPAIR_MODEL for all commands."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = [f"{own_prefix}_{name.upper()}" for name in names_of(parameter)]
            if parameter.name in SHARED_OPTIONS:
                names.append(f"{ENVIRONMENT_PREFIX}_{parameter.name.upper()}")
            parameter.envvar = names
    for name, child in _children(command).items():
        share_variables(child, variable_prefix(name, own_prefix))


def variable_prefix(name: str, before: str = ENVIRONMENT_PREFIX) -> str:
    """The prefix of a command's variables, such as DIPAIR_MAKE_DATASET_PAIRS."""
    return f"{before}_{_plain(name).upper()}"


def defaults_of(group: click.Group, path: Path | None) -> dict[str, Any]:
    """The settings of the file `path`, and of variables that set the opposite of a switch.

    Returns them by command and parameter, as click takes defaults. Raises `ClickException` if the
    file cannot be read, or names commands or settings that do not exist.
    """
    defaults: dict[str, Any] = {}
    if path is not None:
        try:
            settings = _parse(path)
        except (ValueError, OSError, RecursionError) as error:
            raise click.ClickException(f"{path} cannot be read as settings: {error}") from error
        defaults = _of_commands(group, settings, str(path))
    _add_contrary_variables(group, ENVIRONMENT_PREFIX, defaults)
    return defaults


def origin_of(error: click.BadParameter, config: Path | None) -> str:
    """The source of an invalid value for a message; empty if it was typed."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return ""
    source = error.ctx.get_parameter_source(error.param.name)
    if source is ParameterSource.DEFAULT_MAP and config:
        return f"from {config}"
    if source is ParameterSource.ENVIRONMENT:
        names = error.param.envvar or ()
        names = [names] if isinstance(names, str) else names
        given = [name for name in names if os.environ.get(name)]
        return f"from the variable {given[0]}" if given else "from a variable"
    return ""


def _of_commands(
    group: click.Group, settings: Any, file: str, path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The sections of a group's commands; {"make-dataset": {"pairs": {...}}} for one of a group."""
    if not isinstance(settings, dict):
        raise click.ClickException(f"{file}: expected an object a command, such as {SHAPE}")
    defaults: dict[str, Any] = {}
    by_name = {_plain(name): name for name in group.commands}
    for key, section in settings.items():
        name = by_name.get(_plain(key))
        if name is None:
            wanted, known = " ".join([*path, key]), ", ".join(group.commands)
            raise click.ClickException(f"{file}: there is no command {wanted!r}, only {known}")
        if not isinstance(section, dict):
            raise click.ClickException(
                f"{file}: expected an object of settings for {name}, such as {SHAPE}, got "
                f"{json.dumps(section)}"
            )
        command, own_path = group.commands[name], (*path, name)
        if isinstance(command, click.Group):
            defaults[name] = _of_commands(command, section, file, own_path)
        else:
            defaults[name] = dict(_of_options(command, section, file, " ".join(own_path)))
    return defaults


def _of_options(
    command: click.Command, section: Mapping[str, Any], file: str, path: str
) -> Iterator[tuple[str, Any]]:
    """Yields parameter and value of each setting; null is as if it were not there."""
    known = {name: parameter for parameter in command.params for name in names_of(parameter)}
    contrary = {name: each for each in command.params for name in contrary_names_of(each)}
    seen: dict[str, str] = {}
    for key, value in section.items():
        name, where = _plain(key), f"{file}: {path}: {key}"
        parameter = known.get(name) or contrary.get(name)
        if parameter is None:
            similar = get_close_matches(name, [*known, *contrary], n=1)
            hint = f"did you mean {similar[0].replace('_', '-')}? See" if similar else "see"
            raise click.ClickException(
                f"{file}: {path} has no setting {key}: {hint} `dipair-index {path} --help`"
            )
        target = str(parameter.name)
        if target in seen:
            raise click.ClickException(
                f"{file}: {path}: {seen[target]} and {key} are one setting: keep one"
            )
        seen[target] = key
        if value is not None:
            typed = _as_typed(parameter, value, where)
            yield target, typed if name in known else not _switch(typed, where)


def _as_typed(parameter: click.Parameter, value: Any, where: str) -> Any:
    """The value as text of a command line, so that flags and settings are validated alike."""
    several = parameter.multiple if isinstance(parameter, click.Option) else parameter.nargs == -1
    if isinstance(value, list) and not any(isinstance(each, dict | list) for each in value):
        if several:
            return [str(each) for each in value]
        if "," in (parameter.metavar or ""):  # a list in one word
            return ",".join(map(str, value))
    if isinstance(value, dict | list):
        expected = "a value, or a list of values" if several else "one value"
        raise click.ClickException(f"{where}: expected {expected}, got {json.dumps(value)}")
    return [str(value)] if several else str(value)


def _switch(value: Any, where: str) -> bool:
    try:
        return bool(click.BOOL.convert(value, None, None))
    except click.BadParameter as error:
        raise click.ClickException(f"{where}: {error.message}") from error


def _add_contrary_variables(command: click.Command, prefix: str, defaults: dict[str, Any]) -> None:
    """Puts the opposite of DIPAIR_TRAIN_SEPARATE_ENCODERS over what the file sets."""
    for parameter in command.params:
        for name in contrary_names_of(parameter):
            variable = f"{prefix}_{name.upper()}"
            if value := os.environ.get(variable):
                defaults[str(parameter.name)] = not _switch(value, variable)
    for name, child in _children(command).items():
        of_child: dict[str, Any] = defaults.get(name, {})
        _add_contrary_variables(child, variable_prefix(name, prefix), of_child)
        if of_child:
            defaults[name] = of_child


def _children(command: click.Command) -> Mapping[str, click.Command]:
    return command.commands if isinstance(command, click.Group) else {}


def _parse(path: Path) -> Any:
    """Parses TOML if the name says so, else JSON. Raises `ValueError` if Python cannot."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix != ".toml":
        return json.loads(text)
    if sys.version_info < (3, 11):
        raise ValueError("TOML needs Python 3.11 or later: write the settings as JSON")
    import tomllib

    return tomllib.loads(text)
