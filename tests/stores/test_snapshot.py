import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest

from dipair_index.errors import DirectoryError, MissingPassagesError, StoreError
from dipair_index.stores import snapshot as snapshot_module
from dipair_index.stores.index_directory import Layout
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.part import Part, remove_part
from dipair_index.stores.snapshot import Snapshot

# equal lengths have equal vectors: there are ties in a part, and from part to part
PARTS = (["b", "a", "ccc"], ["ü", "日本"], ["zzz", "c", "d" * 511])
ALL = [each for part in PARTS for each in part]


@pytest.fixture
def toy(toy_index: Any, quick_path: Path) -> Any:
    return toy_index(quick_path / "i", *PARTS)


def test_parts_together_are_as_one(toy: Any) -> None:
    assert toy.seen() == toy.expected(ALL)


def test_what_is_deleted_is_nowhere(toy: Any) -> None:
    with IndexWriter(toy.root) as writer:
        writer.delete(["a", "zzz", "ü", "日本"])
    assert toy.seen() == toy.expected(["b", "ccc", "c", "d" * 511])
    with Snapshot.open(toy.root) as now:
        assert now.contains(["a", "b", "ü", "never"]).tolist() == [False, True, False, False]
        with pytest.raises(MissingPassagesError, match="not in the index: ü, never, a$"):
            now.tokens(["b", "ü", "never", "a", "ü"])
        with pytest.raises(MissingPassagesError, match="not in the index: zzz$"):
            now.passages(["zzz"])


def test_passages_come_in_the_order_asked_and_may_repeat(toy: Any) -> None:
    asked = ["日本", "a", "c", "a"]
    with Snapshot.open(toy.root) as now:
        assert [each.passage_id for each in now.passages(asked)] == asked
        np.testing.assert_array_equal(now.tokens(asked), toy.tokens(asked))
        assert now.passages([]) == []
        assert now.tokens([]).shape == (0, 3, 5)


@pytest.mark.parametrize("top_k", [1, 2, 3, 8, 50])
def test_search_finds_the_best_of_all_parts(toy: Any, exact: Any, top_k: int) -> None:
    ids, scores = exact(ALL, toy.vectors(ALL), toy.queries, top_k)
    with Snapshot.open(toy.root) as now:
        found, similar = now.search(toy.queries, top_k)
    assert found == ids
    assert similar.dtype == np.float32
    np.testing.assert_allclose(similar, scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["flat", "SQ8", "hnsw"])
def test_equal_vectors_of_several_parts_have_equal_scores(
    toy_index: Any, quick_path: Path, kind: str
) -> None:
    """Also where a part's codec would round them in its own way."""
    toy = toy_index(quick_path / "i", *PARTS, ann_kind=kind)
    assert toy.seen() == toy.expected(ALL)


def test_an_index_of_nothing_answers_with_nothing(toy_index: Any, quick_path: Path) -> None:
    toy = toy_index(quick_path / "i")
    assert toy.seen() == toy.expected([])
    toy = toy_index(quick_path / "j", *PARTS[:2])
    with IndexWriter(toy.root) as writer:
        writer.delete(ALL[:5])
    assert toy.seen() == toy.expected([])
    with Snapshot.open(toy.root) as now, pytest.raises(MissingPassagesError, match="index: a$"):
        now.tokens(["a"])


def test_an_open_snapshot_answers_whatever_a_writer_does(toy: Any) -> None:
    before = Snapshot.open(toy.root)
    with IndexWriter(toy.root) as writer:
        writer.delete(["a", "c"])
        assert writer.compact()
    toy.add(["a", "new"])
    with Snapshot.open(toy.root) as now:
        assert toy.seen(now) == toy.expected(
            ["b", "ccc", "ü", "日本", "zzz", "d" * 511, "a", "new"]
        )
        assert toy.seen(before) == toy.expected(ALL)
        assert len(os.listdir(toy.root / "parts")) == 5
    before.close()
    before.close()
    with IndexWriter(toy.root):
        pass
    names = [part.name for part in Manifest.read(toy.root).parts]
    assert sorted(os.listdir(toy.root / "parts")) == names
    assert len(names) == 2


