"""`dipair-index export`, and the options that choose how is computed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dipair_index.onnx.graphs import RECORD

Run = Callable[..., Result]
QUERY = "how bees dance"
PROGRAM = """
import sys
from dipair_index.cli import cli
cli(sys.argv[1:], standalone_mode=False)
sys.exit(", ".join({"torch", "transformers", "onnx", "pyarrow"} & set(sys.modules)) or 0)
"""


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model, without graphs."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    for path in folder.glob("*onnx*"):
        path.unlink()
    return folder


@pytest.fixture
def index(run: Run, corpus: Path, model: Path, tmp_path: Path) -> Path:
    """An index by that model, which has no graphs yet."""
    built = tmp_path / "i"
    result = run("build", "--corpus", corpus, "--index-dir", built, "--model", model,
                 "--backend", "torch")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert not (model / RECORD).exists()
    return built


def ids(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.split("\t")[3] for line in result.stdout.splitlines()[1:]]


def test_a_model_without_graphs_is_asked_by_torch_until_they_are_exported(
    run: Run, index: Path, model: Path
) -> None:
    command = ["rerank", "--index-dir", index, "--query", QUERY]
    expected = ids(run(*command))
    refused = run(*command, "--backend", "onnx")
    assert refused.exit_code == 1
    assert f"run `dipair-index export onnx --model {model}`" in refused.stderr

    exported = run("export", "onnx", "--model", model)
    assert (exported.exit_code, exported.stdout) == (0, "")
    assert f"wrote ONNX graphs into {model}" in exported.stderr
    assert ids(run(*command, "--backend", "onnx")) == expected
    assert ids(run(*command)) == expected


def test_a_config_file_has_a_section_in_that_of_a_group(
    run: Run, model: Path, tmp_path: Path
) -> None:
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"export": {"onnx": {"model": str(model)}}}))
    assert run("--config", config, "export", "onnx").exit_code == 0
    assert (model / RECORD).exists()


def test_a_cold_build_and_query_import_no_torch(
    run: Run, index: Path, model: Path, corpus: Path, tmp_path: Path
) -> None:
    run("export", "onnx", "--model", model)

    def cold(*command: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, command)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    cold("build", "--corpus", corpus, "--model", model, "--index-dir", "cold.index")
    command = ["rerank", "--query", QUERY, "--index-dir"]
    lines = cold(*command, "cold.index").splitlines()[1:]
    assert [line.split("\t")[3] for line in lines] == ids(run(*command, index))


def test_a_build_leaves_graphs_where_the_model_had_none(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    command = ["build", "--corpus", corpus, "--model", model, "--overwrite", "--index-dir"]
    assert run(*command, tmp_path / "i").exit_code == 0
    written = (model / RECORD).stat().st_mtime_ns
    assert run(*command, tmp_path / "i", "--backend", "onnx").exit_code == 0
    assert (model / RECORD).stat().st_mtime_ns == written
    more = tmp_path / "more.tsv"
    more.write_text("n1\tgreen tea\n")
    added = run("add", "--corpus", more, "--index-dir", tmp_path / "i", "--backend", "onnx")
    assert added.exit_code == 0, added.output


def test_onnx_computes_on_the_cpu_alone(run: Run, index: Path, model: Path) -> None:
    run("export", "onnx", "--model", model)
    result = run("rerank", "--index-dir", index, "--query", QUERY, "--backend", "onnx",
                 "--device", "cuda")  # fmt: skip
    assert result.exit_code == 1
    assert "ONNX Runtime computes on the cpu here, not on 'cuda'" in result.stderr


def test_a_model_that_is_no_folder_cannot_be_exported(run: Run, tmp_path: Path) -> None:
    result = run("export", "onnx", "--model", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert f"no DiPair model could be loaded from {tmp_path / 'nowhere'}" in result.stderr


THREADS = """
import sys
from dipair_index.cli import cli
cli(sys.argv[1:], standalone_mode=False)
import faiss, torch
from dipair_index.threads import thread_count
print(torch.get_num_threads(), faiss.omp_get_max_threads(), thread_count(), file=sys.stderr)
"""


def test_threads_bound_all_libraries(run: Run, index: Path, model: Path, tmp_path: Path) -> None:
    run("export", "onnx", "--model", model)
    command = ["rerank", "--index-dir", index, "--query", QUERY]
    environment = {key: value for key, value in os.environ.items() if "THREADS" not in key}
    environment["MKL_NUM_THREADS"] = "2"
    done = subprocess.run(
        [sys.executable, "-c", THREADS, *map(str, command), "--threads", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "1 1 1"


def test_threads_are_counted_from_one(run: Run, index: Path) -> None:
    result = run("rerank", "--index-dir", index, "--query", QUERY, "--threads", "0")
    assert result.exit_code == 2
    assert "0 is not in the range x>=1" in result.stderr
