"""The commands that the README and docs/ show: most are run, and the long ones are parsed."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from dipair_index.cli import cli

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"^ {4,}(?:\$ )?dipair-index (.*?)(?: {4}#.*| \| .*)?$", re.MULTILINE)
NAMED = re.compile(r"--model (\S+\.model)")
PAGES = {
    page.stem: COMMAND.findall(page.read_text(encoding="utf-8"))
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.stem != "cli"  # which is generated
}
MODELS = {name for page in PAGES.values() for line in page for name in NAMED.findall(line)}
LONG = {"make-dataset", "train-teacher", "label", "train", "serve", "push", "pull"}
"""Commands of minutes, without end, or with a hub: other tests run them."""
TRAINED = re.compile(r"images\.|new\.tsv|--dataset|--over-training|irds:|hf:|s3:|--engine")
"""What a command needs that the commands before it have only been parsed to make."""
PASSAGES = (
    "p1\thow bees dance in the winter\n"
    "honey-bees-6\tthe queen of the bees\n"
    "p3\twhy does dough rise: yeast and heat\n"
    "p4\tbread is dough and heat\n"
)


@pytest.fixture
def files(
    tmp_path: Path, tiny_package: None, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working folder of a reader, with a tiny model as the one in the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dipair_index.formats.msmarco.sample_folder", lambda: tmp_path / "sample")
    for name, text in {
        "sample/collection.tsv": PASSAGES,
        "passages.tsv": PASSAGES,
        "manuals.tsv": PASSAGES,
        "queries.tsv": "q1\twhy does dough rise\nq2\thow bees dance\n",
        "qrels.txt": "q1 0 p3 1\nq2 0 p1 1\nq2 0 honey-bees-6 1\n",
        "bm25.run": "q1 Q0 p4 1 9 bm25\nq1 Q0 p3 2 8 bm25\nq2 Q0 p1 1 7 bm25\n",
        "reranked.run": "q1 Q0 p3 1 2 dipair\nq2 Q0 p1 1 1 dipair\n",
        "splade.run": "q1 Q0 p3 1 9 splade\nq2 Q0 honey-bees-6 1 8 splade\nq2 Q0 p1 2 7 splade\n",
        "more.tsv": "p7\tthe moon and the tide\n",
        "changed.tsv": "p7\tthe sun and the tide\np8\tgreen tea leaves\n",
        "pairs.tsv": "q1\tp3\nq2\tp1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    pq.write_table(pa.table({"left": ["q1", "q2"], "right": ["p3", "p1"]}), "pairs.parquet")
    for model in MODELS:
        shutil.copytree(tiny_model_dir, model)


@pytest.mark.parametrize("page", [page for page, commands in PAGES.items() if commands])
def test_the_commands_of_a_page_run_one_after_the_other(
    page: str, files: None, run: Callable[..., Result]
) -> None:
    for line in PAGES[page]:
        command, _, output = line.partition(" > ")
        arguments = shlex.split(command)
        if arguments[0] in LONG or TRAINED.search(command):
            parse(arguments)
            continue
        result = run(*arguments)
        assert result.exit_code == 0, f"{line}: {result.output}"
        if output:
            assert result.stdout
            Path(output).write_text(result.stdout)


def parse(arguments: list[str]) -> None:
    """Refuses options and values that a command does not have; files need not be there."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments[0])
        assert found is not None, arguments
        command, arguments = found, arguments[1:]
        context = click.Context(command, parent=context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click.Path, "convert", lambda self, value, parameter, context: value)
        command.make_context(command.name, arguments, parent=context.parent).close()


def test_the_pages_show_commands_and_wrong_ones_are_found() -> None:
    assert len(PAGES["README"]) > 25
    with pytest.raises(click.NoSuchOption, match="--no-such-option"):
        parse(["train", "--no-such-option"])
