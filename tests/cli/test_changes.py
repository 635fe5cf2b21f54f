"""What `add`, `update`, `delete` and `compact` do to an index, and what they say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from dipair_index.records import Passage
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot

Run = Callable[..., Result]
Digest = Callable[[Path], str]

pytestmark = pytest.mark.usefixtures("tiny_package")
MORE = "p7\tthe river and the ice\np8\tgreen tea leaves\n"
ASK = 'ask it with `dipair-index rerank --query "..."`'


@pytest.fixture(autouse=True)
def index(tmp_path: Path, built_index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of p1 to p6 at the default place, and more passages beside it."""
    shutil.copytree(built_index, tmp_path / "dipair.index")
    (tmp_path / "more.tsv").write_text(MORE)
    (tmp_path / "changed.tsv").write_text("p2\tvolcano ash and lava\np9\tsolar panels\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dipair.index"


def lines(result: Result, exit_code: int = 0) -> list[str]:
    """What was said on stderr, without times."""
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
    said = re.sub(r": [\d.]+ s, [\d,]+ passages a second", "", result.stderr)
    return said.splitlines()


def texts() -> dict[str, str]:
    with Snapshot.open("dipair.index") as now:
        return {each.passage_id: each.text for each in now.passages(list(now))}


def ranking(run: Run, *arguments: str) -> list[tuple[str, float]]:
    result = run("rerank", "--query", "the river and the volcano", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [(each["id"], each["score"]) for each in json.loads(result.stdout)["results"]]


def test_added_passages_are_found(run: Run) -> None:
    assert lines(run("add", "--corpus", "more.tsv")) == [
        "added 2 passages", f"dipair.index holds 8 passages: {ASK}"
    ]  # fmt: skip
    assert texts()["p7"] == "the river and the ice"
    assert {each for each, _ in ranking(run)} == {f"p{n}" for n in range(1, 9)}


def test_passages_may_come_on_stdin_into_an_index_elsewhere(run: Run) -> None:
    Path("dipair.index").rename("my index")
    jsonl = '{"id": "p7", "title": "Tea", "text": "leaves"}\n'
    result = run("add", "--corpus", "-", "--index-dir", "my index", stdin=jsonl)
    assert lines(result)[1].endswith("`dipair-index rerank --index-dir 'my index' --query \"...\"`")
    with Snapshot.open("my index") as now:
        assert now.passages(["p7"]) == [Passage("p7", "leaves", "Tea", {})]


def test_adding_what_is_there_is_refused_by_name(run: Run, index: Path, digest: Digest) -> None:
    before = digest(index)
    assert lines(run("add", "--corpus", "changed.tsv"), exit_code=1) == [
        "Error: 1 of these passages is in dipair.index already, such as p2: replace them with "
        "`dipair-index update`, or leave them out"
    ]
    assert digest(index) == before


def test_update_replaces_and_adds(run: Run) -> None:
    assert lines(run("update", "--corpus", "changed.tsv")) == [
        "replaced 1 passage and added 1", f"dipair.index holds 7 passages: {ASK}"
    ]  # fmt: skip
    found = texts()
    assert (found["p2"], found["p9"]) == ("volcano ash and lava", "solar panels")


@pytest.mark.parametrize("command", ["add", "update"])
def test_an_interrupted_run_leaves_the_index_and_goes_on(
    run: Run, index: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from dipair_index.formats.collections import read_passages

    def interrupted(source: str) -> Iterator[Passage]:
        for number, passage in enumerate(read_passages(source)):
            if number == 1:
                raise KeyboardInterrupt
            yield passage

    before = digest(index / "parts")
    monkeypatch.setattr("dipair_index.rerank.part_builder.PASSAGES_PER_CHUNK", 1)
    with monkeypatch.context() as patch:
        patch.setattr("dipair_index.formats.collections.read_passages", interrupted)
        stopped = run(command, "--corpus", "more.tsv")
    assert lines(stopped, exit_code=130) == [
        "Error: interrupted: 1 passage is stored in dipair.index/building, run the same command "
        "with --resume to go on"
    ]
    assert (digest(index / "parts"), len(texts())) == (before, 6)

    refused = run(command, "--corpus", "more.tsv")
    assert "1 passage of an interrupted add: pass --resume" in lines(refused, exit_code=1)[0]
    other = lines(run(command, "--corpus", "changed.tsv", "--resume"), exit_code=1)
    assert "the corpus does not begin with the 1 passage of the unfinished part" in other[0]
    assert len(texts()) == 6
    resumed = lines(run(command, "--corpus", "more.tsv", "--resume"))
    assert resumed[0].endswith("added 2, 1 of them before" if command == "update" else
                               "added 2 passages, 1 of them before")  # fmt: skip
    assert len(texts()) == 8


def test_what_an_interrupted_add_has_left_can_be_thrown_away(
    run: Run, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipair_index.rerank.part_builder.PASSAGES_PER_CHUNK", 1)
    Path("broken.tsv").write_text("p7\tone\np8 two\n")
    failed = lines(run("add", "--corpus", "broken.tsv"), exit_code=1)
    assert failed[0] == (
        "1 passage is stored in dipair.index/building: run the same command with --resume to go on"
    )
    assert "line 2 of broken.tsv" in failed[1]
    assert run("add", "--corpus", "more.tsv", "--overwrite").exit_code == 0
    assert texts()["p7"] == "the river and the ice"
    assert not (index / "building").exists()


def test_deleted_passages_are_found_no_more(run: Run) -> None:
    assert lines(run("delete", "p2")) == ["deleted 1 passage: dipair.index holds 5"]
    assert {each for each, _ in ranking(run)} == {"p1", "p3", "p4", "p5", "p6"}


@pytest.mark.parametrize("source", ["ids.txt", "-"])
def test_ids_may_come_from_a_file_or_stdin_and_repeat(run: Run, source: str) -> None:
    Path("ids.txt").write_text("p1\np3\n\np1\n")
    result = run("delete", "p3", "p4", "--ids", source, stdin="p1\r\np3\r\n")
    assert lines(result) == [
        "deleted 3 passages: dipair.index holds 3",
        "3 of 6 stored passages are deleted: free the disk space with `dipair-index compact`",
    ]
    assert sorted(texts()) == ["p2", "p5", "p6"]


def test_an_unknown_id_is_named_and_nothing_deleted(run: Run, index: Path, digest: Digest) -> None:
    before = digest(index)
    assert lines(run("delete", "p1", "p77", "p78"), exit_code=1) == [
        "Error: nothing was deleted, since these ids are not in the index: p77, p78. Take them "
        "out, or pass --ignore-missing"
    ]
    assert digest(index) == before
    assert lines(run("delete", "p1", "p77", "p78", "--ignore-missing")) == [
        "2 ids are not in dipair.index and were left out",
        "deleted 1 passage: dipair.index holds 5",
    ]
    assert lines(run("delete", "p1", "--ignore-missing")) == [
        "1 id is not in dipair.index and was left out",
        "deleted 0 passages: dipair.index holds 5",
    ]


def test_an_index_may_become_empty_and_be_filled_again(run: Run) -> None:
    assert lines(run("delete", *(f"p{n}" for n in range(1, 7))))[0].endswith("holds 0")
    assert ranking(run) == []
    assert lines(run("compact"))[0].startswith("compacted 0 passages")
    assert ranking(run) == []
    assert run("add", "--corpus", "more.tsv").exit_code == 0
    assert {each for each, _ in ranking(run)} == {"p7", "p8"}


def test_compact_keeps_what_is_live_and_says_what_it_freed(
    run: Run, index: Path, tiny_model_dir: Path
) -> None:
    run("add", "--corpus", "more.tsv")
    run("update", "--corpus", "changed.tsv")
    run("delete", "p1", "p8")
    before = ranking(run)
    parts = len(Manifest.read(index).parts)
    said = lines(run("compact"))

    expected = rf"compacted 7 passages, which were in {parts} parts?: ([\d,]+) bytes before, "
    bytes_before, bytes_now = re.fullmatch(expected + r"([\d,]+) now", said[0]).groups()
    assert len(said) == 1
    size = sum(file.stat().st_size for file in index.rglob("*") if file.is_file())
    assert int(bytes_now.replace(",", "")) == size < int(bytes_before.replace(",", ""))
    assert len(Manifest.read(index).parts) == 1
    assert ranking(run) == before

    live = "".join(f"{each}\t{text}\n" for each, text in texts().items())
    Path("live.tsv").write_text(live)
    run("build", "--corpus", "live.tsv", "--index-dir", "fresh", "--model", tiny_model_dir)
    fresh = ranking(run, "--index-dir", "fresh")
    assert [each for each, _ in fresh] == [each for each, _ in before]
    assert lines(run("compact")) == [
        "nothing to compact: dipair.index is one part, and nothing in it is deleted"
    ]


def test_a_part_that_is_read_stays_until_the_next_change(run: Run, index: Path) -> None:
    run("delete", "p1")
    with Snapshot.open(index) as old:
        assert lines(run("compact"))[1] == (
            "the old parts are still read by a process: the next change after it ends removes them"
        )
        assert old.passages(["p2"])[0].text == "the queen of the bees"
    assert len(list((index / "parts").iterdir())) == 2
    run("delete", "p2")
    assert len(list((index / "parts").iterdir())) == 1


def test_an_interrupted_compact_leaves_the_index(
    run: Run, index: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("delete", "p1")
    before = digest(index)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dipair_index.stores.index_writer.build_ann", interrupted)
    assert lines(run("compact"), exit_code=130) == [
        "Error: interrupted: the index answers as before"
    ]
    assert digest(index) == before


@pytest.mark.parametrize(
    "command", ["add --corpus more.tsv", "update --corpus more.tsv", "delete p1", "compact"]
)
def test_a_second_writer_is_refused_and_told_of_the_first(
    run: Run, index: Path, command: str
) -> None:
    with IndexWriter(index):
        result = run(*command.split())
    assert result.exit_code == 1
    assert f"Error: {index.resolve()} is being changed by process " in result.stderr
    assert "let it end, then run this again" in result.stderr
