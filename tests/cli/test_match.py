"""`match`: from two indexes to Parquet files of scores, and in one sentence what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from dipair_index.encoders.dual_encoder import DualEncoder

Run = Callable[..., Result]

QUERIES = {"q1": "why does dough rise", "q2": "bees in winter", "q3": "the moon", "q4": "tea"}
SHAPE = len(QUERIES), 6
PAIRS = [("q2", "p1"), ("q1", "p3"), ("q2", "p6"), ("q4", "p1"), ("q1", "p3")]


class Built(NamedTuple):
    left: Path
    right: Path
    logits: dict[tuple[str, str], float]

    def score(self, *pair: str) -> float:
        return float(1 / (1 + np.exp(-self.logits[pair])))


@pytest.fixture(scope="module")
def built(
    run: Run, built_index: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """Two indexes of exact tokens, and what the model's own head says of each pair."""
    folder = tmp_path_factory.mktemp("match")
    (folder / "queries.tsv").write_text(
        "".join(f"{key}\t{text}\n" for key, text in QUERIES.items())
    )
    corpus = built_index.parent / "corpus.tsv"
    for source, name, side in ((folder / "queries.tsv", "q", "query"), (corpus, "p", "passage")):
        made = run("build", "--corpus", source, "--index-dir", folder / name, "--side", side,
                   "--model", tiny_model_dir, "--codec", "float32")  # fmt: skip
        assert made.exit_code == 0, made.output
    encoder = DualEncoder.load(tiny_model_dir)
    ids, texts = zip(*(line.split("\t") for line in corpus.read_text().splitlines()), strict=True)
    asked = encoder.encode_queries(list(QUERIES.values())).tokens
    rows = [encoder.logits(one, encoder.encode_passages(texts).tokens) for one in asked]
    logits = {
        (query, passage): float(row[at])
        for query, row in zip(QUERIES, rows, strict=True)
        for at, passage in enumerate(ids)
    }
    return Built(folder / "q", folder / "p", logits)


@pytest.fixture
def match(run: Run, built: Built) -> Callable[..., Result]:
    def call(*options: str | Path) -> Result:
        return run("match", built.left, built.right, *options)

    return call


def table_of(out: Path) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, sorted(out.glob("scores-*.parquet"))))


def pairs_of(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["left"].to_pylist(), table["right"].to_pylist(), strict=True))


