"""What cannot be done is said in one sentence, and nothing that existed is touched."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dipair_index.stores.manifest import Manifest

Run = Callable[..., Result]
Digest = Callable[[Path], str]

pytestmark = pytest.mark.usefixtures("tiny_package")


@pytest.fixture
def folder(tmp_path: Path, built_index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: an index, damaged ones, and files of every bad kind."""
    files = {
        "good.tsv": b"p1\tone\np2\ttwo\n",
        "empty.tsv": b"",
        "fields.tsv": b"p1\tone\np2 two\n",
        "duplicate.tsv": b"p1\tone\np2\ttwo\np1\tthree\n",
        "no-id.tsv": b"p1\tone\n\ttwo\n",
        "latin1.tsv": b"p1\tone\np2\tcaf\xe9\n",
        "broken.jsonl": b'{"id": "p1", "text": "one"}\n{"id": \n',
        "queries.tsv": b"q1\thow bees dance\n",
        "no-text.tsv": b"q1\t \n",
        "good.run": b"q1 Q0 p1 1 2.0 x\n",
        "unknown-passage.run": b"q1 Q0 p1 1 2.0 x\nq1 Q0 p77 2 1.0 x\n",
        "unknown-query.run": b"q7 Q0 p1 1 2.0 x\n",
        "fields.run": b"q1 p1 2.0\n",
        "list.json": b"[1]",
        "broken.json": b"{",
        "unknown.json": b'{"rerank": {"depth": 7}}',
        "command.json": b'{"sell": {}}',
        "nested.json": b'{"make-dataset": {"pairs": {"colour": "red"}}}',
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in ("an.index", "corrupt.index", "newer.index"):
        shutil.copytree(built_index, tmp_path / name)
    (tmp_path / "corrupt.index" / "manifest.json").write_text('{"kind": "dipair-index", ')
    manifest = json.loads((tmp_path / "newer.index" / "manifest.json").read_text())
    (tmp_path / "newer.index" / "manifest.json").write_text(
        json.dumps({**manifest, "format_version": 99})
    )
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BUILD = "build --corpus good.tsv --index-dir new.index"
RERANK = "rerank --index-dir an.index --query tea"
CASES = [
    # build: what it reads
    ("build --corpus '' --index-dir new", 1, "there is no file '': check the path"),
    ("rerank --index-dir an.index --queries ''", 1, "there is no file '': check the path"),
    ("build --corpus missing.tsv", 1, "there is no file missing.tsv: check the path"),
    ("build --corpus empty.tsv", 1, "empty.tsv is empty"),
    ("build --corpus thesis", 1, "thesis is a directory without corpus.jsonl"),
    ("build --corpus fields.tsv", 1, "line 2 of fields.tsv: expected 2 tab-separated fields"),
    ("build --corpus duplicate.tsv", 1, "line 3 of duplicate.tsv: the id p1 was used before"),
    ("build --corpus no-id.tsv", 1, "line 2 of no-id.tsv: the id is empty"),
    ("build --corpus latin1.tsv", 1, "line 2 of latin1.tsv: byte 7 is not UTF-8 (0xe9)"),
    ("build --corpus broken.jsonl", 1, "line 2 of broken.jsonl: expected a JSON object"),
    # build: where it writes
    ("build --corpus good.tsv --index-dir an.index", 1, "pass --overwrite to replace it"),
    ("build --corpus good.tsv --index-dir thesis --overwrite", 1, "thesis exists and is not an"),
    ("build --corpus fields.tsv --index-dir an.index --overwrite", 1, "line 2 of fields.tsv"),
    # build: with what
    (f"{BUILD} --codec int3", 2, "'int3' is not one of"),
    (f"{BUILD} --store redis", 2, "'redis' is not one of 'lmdb', 'tensorstore'"),
    (f"{BUILD} --store-url file:///tmp/t", 2, "--store-url needs --store tensorstore: lmdb keeps"),
    (f"{BUILD} --store tensorstore --store-url memory://t", 2, "would not outlive this command"),
    (f"{BUILD} --ann nonsense", 1, "cannot make an index 'nonsense': choose flat, hnsw, ivf"),
    (f"{BUILD} --ann-from missing", 2, "'missing' does not exist"),
    (f"{BUILD} --ann-from thesis", 1, "there is no ANN index in thesis"),
    (f"{BUILD} --ann-from an.index", 1, "an.index/parts/000001/ann holds the vectors of"),
    (f"{BUILD} --model thesis", 1, "/thesis ("),
    (f"{BUILD} --vectors thesis", 1, "no encoder could be loaded from thesis"),
    (f"{BUILD} --batch-size 0", 2, "0 is not in the range x>=1"),
    (f"{BUILD} --device abacus", 1, "there is no device 'abacus' here: use cpu"),
    # rerank: the question
    ("rerank --index-dir an.index", 2, "give either --query TEXT or --queries FILE"),
    (f"{RERANK} --queries queries.tsv", 2, "give either --query TEXT or --queries FILE"),
    ("rerank --index-dir an.index --query ''", 2, "the query is empty: give --query some text"),
    ("rerank --index-dir an.index --query '  '", 2, "the query is empty"),
    ("rerank --index-dir an.index --query -", 2, "the query is empty"),
    ("rerank --index-dir an.index --queries missing.tsv", 1, "there is no file missing.tsv"),
    ("rerank --index-dir an.index --queries empty.tsv", 1, "empty.tsv is empty"),
    ("rerank --index-dir an.index --queries no-text.tsv", 1, "line 1 of no-text.tsv: the query q1"),
    ("rerank --index-dir an.index --queries duplicate.tsv", 1, "line 3 of duplicate.tsv"),
    ("rerank --index-dir an.index --queries latin1.tsv", 1, "line 2 of latin1.tsv"),
    # rerank: how much and how
    (f"{RERANK} --top-k 0", 2, "0 is not in the range x>=1"),
    (f"{RERANK} --candidates 0", 2, "0 is not in the range x>=1"),
    (f"{RERANK} --candidates 3", 2, "--candidates 3 is fewer than --top-k 10: retrieve at least"),
    (f"{RERANK} --trec", 2, "--trec needs query ids: give --queries FILE"),
    (f"{RERANK} --run good.run", 2, "--run needs query ids: give --queries FILE"),
    (f"{RERANK} --json --compare", 2, "give one of --json, --trec and --compare"),
    (f"{RERANK} --no-rerank --compare", 2, "--no-rerank leaves nothing to do for --compare"),
    (f"{RERANK} --device abacus", 1, "there is no device 'abacus' here: use cpu"),
    # rerank: somebody else's run
    ("rerank --index-dir an.index --queries queries.tsv --run missing.run", 1, "no file missing"),
    ("rerank --index-dir an.index --queries queries.tsv --run empty.tsv", 1, "empty.tsv is empty"),
    (
        "rerank --index-dir an.index --queries queries.tsv --run unknown-passage.run",
        1,
        "the run has passages for query q1 that the index does not have (not in the store: p77): ",
    ),
    (
        "rerank --index-dir an.index --queries queries.tsv --run unknown-query.run",
        1,
        "unknown-query.run ranks passages for query q7, whose text --queries does not hold",
    ),
    (
        "rerank --index-dir an.index --queries queries.tsv --run fields.run",
        1,
        "line 1 of fields.run: expected 6 fields",
    ),
    # rerank: the index
    ("rerank --index-dir missing --query tea", 1, "there is no index at missing: build one with"),
    ("rerank --index-dir thesis --query tea", 1, "thesis is not an index: it has no manifest.json"),
    ("rerank --index-dir good.tsv --query tea", 1, "there is no index at good.tsv"),
    ("rerank --index-dir corrupt.index --query tea", 1, "corrupt.index/manifest.json is damaged"),
    ("rerank --index-dir newer.index --query tea", 1, "newer.index has format version 99"),
    (f"{RERANK} --model thesis", 1, "/thesis ("),
    # add, update, delete, compact, verify, info
    ("add --corpus good.tsv --index-dir missing", 1, "there is no index at missing: build one"),
    ("add --corpus good.tsv --index-dir thesis", 1, "thesis is not an index: it has no manifest"),
    ("add --corpus good.tsv --index-dir corrupt.index", 1, "corrupt.index/manifest.json is damage"),
    ("add --corpus good.tsv --index-dir an.index", 1, "2 of these passages are in an.index alread"),
    ("add --index-dir an.index", 2, "give either --corpus FILE or --side SIDE=FILE"),
    ("add --corpus missing.tsv --index-dir an.index", 1, "there is no file missing.tsv"),
    ("add --corpus empty.tsv --index-dir an.index", 1, "empty.tsv is empty"),
    ("update --corpus duplicate.tsv --index-dir an.index", 1, "line 3 of duplicate.tsv: the id p1"),
    ("update --corpus good.tsv --index-dir an.index --model thesis", 1, "no DiPair model could be"),
    ("delete --index-dir an.index", 2, "no passage is named: give ids, or --ids FILE"),
    ("delete --index-dir an.index --ids missing.txt", 1, "there is no file missing.txt"),
    ("delete --index-dir an.index --ids latin1.tsv", 1, "line 2 of latin1.tsv: byte 7 is not UTF"),
    ("delete --index-dir an.index --ids -", 1, "standard input is empty"),
    (
        "delete --index-dir an.index p1 p77",
        1,
        "nothing was deleted, since these ids are not in the index: p77",
    ),
    ("delete --index-dir thesis p1", 1, "thesis is not an index"),
    ("compact --index-dir missing", 1, "there is no index at missing: build one with"),
    ("compact --index-dir thesis", 1, "thesis is not an index"),
    ("compact --index-dir newer.index", 1, "newer.index has format version 99"),
    ("verify --index-dir missing", 1, "there is no index at missing"),
    ("verify --index-dir corrupt.index", 1, "corrupt.index/manifest.json is damaged"),
    ("info --index-dir missing", 1, "there is no index at missing: build one with"),
    ("info --index-dir thesis", 1, "thesis is not an index"),
    ("info --index-dir an.index --codec int8", 2, "--codec is part of an estimate: pass --estimat"),
    ("info --index-dir an.index --passages 7", 2, "--passages is part of an estimate"),
    ("info --estimate --passages 0", 2, "0 is not in the range x>=1"),
    (
        "info --estimate --ann nonsense",
        1,
        "FAISS cannot make an index 'nonsense': choose flat, hnsw",
    ),
    ("info --estimate --ann IVF0,Flat", 1, "IVF0: lists must be from 1 to 16,777,216 there"),
    ("info --estimate --ann IDMap,Flat", 1, "IDMap holds ids of its own"),
    ("info --estimate --codec int3", 2, "'int3' is not one of"),
    # settings
    ("--config missing.json build", 2, "'missing.json' does not exist"),
    ("--config broken.json build", 1, "broken.json cannot be read as settings"),
    ("--config list.json build", 1, "list.json: expected an object a command"),
    ("--config unknown.json build", 1, "unknown.json: rerank has no setting depth"),
    ("--config command.json build", 1, "command.json: there is no command 'sell', only"),
    ("--config nested.json build", 1, "nested.json: make-dataset pairs has no setting colour"),
]


@pytest.mark.parametrize(("command", "exit_code", "sentence"), CASES, ids=lambda case: str(case))
def test_bad_input_gets_a_sentence_and_touches_nothing(
    folder: Path, run: Run, digest: Digest, command: str, exit_code: int, sentence: str
) -> None:
    import shlex

    before = digest(folder)
    result = run(*shlex.split(command), stdin="")

    assert result.exit_code == exit_code, result.output
    assert sentence in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert result.stdout == ""
    assert digest(folder) == before


def test_an_index_built_by_another_model_is_refused_by_name(
    folder: Path, run: Run, digest: Digest, tiny_model_dir: Path, tmp_path_factory
) -> None:
    import torch

    from dipair_index.encoders.dual_encoder import DualEncoder

    other = tmp_path_factory.mktemp("other")
    encoder = DualEncoder.load(tiny_model_dir)
    with torch.no_grad():
        encoder.model.head.output.bias += 1
    encoder.model.save_pretrained(other)
    encoder.tokenizer.save_pretrained(other)
    before = digest(folder)
    result = run("rerank", "--index-dir", "an.index", "--query", "tea", "--model", other)

    assert result.exit_code == 1
    assert f"an.index was built by the model {tiny_model_dir}" in result.stderr
    assert f"but {other} is " in result.stderr
    assert digest(folder) == before


def test_a_search_that_cannot_be_built_keeps_what_was_encoded(
    folder: Path, run: Run, digest: Digest
) -> None:
    before = digest(folder / "an.index" / "parts")
    command = ["build", "--corpus", "good.tsv", "--index-dir", "an.index", "--overwrite"]
    result = run(*command, "--ann", "ivf")

    assert result.exit_code == 1
    assert "2 passages are stored in" in result.stderr
    assert "ivf needs at least 39 vectors to train, got 2: use flat" in result.stderr
    assert digest(folder / "an.index" / "parts") == before
    assert Manifest.read("an.index").passages == 6
    resumed = run(*command, "--resume")
    assert "indexed 2 passages, 2 of them before" in resumed.stderr


def test_a_query_on_stdin_that_is_not_utf8_is_refused(folder: Path, run: Run) -> None:
    result = run("rerank", "--index-dir", "an.index", "--query", "-", stdin=b"caf\xe9")
    assert (result.exit_code, "standard input is not UTF-8" in result.stderr) == (2, True)


def test_a_full_disk_leaves_the_old_index_and_what_is_stored(
    folder: Path, run: Run, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipair_index.rerank.part_builder.PASSAGES_PER_CHUNK", 1)
    counted = 0
    save = os.fsync

    def full(handle: int) -> None:
        nonlocal counted
        counted += 1
        if counted > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(handle)

    before = digest(folder / "an.index" / "parts")
    command = ["build", "--corpus", "good.tsv", "--index-dir", "an.index", "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr("dipair_index.rerank.unfinished.os.fsync", full)
        result = run(*command)

    assert result.exit_code == 1
    *before_last, last = result.stderr.splitlines()
    assert "1 passage is stored in" in before_last[-1]
    assert before_last[-1].endswith("run the same command with --resume to go on")
    assert last.startswith("Error: cannot write ")
    assert ": No space left on device. Make room on the disk" in last
    assert digest(folder / "an.index" / "parts") == before
    assert Manifest.read("an.index").passages == 6
    assert run(*command, "--resume").exit_code == 0


def test_a_reader_that_goes_away_is_no_error(folder: Path, built_index: Path) -> None:
    import subprocess
    import sys

    (folder / "many.tsv").write_text("".join(f"q{n}\thow bees dance\n" for n in range(5000)))
    program = "from dipair_index.cli import main; main()"
    command = f"{sys.executable} -c '{program}' rerank --index-dir {built_index} " \
        "--queries many.tsv --trec | head -n 1"  # fmt: skip
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=folder)

    assert done.stdout.startswith("q0 Q0 p")
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr
