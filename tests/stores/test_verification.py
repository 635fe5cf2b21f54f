import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dipair_index.errors import DirectoryError
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.verification import verify_index

IDS = ["a", "b", "ü", "d"]
ADVICE = "part {} of {} holds {} passages: restore it from a copy, or build the index again"


@pytest.fixture
def toy(toy_index: Any, quick_path: Path) -> Any:
    """Two parts, one passage of the first deleted."""
    toy = toy_index(quick_path / "i", IDS, ["e", "f"])
    with IndexWriter(toy.root) as writer:
        writer.delete(["b"])
    return toy


def verified(toy: Any) -> list[str]:
    return list(verify_index(toy.root))


def test_an_index_that_is_whole_has_no_damage_and_all_its_bytes_are_read(toy: Any) -> None:
    counts: list[int] = []
    assert list(verify_index(toy.root, counts.append)) == []
    sizes = [
        file["bytes"]
        for path in sorted((toy.root / "parts").glob("*/files.json"))
        for file in json.loads(path.read_bytes()).values()
    ]
    assert counts[-1] == sum(sizes)
    assert counts == sorted(counts)


@pytest.mark.parametrize("store", ["lmdb", "tensorstore"])
def test_a_flipped_byte_in_any_file_is_found_and_the_file_is_named(
    toy_index: Any, quick_path: Path, store: str
) -> None:
    toy = toy_index(quick_path / "i", IDS, store=store)
    with IndexWriter(toy.root) as writer:
        writer.delete(["b"])
    files = [path for path in sorted((toy.root / "parts" / "000002").rglob("*")) if path.is_file()]
    names = {str(file.relative_to(toy.root / "parts" / "000002")) for file in files}
    assert {"files.json", "deleted-000004.jsonl", "passages/data.mdb", "ann/index.faiss",
            "ann/ids.npy", "ann/id_ends.npy", "ann/ann.json"} < names  # fmt: skip
    assert any(name.startswith("tokens/") for name in names)
    for file in files:
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            damage, advice = verified(toy)
            assert str(file) in damage
            assert "is not what was written" in damage
            assert advice.startswith(ADVICE.format("000002", toy.root, 3))
        file.write_bytes(whole)
    assert verified(toy) == []


def test_what_is_missing_is_named_and_the_other_parts_are_looked_at_too(toy: Any) -> None:
    first, second = (toy.root / "parts" / name for name in ("000002", "000004"))
    (first / "ann" / "ids.npy").unlink()
    shutil.rmtree(second)
    assert [sentence.split(": ")[0] for sentence in verified(toy)] == [
        f"{first / 'ann' / 'ids.npy'} cannot be read",
        f"part 000002 of {toy.root} holds 3 passages",
        f"{second} cannot be read",
        f"part 000004 of {toy.root} holds 2 passages",
    ]


def test_lost_ids_of_deleted_passages_are_named(toy: Any) -> None:
    (toy.root / "parts" / "000002" / "deleted-000006.jsonl").unlink()
    damage, advice = verified(toy)
    assert "deleted-000006.jsonl" in damage
    assert advice.startswith(ADVICE.format("000002", toy.root, 3))


def test_a_store_with_other_passages_than_the_manifest_says_is_named(toy: Any) -> None:
    manifest = Manifest.read(toy.root)
    parts = (manifest.parts[0], replace(manifest.parts[1], passages=3))
    replace(manifest, parts=parts).write(toy.root)
    assert verified(toy)[:-1] == [
        f"part 000004 has {name} of 2 passages, but the manifest says 3"
        for name in ("tokens", "texts", "vectors")
    ]


def test_a_strange_file_is_named_and_what_a_killed_writer_leaves_is_not(toy: Any) -> None:
    part = toy.root / "parts" / "000004"
    (part / "progress").mkdir()
    (part / "progress" / "ids.jsonl").write_bytes(b"")
    (part / "deleted-000009.jsonl").write_bytes(b'"e"\n')
    (part / "deleted-000010.jsonl.tmp").write_bytes(b'"')
    (toy.root / "building").mkdir()
    (toy.root / "parts" / "000077").mkdir()
    assert verified(toy) == []
    strange = part / "ann" / "thesis.tex"
    strange.write_bytes(b"")
    assert verified(toy)[0] == f"{strange} does not belong to the index: move it away"


def test_a_damaged_manifest_is_said_as_whoever_opens_it_is_told(toy: Any) -> None:
    (toy.root / "manifest.json").write_bytes(b"{")
    with pytest.raises(DirectoryError, match="is damaged"):
        verified(toy)


@pytest.mark.parametrize("change", ["delete", "compact"])
def test_a_writer_at_work_meanwhile_is_no_damage(toy: Any, change: str) -> None:
    waiting = [change]

    def work(count: int) -> None:
        if waiting:
            with IndexWriter(toy.root) as writer:
                if waiting.pop() == "delete":
                    writer.delete(["a", "e"])
                else:
                    assert writer.compact()

    assert list(verify_index(toy.root, work)) == []
    assert not waiting
    assert verified(toy) == []
