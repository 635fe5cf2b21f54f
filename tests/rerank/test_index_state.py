"""Any sequence of changes leaves an index that answers as one built of the same passages.

To the bit: each text is encoded by itself, stored tokens are copied as they are, and FAISS adds
up an inner product in the same order wherever a vector stands. So equal texts have equal scores
in whichever part they are, and their ids decide.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import DirectoryError, MissingPassagesError
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.stores.index_writer import IndexWriter
from dipair_index.stores.manifest import Manifest
from dipair_index.stores.snapshot import Snapshot
from dipair_index.stores.verification import verify_index

QUERIES = ["how bees dance", "moon"]
IDS = ["a", "b", "B", "10", "9", "é", "e\u0301", "日本", "🐝", "line\nend", "z" * 511, "ü" * 255]
TEXTS = ["bees", "the queen", "moon and tide", "black tea leaves", "ice"]
TITLES = ["", "moon"]

PASSAGES = st.builds(
    Passage,
    st.sampled_from(IDS),
    # few texts, so that many passages have the same one
    st.sampled_from(TEXTS),
    st.sampled_from(TITLES),
    st.dictionaries(st.sampled_from("xy"), st.integers(0, 9), max_size=1),
)
BATCHES = st.lists(PASSAGES, min_size=1, max_size=5, unique_by=lambda each: each.passage_id)
MANY_IDS = st.lists(st.sampled_from(IDS), min_size=1, max_size=5)


class LifeCycle(RuleBasedStateMachine):
    """`passages` is what the index should hold, in its order."""

    def __init__(self, encoder: DualEncoder, settings: dict[str, Any], folder: Path | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.path = self.folder / "i"
        self.passages: dict[str, Passage] = {}
        self.compared: list[Passage] = []

    @initialize(passages=BATCHES)
    def build(self, passages: list[Passage]) -> None:
        build_index(passages, self.path, self.encoder, **self.settings)
        self.hold(passages)
        self.index = DiPairIndex.open(self.path, self.encoder)
        self.second = DiPairIndex.open(self.path, self.encoder)
        self.second_ids = list(self.passages)
        self.second_answers = answers(self.second, self.second_ids)

    def hold(self, passages: Sequence[Passage]) -> None:
        for passage in passages:
            # one that is replaced comes last
            self.passages.pop(passage.passage_id, None)
            self.passages[passage.passage_id] = passage

    @rule(passages=BATCHES)
    def add(self, passages: list[Passage]) -> None:
        new = [each for each in passages if each.passage_id not in self.passages]
        if new:
            assert self.index.add(new).passages == len(new)
            self.hold(new)

    @rule(passages=BATCHES)
    def update(self, passages: list[Passage]) -> None:
        replaced = sum(each.passage_id in self.passages for each in passages)
        assert self.index.add(passages, update=True).replaced == replaced
        self.hold(passages)

    @rule(ids=MANY_IDS)
    def delete(self, ids: list[str]) -> None:
        held = [each for each in ids if each in self.passages]
        assert self.index.delete(held) == len(set(held))
        for each in set(held):
            del self.passages[each]

    @precondition(lambda self: self.passages)
    @rule(passages=BATCHES, place=st.integers(0, 99))
    def add_what_is_there(self, passages: list[Passage], place: int) -> None:
        held = list(self.passages.values())[place % len(self.passages)]
        others = [each for each in passages if each.passage_id not in self.passages]
        with pytest.raises(DirectoryError, match="1 of these passages is in .* already"):
            self.index.add([*others, held])
        self.index.refresh()

    @rule(ids=MANY_IDS)
    def delete_what_is_not_there(self, ids: list[str]) -> None:
        before = Manifest.read(self.path)
        with pytest.raises(MissingPassagesError, match="not in the index: "):
            self.index.delete([*ids, "never"])
        assert Manifest.read(self.path) == before

    @rule()
    def compact(self) -> None:
        self.index.compact()
        assert len(self.index.manifest.parts) == bool(self.passages)
        assert not self.index.compact()

    @rule()
    def merge_small(self) -> None:
        with IndexWriter(self.path) as writer:
            writer.merge_small()
        self.index.refresh()

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = DiPairIndex.open(self.path, self.encoder)

    @rule()
    def refresh_the_second_reader(self) -> None:
        changed = self.second.manifest != self.index.manifest
        assert self.second.refresh() == changed
        self.second_ids = list(self.passages)
        self.second_answers = answers(self.second, self.second_ids)

    @invariant()
    def holds_what_it_should(self) -> None:
        with Snapshot.open(self.path) as now:
            assert list(now) == list(self.passages)
            assert now.passages(list(now)) == list(self.passages.values())
        assert len(self.index) == len(self.passages)
        assert self.index.manifest == Manifest.read(self.path)

    @invariant()
    def answers_as_one_built_from_scratch(self) -> None:
        held = list(self.passages.values())
        if held == self.compared:
            return
        if held:
            build_index(held, self.folder / "scratch", self.encoder, **self.settings)
            with DiPairIndex.open(self.folder / "scratch", self.encoder) as scratch:
                expected = answers(scratch, list(self.passages))
            shutil.rmtree(self.folder / "scratch")
            assert answers(self.index, list(self.passages)) == expected
        else:
            assert self.index.search(QUERIES) == [[], []]
            assert self.index.rerank("moon", []) == []
        self.compared = held

    @invariant()
    def the_second_reader_sees_what_was_when_it_was_refreshed(self) -> None:
        assert answers(self.second, self.second_ids) == self.second_answers

    def teardown(self) -> None:
        if self.passages or self.path.exists():
            self.index.close()
            self.second.close()
            with IndexWriter(self.path):
                # now that nobody reads the old parts
                pass
            names = [part.name for part in Manifest.read(self.path).parts]
            assert sorted(os.listdir(self.path / "parts")) == names
            assert sorted(os.listdir(self.path)) == ["manifest.json", "parts", "writer.lock"]
            assert list(verify_index(self.path)) == []
        shutil.rmtree(self.folder)


def answers(index: DiPairIndex, ids: list[str]) -> dict[str, Any]:
    """All that it says of the passages `ids`, which are those that it holds."""
    assert len(index) == len(ids)
    return {
        "nearest": index.search(QUERIES, top_k=4, rerank=False, raw_scores=True),
        "all": index.search(QUERIES, top_k=99, rerank=False),
        "best of three": index.search(QUERIES, top_k=3, candidates=3, raw_scores=True),
        "best": index.search(QUERIES, top_k=99, candidates=99),
        "reranked": index.rerank("moon", ids[::-1], top_k=99, raw_scores=True),
    }


def memory() -> Path | None:
    """Where to sync costs nothing: no power fails here."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("build_settings", "examples"),
    [
        ({"codec": "int8"}, 12),
        ({"codec": "int8", "store": "tensorstore"}, 4),
        ({"codec": "float32"}, 3),
        slow({"codec": "int8"}, 150),
        slow({"codec": "int8", "store": "tensorstore"}, 80),
        slow({"codec": "float32"}, 40),
        slow({"codec": "float16"}, 40),
        slow({"codec": "int4"}, 40),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_any_sequence_of_changes_leaves_what_a_build_of_the_same_passages_would(
    lone_encoder: DualEncoder, build_settings: dict[str, Any], examples: int
) -> None:
    run_state_machine_as_test(
        partial(LifeCycle, lone_encoder, build_settings, memory()),
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