READER = """
import json, sys
from dipair_index.stores.snapshot import Snapshot
with Snapshot.open(sys.argv[1]) as snapshot:
    print("open", flush=True)
    sys.stdin.readline()
    ids = list(snapshot)
    print(json.dumps([ids, snapshot.tokens(ids).tolist(), snapshot.passages(ids)]), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("store", ["lmdb", "tensorstore"])
def test_parts_that_another_process_reads_stay_until_it_has_ended(
    toy_index: Any, quick_path: Path, store: str
) -> None:
    toy = toy_index(quick_path / "i", *PARTS, store=store)
    command = [sys.executable, "-c", READER, str(toy.root)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        with IndexWriter(toy.root) as writer:
            writer.delete(["a", "c"])
            writer.compact()
        reader.stdin.write("\n")
        reader.stdin.flush()
        ids, tokens, passages = json.loads(reader.stdout.readline())
        assert ids == ALL
        assert tokens == toy.tokens(ALL).tolist()
        assert passages == [list(toy.passage(each)) for each in ALL]
        assert len(os.listdir(toy.root / "parts")) == 4
        reader.kill()
    with IndexWriter(toy.root):
        pass
    assert os.listdir(toy.root / "parts") == [Manifest.read(toy.root).parts[0].name]


def test_snapshots_of_a_process_share_the_files_and_the_last_one_closes_them(toy: Any) -> None:
    first, second = Snapshot.open(toy.root), Snapshot.open(toy.root)
    assert first.parts[0].tokens is second.parts[0].tokens
    first.close()
    assert toy.seen(second) == toy.expected(ALL)
    second.close()
    with pytest.raises(StoreError, match="is closed"):
        second.tokens(["a"])
    assert toy.seen() == toy.expected(ALL)


def test_an_index_that_changes_while_it_is_opened_is_opened_as_it_is_then(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has read the manifest, and then the parts that it names are gone."""
    old = Manifest.read(toy.root)
    with IndexWriter(toy.root) as writer:
        writer.compact()
    read, answers = Manifest.read, [old]
    monkeypatch.setattr(
        snapshot_module.Manifest, "read", lambda root: answers.pop() if answers else read(root)
    )
    with Snapshot.open(toy.root) as now:
        assert now.manifest == read(toy.root) != old
        assert toy.seen(now) == toy.expected(ALL)
    assert not answers


def test_ids_of_deleted_passages_that_change_meanwhile_are_read_again(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with IndexWriter(toy.root) as writer:
        writer.delete(["a"])
    opened, late = Part.__init__, ["b"]

    def open_late(self: Part, *arguments: Any) -> None:
        if late:
            with monkeypatch.context() as patch, IndexWriter(toy.root) as writer:
                patch.setattr(Part, "__init__", opened)
                writer.delete([late.pop()])
        opened(self, *arguments)

    monkeypatch.setattr(Part, "__init__", open_late)
    with Snapshot.open(toy.root) as now:
        assert toy.seen(now) == toy.expected(ALL[2:])


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("", r"cannot open .*000004: No such file or directory\. Restore it .*--overwrite"),
        ("tokens", "there is no store at .*000004/tokens"),
        ("passages", "there is no store at .*000004/passages"),
        ("ann", "there is no ANN index in .*000004/ann"),
    ],
)
def test_an_index_whose_part_is_missing_says_which(toy: Any, gone: str, message: str) -> None:
    shutil.rmtree(toy.root / "parts" / "000004" / gone)
    with pytest.raises((StoreError, DirectoryError), match=message):
        Snapshot.open(toy.root)
    # nobody holds those that were opened before it
    remove_part(Layout(toy.root).part("000002"))
    assert not (toy.root / "parts" / "000002").exists()


def test_missing_and_changed_ids_of_deleted_passages_are_refused(toy: Any) -> None:
    with IndexWriter(toy.root) as writer:
        writer.delete(["a", "c"])
    file = toy.root / "parts" / "000002" / Manifest.read(toy.root).parts[0].deleted_file
    file.write_text('"b"\n')
    with pytest.raises(StoreError, match=r"deleted-\d+\.jsonl is not what was written: restore"):
        Snapshot.open(toy.root)
    file.unlink()
    with pytest.raises(StoreError, match=r"cannot read .*deleted-\d+\.jsonl: No such file"):
        Snapshot.open(toy.root)
