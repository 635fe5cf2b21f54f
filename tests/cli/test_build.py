import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from dipair_index.records import Passage
from dipair_index.stores.index_directory import Layout
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.names import DEFAULT_CODEC
from dipair_index.stores.snapshot import Snapshot

Run = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("tiny_package")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_with_nothing_added_the_sample_is_indexed_and_said(run: Run, tmp_path: Path) -> None:
    result = run("build")

    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == "no --corpus given: indexing the bundled sample into dipair.index"
    assert lines[1].startswith("indexed 6 passages: ")
    assert lines[1].endswith(" passages a second")
    tokens = Layout(tmp_path / "dipair.index").part("000001").tokens
    size = sum(file.stat().st_size for file in tokens.iterdir())
    assert lines[2] == f"token embeddings take {size / 6:,.0f} bytes a passage on disk"
    assert lines[3] == 'wrote dipair.index: ask it with `dipair-index rerank --query "..."`'
    manifest = Manifest.read("dipair.index")
    assert (manifest.model, manifest.codec, manifest.passages) == ("default", DEFAULT_CODEC, 6)


def test_a_second_time_there_is_nothing_to_do(run: Run, digest: Callable[[Path], str]) -> None:
    run("build")
    before = digest(Path("dipair.index"))
    result = run("build")

    assert result.exit_code == 0
    assert "dipair.index is an index of the bundled sample already" in result.stderr
    assert digest(Path("dipair.index")) == before


def test_an_index_of_something_else_is_not_taken_for_the_samples(run: Run, corpus: Path) -> None:
    corpus.write_text("p1\tone\n")
    assert run("build", "--corpus", corpus).exit_code == 0
    result = run("build")
    assert (result.exit_code, "pass --overwrite to replace it" in result.stderr) == (1, True)
    assert run("build", "--overwrite").exit_code == 0
    assert Manifest.read("dipair.index").passages == 6


def as_of_a_former_model(index_dir: Path) -> None:
    """Changes the manifest to what another version's default model had left."""
    manifest = Manifest.read(index_dir)
    replace(manifest, model_fingerprint="0123456789abcdef").write(index_dir)


def test_a_former_index_of_the_sample_is_built_anew(run: Run) -> None:
    run("build")
    today = Manifest.read("dipair.index").model_fingerprint
    for command in (["build"], ["rerank", "--query", "honey"]):
        as_of_a_former_model(Path("dipair.index"))
        assert run(*command).exit_code == 0
        assert Manifest.read("dipair.index").model_fingerprint == today


def test_a_former_index_of_other_passages_says_how_to_encode_them_anew(
    run: Run, tmp_path: Path
) -> None:
    lines = [
        {"id": "p1", "text": "green tea", "year": 1999},
        {"id": "p2", "title": "Ash", "text": "lava"},
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("build", "--corpus", "c.jsonl", "--index-dir", "old.index").exit_code == 0
    as_of_a_former_model(Path("old.index"))
    refused = run("rerank", "--index-dir", "old.index", "--query", "tea")
    assert refused.exit_code == 1
    command = "dipair-index build --from old.index --model default --index-dir NEW"
    assert command in " ".join(refused.stderr.split())

    built = run("build", "--from", "old.index", "--index-dir", "new.index")
    assert built.exit_code == 0, built.output
    with Snapshot.open("old.index") as old, Snapshot.open("new.index") as new:
        assert list(new) == list(old) == ["p1", "p2"]
        assert new.passages(["p1", "p2"]) == old.passages(["p1", "p2"])
        assert new.passages(["p1"])[0].metadata == {"year": 1999}
    ranked = run("rerank", "--index-dir", "new.index", "--query", "tea", "--json")
    assert {each["id"] for each in json.loads(ranked.stdout)["results"]} == {"p1", "p2"}
    both = run("build", "--from", "old.index", "--corpus", "c.jsonl", "--index-dir", "x.index")
    assert (both.exit_code, "--corpus and --from exclude each other" in both.stderr) == (2, True)


def test_the_corpus_may_be_compressed_jsonl_beir_or_stdin(run: Run, tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"_id": f"d{n}", "title": "Tea", "text": f"leaves {n}"}) + "\n" for n in range(3)
    )
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir" / "corpus.jsonl").write_text(lines)
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for corpus in ("beir", "corpus.jsonl.gz", "-"):
        result = run("build", "--corpus", corpus, "--overwrite", stdin=lines)
        assert result.exit_code == 0, result.output
        found = run("rerank", "--query", "tea", "--top-k", "1", "--json").stdout
        assert json.loads(found)["results"][0]["title"] == "Tea"