def check(table: pa.Table, built: Built) -> None:
    expected = [built.score(*pair) for pair in pairs_of(table)]
    assert table["score"].to_pylist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_pairs_are_scored_in_their_order_and_other_columns_stay(
    suffix: str, match: Callable[..., Result], built: Built, tmp_path: Path
) -> None:
    file, out = tmp_path / f"pairs.{suffix}", tmp_path / "out"
    columns = dict(zip(("left", "right"), map(list, zip(*PAIRS, strict=True)), strict=True))
    if suffix == "tsv":
        file.write_text("".join("\t".join(pair) + "\n" for pair in PAIRS))
    else:
        pq.write_table(pa.table({"label": [1, 0, 0, 1, 0], **columns, "who": list("abcde")}), file)
    done = match("--pairs", file, "--out", out, "--block-size", "2", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scored"] == 5
    assert f"5 pairs are scored in {out}, 5 of them now" in done.stderr
    table = table_of(out)
    assert pairs_of(table) == PAIRS
    check(table, built)
    if suffix == "parquet":
        assert table.column_names == ["label", "left", "right", "score", "who"]
        assert (table["label"].to_pylist(), table["who"].to_pylist()) == (
            [1, 0, 0, 1, 0],
            list("abcde"),
        )
    again = match("--pairs", file, "--out", out, "--block-size", "2")
    assert f"5 pairs are scored in {out}, 0 of them now" in again.stderr


def test_all_keeps_the_best_and_nearest_those_of_the_vectors(
    match: Callable[..., Result], built: Built, tmp_path: Path
) -> None:
    assert match("--all", "--top-k", "2", "--out", tmp_path / "best").exit_code == 0
    table = table_of(tmp_path / "best")
    check(table, built)
    best = [
        (query, passage)
        for query in QUERIES
        for _, passage in sorted((-score, passage) for (of, passage), score in built.logits.items()
                                 if of == query)[:2]
    ]  # fmt: skip
    assert pairs_of(table) == best
    assert match("--nearest", "3", "--out", tmp_path / "near").exit_code == 0
    table = table_of(tmp_path / "near")
    assert table.column_names == ["left", "right", "score", "retrieval_score"]
    assert table.num_rows == 3 * len(QUERIES)
    check(table, built)


def test_raw_scores_are_logits_and_so_is_the_least(
    match: Callable[..., Result], built: Built, tmp_path: Path
) -> None:
    least = float(np.median(list(built.logits.values()))) + 1e-4
    chosen = ("--all", "--raw-scores", "--min-score", str(least), "--out", tmp_path)
    assert match(*chosen).exit_code == 0
    found = dict(
        zip(pairs_of(table_of(tmp_path)), table_of(tmp_path)["score"].to_pylist(), strict=True)
    )
    assert found == pytest.approx(
        {pair: logit for pair, logit in built.logits.items() if logit >= least}, abs=1e-4
    )


def test_an_estimate_needs_no_folder(match: Callable[..., Result]) -> None:
    found = match("--all", "--estimate", "--json")
    assert found.exit_code == 0, found.output
    values = json.loads(found.stdout)
    assert (values["pairs"], values["rows"], values["blocks"]) == (24, 24, 1)
    assert values["hours"] == pytest.approx(24 / values["pairs_per_second"] / 3600)
    assert values["bytes"] > 24 * 4


def refused(result: Result) -> str:
    """The one sentence of an error, without what stands around it."""
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    *_, last = result.stderr.rstrip("\n").split("\n")
    return last.removeprefix("Error: ")


def test_bad_pairs_are_named_and_what_is_done_stays(
    match: Callable[..., Result], built: Built, tmp_path: Path
) -> None:
    file, out = tmp_path / "pairs.tsv", tmp_path / "out"
    options = ("--pairs", file, "--out", out, "--block-size", "2")
    file.write_text("q1\tp1\nq2\tp2\nq3\tp3\nq4\tp9\nq4\tp4\n")
    assert refused(match(*options)) == (
        f"line 4 of {file}: the right id p9 is not in {built.right}: add these texts to the index, "
        "or leave the rows out"
    )
    done = (out / "scores-00000000.parquet").stat().st_mtime_ns
    assert "the blocks that are done stay in" in match(*options).stderr
    file.write_text("q1\tp1\nq2\tp2\nq3")
    assert refused(match("--pairs", file, "--out", tmp_path / "cut")) == (
        f"line 3 of {file}: expected 2 tab-separated ids, got 1"
    )
    assert "another match, whose pairs digest is" in refused(match(*options))
    assert (out / "scores-00000000.parquet").stat().st_mtime_ns == done


def test_folders_and_indexes_that_do_not_fit_are_refused(
    match: Callable[..., Result],
    run: Run,
    built: Built,
    make_model: Callable[..., DualEncoder],
    tmp_path: Path,
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused(match("--all", "--out", tmp_path)) == (
        f"{tmp_path} holds files that no match has written, such as notes.txt: choose another --out"
    )
    out = tmp_path / "out"
    assert match("--all", "--out", out).exit_code == 0
    assert refused(match("--all", "--raw-scores", "--out", out)) == (
        f"{out} holds another match, whose raw scores is False and not True: choose another --out, "
        "give the same settings to go on with it, or pass --overwrite to replace it"
    )
    assert match("--all", "--raw-scores", "--out", out, "--overwrite").exit_code == 0
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("p1\ttea\n")
    run("build", "--corpus", corpus, "--index-dir", tmp_path / "i", "--model", make_model().name)
    said = refused(run("match", built.left, tmp_path / "i", "--all", "--out", tmp_path / "new"))
    assert re.fullmatch(
        f"{built.left} was built by the model .*, and {tmp_path / 'i'} by .*: build one of them "
        "again by the model of the other",
        said,
    )
    absent = tmp_path / "absent"
    said = refused(run("match", built.left, absent, "--all", "--out", tmp_path / "new"))
    assert str(absent) in said
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".txt"] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("", "give one of --pairs FILE, --all and --nearest C"),
        ("--all --nearest 3", "give one of --pairs FILE, --all and --nearest C"),
        ("--all", "give --out FOLDER for the scores, or --estimate"),
        (
            "--all --out x --workers 2",
            "workers are for the engine ray: the plain one is one process",
        ),
        ("--pairs absent.tsv --out x", "there is no file or folder absent.tsv: check the path"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    options: str, complaint: str, match: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert refused(match(*options.split())) == complaint
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(mounted: Callable[..., Iterator[Path]], tmp_path: Path) -> Iterator[Path]:
    yield from mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", place=tmp_path / "disk")


def test_a_full_disk_is_named(match: Callable[..., Result], small_disk: Path) -> None:
    out = small_disk / "out"
    result = match("--all", "--block-size", "1", "--out", out)
    assert re.fullmatch(
        f"cannot write {out}/.*: No space left on device. Make room.*", refused(result)
    )
    assert f"the blocks that are done stay in {out}: the same command goes on" in result.stderr
    assert (out / "scores-00000000.parquet").exists()


def test_a_bucket_that_refuses_is_named(match: Callable[..., Result], bucket: str) -> None:
    del bucket  # whose server the environment names
    result = match("--all", "--out", "s3://no-such-bucket/out")
    assert refused(result).startswith("cannot write s3://no-such-bucket/out/manifest.json: ")
    assert refused(result).endswith(": make the bucket first")
