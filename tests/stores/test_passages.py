import math
from pathlib import Path

import pytest

from dipair_index.errors import MissingPassagesError, StoreError
from dipair_index.records import Passage
from dipair_index.stores.passages import PassageStore

CATS = Passage("p1", "Cats purr.", "Cats", {"source": "zoo", "pages": [1, 2]})
DOGS = Passage("p10", 'Dogs\tbark "wóóf".\nLoudly.')
EELS = Passage("ü", "", "Eels")


def test_passages_come_back_in_the_order_asked(tmp_path: Path) -> None:
    with PassageStore.open(tmp_path / "passages") as store:
        store.put([DOGS, CATS])
        store.put([EELS])
    with PassageStore.open(tmp_path / "passages", readonly=True) as store:
        assert store.get(["ü", "p1", "p10", "p1"]) == [EELS, CATS, DOGS, CATS]
        assert list(store) == ["p1", "p10", "ü"]
        assert len(store) == 3
        assert "p1" in store
        assert "p2" not in store
        assert "x" * 600 not in store
        assert store.get([]) == []


def test_which_passages_are_held_is_told_for_all_at_once(tmp_path: Path) -> None:
    with PassageStore.open(tmp_path / "passages") as store:
        store.put([DOGS, CATS, EELS])
        held = store.contains(["ü", "p2", "p1", "", "x" * 600, "p1", "\ud800"])
        assert held.dtype == bool
        assert held.tolist() == [True, False, True, False, False, True, False]
        assert store.contains([]).tolist() == []


def test_a_passage_put_again_is_replaced(tmp_path: Path) -> None:
    with PassageStore.open(tmp_path / "passages") as store:
        store.put([CATS, DOGS])
        store.put([CATS._replace(text="Cats meow.", metadata={})])
        assert store.get(["p1"]) == [Passage("p1", "Cats meow.", "Cats")]
        assert len(store) == 2


def test_missing_passages_are_named_and_nothing_is_deleted(tmp_path: Path) -> None:
    with PassageStore.open(tmp_path / "passages") as store:
        store.put([CATS, DOGS])
        with pytest.raises(MissingPassagesError, match="not in the index: p2, p3"):
            store.get(["p1", "p2", "p3", "p2"])
        with pytest.raises(MissingPassagesError, match="not in the index: p2"):
            store.delete(["p1", "p2"])
        assert list(store) == ["p1", "p10"]
        store.delete(["p1", "p1"])
        assert list(store) == ["p10"]


@pytest.mark.parametrize(
    ("passage", "message"),
    [
        (Passage("", "text"), "a passage id is empty"),
        (Passage("i" * 512, "text"), "is 512 bytes long: an id may have 511"),
        (Passage("p3", "text", "", {"when": {1, 2}}), "'p3' cannot be stored as JSON"),
        (Passage("p3", "text", "", {"a": [math.nan]}), "'p3' cannot be stored as JSON"),
        (Passage("p3", "text", "", {"a": -math.inf}), "'p3' cannot be stored as JSON"),
        (Passage("p3", "\ud800"), "'p3' cannot be stored as JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_batch(
    tmp_path: Path, passage: Passage, message: str
) -> None:
    with PassageStore.open(tmp_path / "passages") as store:
        with pytest.raises(StoreError, match=message):
            store.put([CATS, passage])
        assert len(store) == 0


def test_readonly_passages_must_exist(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        PassageStore.open(tmp_path / "passages", readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_many_passages_grow_the_map(tmp_path: Path) -> None:
    passages = [Passage(f"p{number}", "x" * 5000) for number in range(20_000)]
    with PassageStore.open(tmp_path / "passages") as store:
        store.put(passages)
        assert store.get(["p19999"])[0].text == "x" * 5000
