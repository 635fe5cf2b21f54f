"""Names that are no folders: what is said at once, and when a hub is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from dipair_index.models.hub import check_may_be_on_hub, check_there

PROGRAM = """
import json
import sys

from click.testing import CliRunner

from dipair_index.cli import cli

said = []
for command in json.load(sys.stdin):
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, SystemExit | None), done.exception
    said.append([done.exit_code, done.stderr.splitlines()[-1]])
print(json.dumps({"said": said, "torch": "torch" in sys.modules}))
"""

PAIRS = "query\tpassage\tlabel\n" + "".join(
    f"question {row % 12}\tanswer number {row}\t{row // 12 % 2}\n" for row in range(48)
)


class Hub:
    """A server on this machine: it hangs up, or says that it has no such file."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hangs_up = True
        hub = self

        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.asked.append(self.path)
                if hub.hangs_up:
                    self.close_connection = True
                else:
                    self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    thread = Thread(target=hub.server.serve_forever)
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


def run(folder: Path, endpoint: str, *commands: str) -> list[tuple[int, str]]:
    """Exit code and last line of commands that never get as far as torch."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([command.split() for command in commands]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**known, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["torch"]
    return [(code, line) for code, line in found["said"]]


COMMANDS = {
    "build --model mistyped": "DiPair model",
    "build --vectors org/mistyped": "encoder",
    "score pairs.tsv --model org/mistyped": "model",
    "label --dataset pairs.dataset --teacher mistyped": "cross-encoder",
    "train --dataset pairs.dataset --encoder mistyped": "encoder",
    "train-teacher --dataset pairs.dataset --encoder mistyped": "encoder",
}


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    made, *said = run(
        tmp_path, hub.url, "make-dataset pairs pairs.tsv --out pairs.dataset", *COMMANDS
    )
    assert made[0] == 0, made
    assert hub.asked == ["/mistyped/resolve/main/config.json"]
    for (command, kind), (code, line) in zip(COMMANDS.items(), said, strict=True):
        assert code == 1
        assert line.startswith(
            f"Error: no {kind} could be loaded from {command.split()[-1]} (there is no such "
            f"folder, and {hub.url} cannot be reached for a model of that name: "
        )


def test_what_can_only_be_a_folder_is_never_asked_for(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "models").mkdir()
    names = ("./mistyped", "/mistyped", "models/mistyped", "a/b/c", "mistyped.model", "~/mistyped")
    said = run(tmp_path, hub.url, *(f"build --model {name}" for name in names))
    assert hub.asked == []
    assert said == [
        (1, f"Error: no DiPair model could be loaded from {name} (there is no such folder): name a "
         "folder written by `dipair-index train`, or a hub model that can be reached")
        for name in names
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["bert-base-uncased", "org/name", "Qwen/Qwen2.5-0.5B", "intfloat/e5_small"]
)
def test_names_of_the_hub_may_be_there(name: str) -> None:
    check_may_be_on_hub(name)


def test_a_hub_that_answers_is_left_to_say_what_it_has(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.hangs_up = False
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_url", lambda name, file: f"{hub.url}/{name}/resolve/main/{file}"
    )
    check_there("org/name")
    assert hub.asked == ["/org/name/resolve/main/config.json"]
