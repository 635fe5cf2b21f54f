import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from dipair_index.rerank.index import DiPairIndex
from dipair_index.threads import VARIABLES

Run = Callable[..., Result]
STEPS = ["encode", "retrieve", "gather", "score", "rest", "whole"]

pytestmark = pytest.mark.usefixtures("tiny_package")


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.tsv"
    path.write_text("q1\thow bees dance\nq2\tthe moon\n")
    return path


@pytest.fixture
def timed(run: Run, built_index: Path, queries: Path) -> Callable[..., dict[str, Any]]:
    """What `--json` prints, of the index of six passages."""

    def bench(*arguments: str) -> dict[str, Any]:
        result = run("bench", "--index-dir", built_index, "--queries", queries, "--json",
                     *arguments)  # fmt: skip
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return bench


def test_a_pipe_gets_a_line_a_part_for_each_number_of_candidates(
    run: Run, built_index: Path, queries: Path
) -> None:
    result = run("bench", "--index-dir", built_index, "--queries", queries, "--candidates", "2,5")
    header, *lines = [line.split("\t") for line in result.stdout.splitlines()]

    assert header == ["candidates", "part", "p50 ms", "p95 ms", "pairs/s"]
    assert [line[:2] for line in lines] == [[count, part] for count in "25" for part in STEPS]
    assert all(0 <= float(line[2]) <= float(line[3]) for line in lines)
    assert [line[1] for line in lines if line[4]] == ["score", "score"]
    for said in ("bytes a passage: tokens", "vectors", "texts", "peak memory", "MiB", "loaded in"):
        assert said in result.stderr


def test_searches_are_queries_times_repeats(timed: Callable[..., dict[str, Any]]) -> None:
    found = timed("--candidates", "3", "--repeat", "4")
    assert [each["searches"] for each in found["measured"]] == [8]
    assert found["passages"] == 6


def test_the_parts_make_up_the_whole_and_the_speed(timed: Callable[..., dict[str, Any]]) -> None:
    (measured,) = timed("--candidates", "4", "--repeat", "1")["measured"]
    spent = measured["milliseconds"]

    assert list(spent) == STEPS
    assert all(0 < spread["p50"] <= spread["p95"] for spread in spent.values())
    # with two searches each median is a mean, which adds up
    parts = sum(spent[part]["p50"] for part in STEPS[:-1])
    assert parts == pytest.approx(spent["whole"]["p50"])
    assert measured["pairs_per_second"] == pytest.approx(4 / spent["score"]["p50"] * 1000)


def test_bytes_are_those_of_info(
    run: Run, built_index: Path, timed: Callable[..., dict[str, Any]]
) -> None:
    info = json.loads(run("info", "--index-dir", built_index, "--json").stdout)
    found = timed("--candidates", "2")

    assert found["bytes_per_passage"] == info["bytes_per_passage"]
    assert found["peak_memory_bytes"] > 10 * 2**20
    assert found["load_seconds"] > 0


def test_the_threads_that_compute_are_told(
    timed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "2")  # so that what the command sets is undone
    found = timed("--candidates", "2", "--repeat", "1", "--threads", "3", "--precision", "bfloat16")

    # torch was imported before, and read no variable again
    assert (found["threads"], found["backend"]) == (torch.get_num_threads(), "torch")


def test_fewer_passages_than_candidates_are_all_scored_and_it_is_said(
    run: Run, built_index: Path, queries: Path
) -> None:
    result = run("bench", "--index-dir", built_index, "--queries", queries, "--json",
                 "--candidates", "6,7")  # fmt: skip
    measured = json.loads(result.stdout)["measured"]

    assert [(each["candidates"], each["scored"]) for each in measured] == [(6, 6), (7, 6)]
    assert result.stderr.count("the index holds 6 passages: each search scores them all") == 1


def test_the_first_searches_are_not_counted(
    timed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    search = DiPairIndex.search

    def counted(index: DiPairIndex, query: str, top_k: int, candidates: int) -> Any:
        asked.append((query, candidates))
        return search(index, query, top_k, candidates)

    monkeypatch.setattr(DiPairIndex, "search", counted)
    (measured,) = timed("--candidates", "3", "--repeat", "2")["measured"]

    assert measured["searches"] == 4
    assert asked == [("how bees dance", 3), ("the moon", 3)] * 3


def test_without_an_index_one_of_the_sample_is_built_for_as_long_as_the_command_runs(
    run: Run, tmp_path: Path, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("bench", "--queries", queries, "--json", "--candidates", "5")
    found = json.loads(result.stdout)

    assert found["passages"] == 6
    assert "building one of the bundled sample" in result.stderr
    assert "ask it with" not in result.stderr  # it will be gone
    assert not Path(found["index_dir"]).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["queries.tsv"]


@pytest.mark.parametrize("given", ["", "0", "100,", "10;20", "-1", "many"])
def test_candidates_that_are_no_numbers_are_refused(run: Run, given: str) -> None:
    result = run("bench", "--candidates", given)
    assert result.exit_code == 2
    assert "is not a list of whole numbers from 1 on" in result.output
    assert "such as 100,1000" in " ".join(result.output.split())


def test_an_index_that_is_named_must_be_there(run: Run, tmp_path: Path, queries: Path) -> None:
    result = run("bench", "--index-dir", tmp_path / "none", "--queries", queries)
    assert result.exit_code == 1
    assert f"{tmp_path / 'none'}" in result.output
    assert not (tmp_path / "none").exists()


def test_a_file_without_queries_is_refused(run: Run, built_index: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("")
    result = run("bench", "--index-dir", built_index, "--queries", tmp_path / "empty.tsv")
    assert result.exit_code == 1
    assert "empty.tsv" in result.output


def test_an_index_whose_passages_are_all_deleted_is_refused(
    run: Run, tmp_path: Path, built_index: Path, queries: Path
) -> None:
    index = tmp_path / "all.index"
    run("build", "--index-dir", index, "--model", json.loads(
        run("info", "--index-dir", built_index, "--json").stdout)["model"])  # fmt: skip
    with DiPairIndex.open(index) as opened:
        opened.delete([f"p{number}" for number in range(1, 7)])
    result = run("bench", "--index-dir", index, "--queries", queries)
    assert result.exit_code == 1
    assert "the index holds no passage: there is nothing to time" in result.output
