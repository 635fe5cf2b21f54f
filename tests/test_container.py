"""The Dockerfile and the compose file, which are not built here: what they name is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dipair_index.cli import cli

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
FOLDERS = ("dipair_index", "stores", "rerank", "cli")


def instruction(name: str) -> str:
    found = re.search(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    assert found, name
    return found[1]


def test_the_command_can_be_parsed_and_listens_at_the_port() -> None:
    program, *arguments = json.loads(instruction("ENTRYPOINT")) + json.loads(instruction("CMD"))
    assert program == "dipair-index"
    command = cli.commands[arguments[0]]
    given = command.make_context("serve", arguments[1:]).params
    assert (given["host"], given["no_auth"]) == ("0.0.0.0", False)
    assert str(given["port"]) == instruction("EXPOSE")
    assert f":{given['port']}/ready" in instruction("HEALTHCHECK")
    assert f'"{given["port"]}:{given["port"]}"' in COMPOSE
    (index_dir,) = given["index_dir"]
    assert f":{index_dir}" in COMPOSE
    assert index_dir.parent == Path(instruction("VOLUME"))


def test_what_is_copied_and_installed_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    needed = ("setup.cfg", "constraints.txt", "README.md", *FOLDERS)
    for name in needed:
        assert (ROOT / name).exists()
        assert name not in ignored
    extra = re.search(r'"\.\[(\w+)\]"', DOCKERFILE)
    assert extra
    assert f"\n{extra[1]} =\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
