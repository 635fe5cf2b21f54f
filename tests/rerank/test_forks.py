"""Forked children search, whatever their parent computed before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dipair_index import DiPairIndex
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.build import build_index

# in a process of its own: a child that waits for ever must end no more than the test
PROGRAM = """
import multiprocessing, os, sys, threading
from dipair_index import DiPairIndex, Reranker
from dipair_index.locks import ForkSafeLock

folder, model, backend = sys.argv[1:]
index = DiPairIndex.open(folder, model, backend=backend)
reranker = Reranker(model, backend=backend)
QUERIES = ["how bees dance", "the moon"]
TEXTS = ["the queen", "lava and ash"]

def answers():
    found = [[passage.id for passage in ranking] for ranking in index.search(QUERIES, top_k=3)]
    ranked = reranker.rank(QUERIES[0], TEXTS)
    texts = [each.id for each in index.rerank(QUERIES[0], texts=[*TEXTS, "green tea"])]
    return found, [each["corpus_id"] for each in ranked], texts

def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def check():
    assert answers() == expected

def change():
    index.add([("new", "tea leaves")])
    assert index.rerank(QUERIES[0], ["new"])[0].text == "tea leaves"

def while_threads_hold_locks(work):
    release, held = threading.Event(), threading.Semaphore(0)
    def hold(lock):
        with lock:
            held.release()
            release.wait()
    holders = [threading.Thread(target=hold, args=[lock]) for lock in ForkSafeLock._all]
    for holder in holders:
        holder.start()
        held.acquire()
    code = in_child(work)
    release.set()
    for holder in holders:
        holder.join()
    return code

expected = answers()
assert len(ForkSafeLock._all) >= 4
assert while_threads_hold_locks(check) == 0, "a child, forked while threads search"
assert in_child(check) == 0, "a child"
assert in_child(lambda: os._exit(in_child(check))) == 0, "a child's child"
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.starmap(answers, [()] * 4) == [expected] * 4
assert in_child(change) == 0, "a child that changes the index"
assert answers() == expected
assert index.refresh() and len(index) == 7
"""


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_children_answer_as_their_parent_does(
    backend: str, exported: DualEncoder, passages: list, tmp_path: Path
) -> None:
    build_index(passages[:6], tmp_path / "i", exported)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "i"), exported.name, backend],
        env={**environment, "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_directory_of_the_process_may_change(
    encoder: DualEncoder, passages: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        build_index(passages[:6], tmp_path / name / "i", encoder)
    monkeypatch.chdir(tmp_path / "A")
    with DiPairIndex.open("i", encoder) as index:
        monkeypatch.chdir(tmp_path / "B")
        assert not index.refresh()
        index.add([("new", "tea")])
        index.delete(["p00"])
        index.compact()
        assert len(index) == 6
    with DiPairIndex.open("i", encoder) as other:
        assert [each.id for each in other.rerank("tea", ["p00"])] == ["p00"]
    with DiPairIndex.open(tmp_path / "A" / "i", encoder) as changed:
        assert [each.id for each in changed.rerank("tea", ["new"])] == ["new"]


def test_a_model_is_found_from_any_directory(
    exported: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's sessions and tokenizers are loaded when they are first used."""
    from dipair_index import Reranker, open_encoder

    folder = Path(exported.name)
    monkeypatch.chdir(folder.parent)
    encoder, reranker = open_encoder(folder.name, backend="onnx"), Reranker(folder.name)
    monkeypatch.chdir(tmp_path)
    assert encoder.name == str(folder.resolve())
    assert len(encoder.encode_queries(["tea"]).tokens) == 1
    assert [each["corpus_id"] for each in reranker.rank("tea", ["green tea"])] == [0]
    with DiPairIndex.build([("p1", "tea")], "i", model=encoder) as index:
        assert index.manifest.model == str(folder.resolve())
