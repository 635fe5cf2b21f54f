import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from dipair_index.stores.manifest import Manifest
from dipair_index.stores.names import DEFAULT_CODEC

Run = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("tiny_package")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def index(tmp_path: Path, built_index: Path) -> Path:
    return Path(shutil.copytree(built_index, tmp_path / "dipair.index"))


def rows(result: Result) -> dict[str, str]:
    """The first and the last column of what was printed."""
    assert result.exit_code == 0, result.output
    cells = [line.split("\t") for line in result.stdout.splitlines()]
    return {row[0]: row[-1] for row in cells}


def test_an_index_is_described(run: Run, index: Path, tiny_model_dir: Path) -> None:
    run("delete", "p1")
    result = run("info")
    found, manifest = rows(result), Manifest.read(index)

    assert result.stderr == ""
    tokens = (index / "parts" / "000001" / "tokens" / "data.mdb").stat().st_size
    size = sum(file.stat().st_size for file in index.rglob("*") if file.is_file())
    assert found.pop("bytes of vectors").endswith(" a passage")
    assert found.pop("bytes of texts").endswith(" a passage")
    assert found == {
        "index": "dipair.index",
        "passages": "5",
        "deleted": "1, which `dipair-index compact` removes",
        "parts": "1",
        "side": "passage",
        "model": f"{tiny_model_dir} ({manifest.model_fingerprint})",
        "licence": "not stated by the model's card",
        "tokens": "4 of a query, 8 of a passage, 16 dimensions",
        "store": f"lmdb, {DEFAULT_CODEC}",
        "vectors": f"model ({manifest.embedder_fingerprint}), 32 dimensions",
        "ANN": "flat",
        "long passages": "0 cut",
        "created": f"{manifest.created} by dipair-index {manifest.package_version}, format 2",
        "bytes of tokens": f"{tokens:,}, {tokens / 6:,.0f} a passage",
        "bytes in all": f"{size:,}, {size / 6:,.0f} a passage",
    }  # fmt: skip


def test_the_licence_of_the_model_is_described(run: Run, index: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: own\nlicense_link: https://a.test\n---\n"
    )
    replace(Manifest.read(index), model=str(tmp_path)).write(index)
    assert rows(run("info"))["licence"] == "own (https://a.test)"
    licence = {"name": "own", "link": "https://a.test"}
    assert json.loads(run("info", "--json").stdout)["model_licence"] == licence


def test_json_holds_all_that_is_known(run: Run, index: Path) -> None:
    run("delete", "p1")
    found, manifest = json.loads(run("info", "--json").stdout), Manifest.read(index)

    assert (found["index_dir"], found["format_version"]) == ("dipair.index", 2)
    assert (found["passages"], found["deleted"], found["parts"]) == (5, 1, 1)
    for name in ("model", "model_fingerprint", "dim", "vector_dim", "codec", "store", "ann_kind",
                 "max_query_tokens", "max_passage_tokens", "created", "generation"):  # fmt: skip
        assert found[name] == getattr(manifest, name)
    part = index / "parts" / "000001"
    for name, folder in (("tokens", "tokens"), ("vectors", "ann"), ("texts", "passages")):
        size = sum(file.stat().st_size for file in (part / folder).iterdir())
        assert found["bytes"][name] == size
        assert found["bytes_per_passage"][name] == size / 6
    size = sum(file.stat().st_size for file in index.rglob("*") if file.is_file())
    assert found["bytes"]["total"] == size
    assert found["unfinished"] is None


def test_an_empty_index_is_described(run: Run, index: Path) -> None:
    run("delete", *(f"p{n}" for n in range(1, 7)))
    run("compact")
    assert rows(run("info"))["passages"] == "0"
    found = json.loads(run("info", "--json").stdout)
    assert found["bytes_per_passage"] == dict.fromkeys(found["bytes"])
    assert json.loads(run("info", "--estimate", "--json").stdout)["sizes"]["texts"] == 581_000_000


def test_unfinished_work_is_shown(run: Run, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipair_index.rerank.part_builder.PASSAGES_PER_CHUNK", 1)
    Path("broken.tsv").write_text("p7\tone\np8 two\n")
    assert run("add", "--corpus", "broken.tsv").exit_code == 1
    assert rows(run("info"))["unfinished"] == (
        "1 passage of add: go on with --resume, unless it is running"
    )
    unfinished = json.loads(run("info", "--json").stdout)["unfinished"]
    assert unfinished == {"command": "add", "passages": 1}

    shutil.rmtree(index)
    assert run("build", "--corpus", "broken.tsv").exit_code == 1
    result = run("info")
    assert (result.exit_code, result.stderr) == (1, (
        "Error: dipair.index holds no index yet, but 1 passage of an unfinished build: go on with "
        "it by `dipair-index build --resume` and its corpus\n"
    ))  # fmt: skip


def test_tokens_that_are_elsewhere_are_counted(run: Run, corpus: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    built = run("build", "--corpus", corpus, "--store", "tensorstore",
                "--store-url", f"file://{bucket}")  # fmt: skip
    assert built.exit_code == 0, built.output
    found = json.loads(run("info", "--json").stdout)
    size = sum(file.stat().st_size for file in bucket.rglob("*") if file.is_file())

    assert (found["store"], found["store_url"]) == ("tensorstore", f"file://{bucket}")
    assert found["bytes"]["tokens"] == size > 6 * 8 * 20
    assert rows(run("info"))["store"] == f"tensorstore, {DEFAULT_CODEC}, below file://{bucket}"
    assert run("verify").stderr == "whole: 6 passages in 1 part\n"
    run("delete", "p1")
    assert run("compact").exit_code == 0
    assert len(list(bucket.iterdir())) == 1  # the tokens of the old part are gone


def test_with_nothing_added_and_no_index_a_newcomer_gets_both_answers(run: Run) -> None:
    result = run("info")
    assert result.stderr.splitlines() == [
        "there is no index at dipair.index: build one with `dipair-index build`",
        "estimate for 1,000,000 passages, based on figures measured on MS MARCO with the "
        "bundled model and two CPU cores",
    ]
    assert rows(result)["tokens"] == "2.48 GB"
    assert not Path("dipair.index").exists()


def test_an_estimate_is_computed_from_codec_and_sizes(run: Run) -> None:
    command = ["info", "--estimate", "--passages", "100000000", "--json"]
    found = json.loads(run(*command).stdout)
    assert found["sizes"] == {
        "tokens": 100_000_000 * (32 * (96 * 6 // 8 + 4) + 50),
        "vectors": 100_000_000 * (4 * 384 + 15),
        "texts": 100_000_000 * 581,
        "total": 100_000_000 * (2482 + 1551 + 581),
    }
    assert found["peaks"]["disk while building"] == 100_000_000 * (2482 + 1551 + 581 + 1536)
    assert found["seconds"]["encode"] == pytest.approx(100_000_000 / 45)
    smaller = ["--codec", "float16", "--max-passage-tokens", "4", "--dim", "128"]
    other = json.loads(run(*command, *smaller, "--store", "tensorstore").stdout)
    assert other["sizes"]["tokens"] == 100_000_000 * (4 * 128 * 2 + 20)
    assert other["settings"]["codec"] == "float16"
    quantised = json.loads(run(*command, "--ann", "IVF65536,PQ32", "--vector-dim", "64").stdout)
    # 32 bytes and a list number of 2, the vector itself, and the id
    assert quantised["sizes"]["vectors"] == 100_000_000 * (34 + 4 * 64 + 15)
    assert quantised["seconds"]["index the vectors"] is None


def test_an_estimate_reads_well(run: Run) -> None:
    assert rows(run("info", "--estimate", "--passages", "50000", "--ann", "ivf")) == {
        "what": "in all",
        "tokens": "124 MB",
        "vectors": "79.7 MB",
        "texts": "29.1 MB",
        "total": "233 MB",
        "disk while building": "310 MB",
        "memory while building": "867 MB",
        "memory while searching": "680 MB",
        "time to encode": "19 min",
        "time to write": "3 s",
        "time to index the vectors": "2 s",
    }
    long = rows(run("info", "--estimate", "--passages", "2000000000", "--ann", "PQ32"))
    assert (long["time to encode"], long["total"]) == ("514 days", "9.292 TB")
    assert long["time to index the vectors"] == "not measured"


def test_an_estimate_goes_by_the_index_that_is_there(run: Run, index: Path) -> None:
    sizes = json.loads(run("info", "--json").stdout)["bytes"]
    result = run("info", "--estimate", "--passages", "6000", "--json")
    found = json.loads(result.stdout)

    assert result.stderr.startswith(
        "estimate for 6,000 passages, based on the bytes of 6 passages in dipair.index; memory "
        "and time by figures measured on"
    )
    assert found["settings"] == {
        "store": "lmdb", "codec": DEFAULT_CODEC, "ann": "flat",
        "max_passage_tokens": 8, "dim": 16, "vector_dim": 32,
    }  # fmt: skip
    for name in ("tokens", "vectors", "texts"):
        assert found["sizes"][name] == 1000 * sizes[name]
    # what the index does not tell is computed
    other = json.loads(run("info", "--estimate", "--passages", "6000", "--codec", "float32",
                           "--json").stdout)["sizes"]  # fmt: skip
    assert other["tokens"] == 6000 * (8 * 16 * 4 + 50)
    assert (other["vectors"], other["texts"]) == (1000 * sizes["vectors"], 1000 * sizes["texts"])