def test_settings_reach_the_index(run: Run, corpus: Path, tiny_encoder_dir: Path) -> None:
    result = run("build", "--corpus", corpus, "--index-dir", "my index", "--codec", "float16",
                 "--ann", "hnsw", "--vectors", tiny_encoder_dir, "--seed", "7")  # fmt: skip

    assert result.exit_code == 0, result.output
    assert result.stderr.endswith("rerank --index-dir 'my index' --query \"...\"`\n")
    manifest = Manifest.read("my index")
    assert (manifest.codec, manifest.ann_kind, manifest.seed) == ("float16", "hnsw", 7)
    assert manifest.embedder == str(tiny_encoder_dir)
    result = run("build", "--corpus", corpus, "--vectors", tiny_encoder_dir,
                 "--ann-from", "my index")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert Manifest.read("dipair.index").ann_kind == "hnsw"


def test_texts_that_are_cut_are_counted_and_said_once(run: Run, corpus: Path) -> None:
    corpus.write_text("p1\t" + "bees " * 200 + "\np2\tbees\np3\t" + "bees " * 300 + "\n")
    result = run("build", "--corpus", corpus)
    assert result.stderr.count("2 passages are longer than the model reads and were truncated") == 1


def test_settings_come_from_flags_then_variables_then_the_file(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"build": {"corpus": str(corpus), "codec": "float32", "index-dir": "from-file"}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    command = ["--config", "settings.json", "build"]

    assert run(*command).exit_code == 0
    assert Manifest.read("from-file").codec == "float32"
    monkeypatch.setenv("DIPAIR_INDEX_DIR", "from-environment")
    monkeypatch.setenv("DIPAIR_BUILD_CODEC", "float16")
    assert run(*command).exit_code == 0
    assert Manifest.read("from-environment").codec == "float16"
    monkeypatch.setenv("DIPAIR_BUILD_INDEX_DIR", "from-own-variable")
    assert run(*command, "--codec", "int8").exit_code == 0
    assert Manifest.read("from-own-variable").codec == "int8"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")
def test_the_file_of_settings_may_be_toml(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(f'[build]\ncorpus = "{corpus}"\ncodec = "float32"\n')
    assert run("--config", "settings.toml", "build").exit_code == 0
    assert Manifest.read("dipair.index").codec == "float32"


def test_an_interruption_says_how_to_go_on(
    run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dipair_index.formats.collections import read_passages

    def interrupted(source: Path) -> Iterator[Passage]:
        for number, passage in enumerate(read_passages(source)):
            if number == 5:
                raise KeyboardInterrupt
            yield passage

    monkeypatch.setattr("dipair_index.rerank.part_builder.PASSAGES_PER_CHUNK", 2)
    with monkeypatch.context() as patch:
        patch.setattr("dipair_index.formats.collections.read_passages", interrupted)
        result = run("build", "--corpus", corpus)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "Error: interrupted: 4 passages are stored in dipair.index/building, run the same command "
        "with --resume to go on"
    )

    refused = run("build", "--corpus", corpus)
    assert (refused.exit_code, "4 passages of an interrupted build" in refused.stderr) == (1, True)
    resumed = run("build", "--corpus", corpus, "--resume")
    assert resumed.exit_code == 0
    assert "indexed 6 passages, 4 of them before" in resumed.stderr


def test_ctrl_c_ends_the_process_with_a_sentence(tmp_path: Path, tiny_model_dir: Path) -> None:
    """A real signal, while the command waits for the rest of its corpus on a pipe."""
    program = "from dipair_index.rerank import part_builder; part_builder.PASSAGES_PER_CHUNK = 1\n"
    # a shell without job control starts what runs in the background with Ctrl-C ignored
    program += "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from dipair_index.cli import main; main()"
    command = [sys.executable, "-c", program, "build", "--corpus", "-", "--model", tiny_model_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        assert process.stdin is not None
        process.stdin.write("p1\tone\np2\ttwo\n")
        process.stdin.flush()
        progress = tmp_path / "dipair.index" / "building" / "progress" / "progress.json"
        deadline = time.monotonic() + 60
        while not (progress.exists() and json.loads(progress.read_text())["passages"]):
            assert time.monotonic() < deadline, "the first passage was not stored"
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate()

    assert process.returncode == 130
    assert "passages are stored in" in errors
    assert "Traceback" not in errors
