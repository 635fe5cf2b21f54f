"""`dipair-index inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("tiny_package")
PAIR = ("--query", "honey bees", "--text", "a <b> queen & her bees", "--vocabulary", "20")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_pair_needs_no_index(run: Run) -> None:
    found = json.loads(run("inspect", *PAIR, "--json").stdout)
    assert {"query", "passage", "tokens", "similarity", "logit", "redundancy"} == found.keys()
    assert len(found["similarity"]) == len(found["tokens"]["query"])
    for each in found["tokens"]["query"]:
        row = found["similarity"][each["token"]]
        assert row[each["met"]] == max(row) == pytest.approx(each["similarity"])
    assert all(len(each["nearest"]) == 3 for each in found["tokens"]["passage"])
    logit = found["logit"]
    assert logit["logit"] == pytest.approx(logit["similarity"] + logit["added"])


def test_a_passage_of_an_index_is_inspected_as_its_text(run: Run, built_index: Path) -> None:
    text = json.loads(
        run("rerank", "--index-dir", built_index, "--query", "x", "--json").stdout.splitlines()[0]
    )["results"][0]
    asked = ("inspect", "--query", "x", "--vocabulary", "0", "--json")
    of_index = run(*asked, "--index-dir", built_index, "--passage", text["id"])
    of_text = run(*asked, "--text", json.loads(of_index.stdout)["passage"])
    assert json.loads(of_index.stdout) == json.loads(of_text.stdout)
    missing = run(*asked, "--index-dir", built_index, "--passage", "nowhere")
    assert (missing.exit_code, "nowhere" in missing.stderr) == (1, True)


def test_tables_are_for_people(run: Run) -> None:
    result = run("inspect", *PAIR)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("query token\tstands for\tmet passage token")
    assert "effective rank" in result.stderr
    assert "the head's addition" in result.stderr


@pytest.mark.parametrize(
    ("suffix", "begins"), [("html", b"<!doctype html>"), ("png", b"\x89PNG"), ("svg", b"<?xml")]
)
def test_figures_are_files_of_their_kind(run: Run, suffix: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib")
    result = run("inspect", *PAIR, "--figure", f"pair.{suffix}")
    assert result.exit_code == 0, result.output
    data = Path(f"pair.{suffix}").read_bytes()
    assert data.startswith(begins)
    if suffix == "html":
        page = data.decode()
        assert "<b> queen" not in page
        assert "queen" in page
        assert "<svg" in page
        assert "http" not in page.partition("</svg>")[2]


def test_an_index_is_inspected_with_nothing_added(run: Run) -> None:
    pytest.importorskip("ir_measures")
    found = json.loads(run("inspect", "--queries", _queries(), "--json").stdout)
    assert (found["passages"], found["queries"], found["judged"]) == (6, 2, False)
    assert found["kept"][0]["measure"] == pytest.approx(1)
    assert Path("dipair.index").is_dir()
    result = run("inspect", "--queries", _queries(), "--figure", "used.svg")
    assert result.stdout.startswith("share of the tokens")
    assert Path("used.svg").read_bytes().startswith(b"<?xml")


def _queries() -> str:
    Path("queries.tsv").write_text("q1\thoney\nq2\ttea\n")
    return "queries.tsv"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--passage", "p1"), "need --query"),
        (("--query", "x"), "give either --passage ID or --text TEXT"),
        (("--query", "x", "--text", "y", "--figure", "a.txt"), "must end in"),
        (("--over-training", "."), "holds no models of checkpoints"),
    ],
)
def test_mistakes_are_told(run: Run, arguments: tuple[str, ...], said: str) -> None:
    Path("nothing").mkdir()
    if "--over-training" in arguments:
        arguments = ("--over-training", "nothing", "--queries", _queries())
    result = run("inspect", *arguments)
    assert result.exit_code != 0
    assert said in result.stderr


def test_checkpoints_are_inspected_in_their_order(
    run: Run, built_index: Path, tiny_encoder_dir: Path
) -> None:
    pairs = ["query\tpassage\tlabel\tsplit"]
    for split in ("train", "valid", "test"):
        pairs += [f"honey {split}\tthe queen of the bees\t1\t{split}"]
        pairs += [f"honey {split}\tgreen tea\t0\t{split}"]
    Path("pairs.tsv").write_text("\n".join(pairs) + "\n")
    columns = "query,passage,label,split"
    run("make-dataset", "pairs", "pairs.tsv", "--columns", columns, "--out", "some.dataset")
    run("label", "--dataset", "some.dataset", "--judged")
    trained = run(
        "train", "--dataset", "some.dataset", "--out", "some.model", "--encoder", tiny_encoder_dir,
        "--dim", 16, "--group", 2, "--stage-one-epochs", 12, "--stage-two-epochs", 2,
        "--save-steps", 5, "--keep-checkpoints", "kept",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    asked = ("inspect", "--over-training", "kept", "--index-dir", built_index,
             "--queries", _queries())  # fmt: skip
    found = json.loads(run(*asked, "--json").stdout)
    assert (found["queries"], found["passages"]) == (2, 6)
    moments = {each["checkpoint"]: each for each in found["moments"]}
    assert list(moments) == [
        "stage-1-step-5", "stage-1-step-10", "stage-1-step-12", "stage-2-step-2"
    ]  # fmt: skip
    # the encoder and the projections of the residual stand still in stage one, unlike the head
    assert all(each["effective_rank"] >= 1 for each in moments.values())
    assert moments["stage-1-step-5"]["added_spread"] > 0
    result = run(*asked, "--figure", "course.html")
    assert result.stdout.startswith("checkpoint\tmean cosine\teffective rank")
    assert "Tokens over the training" in Path("course.html").read_text()
