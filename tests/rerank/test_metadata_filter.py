"""Filters on metadata: what they mean, and that a search finds the nearest that fulfil them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.metadata_filter import MetadataFilter, checked_filter

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([-1.5, 0.0, 1.0, 2.0]),
    st.sampled_from(["", "1", "a", "b", "é", "2001-02-03"]),
)
FIELDS = st.sampled_from("xyz")
METADATA = st.dictionaries(FIELDS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=3)
BOUND_NAMES = st.sampled_from(["gt", "gte", "lt", "lte"])
BOUNDS = st.one_of(
    st.dictionaries(BOUND_NAMES, st.integers(-2, 2), min_size=1, max_size=2),
    st.dictionaries(BOUND_NAMES, st.sampled_from(["", "1", "b", "2001"]), min_size=1, max_size=2),
)
CONDITIONS = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), BOUNDS)
FILTERS = st.dictionaries(FIELDS, CONDITIONS, max_size=2)

IDS = [f"p{number:02}" for number in range(40)]
QUERIES = ["how bees dance", "why the moon is in the river"]


def same_type(one: Any, other: Any) -> bool:
    """Types of JSON, of which bool is one and int and float are another."""
    kinds = (bool, (int, float), str, type(None))
    return next(isinstance(other, kind) for kind in kinds if isinstance(one, kind)) and (
        isinstance(one, bool) == isinstance(other, bool)
    )


def holds(condition: Any, element: Any) -> bool:
    if isinstance(condition, dict):
        for name, bound in condition.items():
            if isinstance(element, bool) or not same_type(bound, element):
                return False
            if not {
                "gt": element > bound,
                "gte": element >= bound,
                "lt": element < bound,
                "lte": element <= bound,
            }[name]:
                return False
        return True
    wanted = condition if isinstance(condition, list) else [condition]
    return any(same_type(each, element) and each == element for each in wanted)


def fulfils(filter: dict[str, Any], metadata: dict[str, Any]) -> bool:
    for field, condition in filter.items():
        if field not in metadata:
            return False
        value = metadata[field]
        if not any(holds(condition, each) for each in (value if type(value) is list else [value])):
            return False
    return True


@given(FILTERS, METADATA)
@settings(max_examples=500)
def test_a_filter_accepts_what_fulfils_each_condition(
    filter: dict[str, Any], metadata: dict[str, Any]
) -> None:
    assert MetadataFilter(filter)(metadata) == fulfils(filter, metadata)


@pytest.mark.parametrize(
    ("filter", "metadata", "accepted"),
    [
        ({}, {}, True),
        ({"x": 1}, {"x": 1.0}, True),
        ({"x": 1}, {"x": True}, False),
        ({"x": 1}, {"x": "1"}, False),
        ({"x": None}, {"x": None}, True),
        ({"x": None}, {}, False),
        ({"x": []}, {"x": 1}, False),
        ({"x": ["a", 1]}, {"x": 1}, True),
        ({"x": "a"}, {"x": ["b", "a"]}, True),
        ({"x": {"gt": 1, "lt": 3}}, {"x": 2}, True),
        ({"x": {"gt": 1, "lt": 3}}, {"x": [0, 4]}, False),  # no element lies within both
        ({"x": {"gte": "2001-01-01"}}, {"x": "2001-01-01T12:00"}, True),
        ({"x": {"gte": 0}}, {"x": "1"}, False),
        ({"x": {"gte": 0}}, {"x": True}, False),
        ({"x": "a"}, {"x": {"a": 1}}, False),
        ({"x": np.int64(3)}, {"x": 3}, True),
        ({"x": np.array(["a", "b"])}, {"x": "b"}, True),
        ({"x": {"lt": np.float32(0.5)}}, {"x": 0.25}, True),
    ],
)
def test_by_hand(filter: dict[str, Any], metadata: dict[str, Any], accepted: bool) -> None:
    assert MetadataFilter(filter)(metadata) is accepted


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("x=1", "a filter must map metadata fields"),
        ([("x", 1)], "a filter must map metadata fields"),
        ({1: 2}, "a field of a filter must be a str, got 1"),
        ({"x": {}}, "the filter on 'x' has no bound: give a value, a list of values, or bounds"),
        ({"x": {"$gte": 1}}, r"'x' has the unknown bound '\$gte': .*gt, gte, lt and lte"),
        ({"x": {"gt": 1, "lt": "2"}}, "'x' must be all numbers or all texts"),
        ({"x": {"gt": True}}, "'x' must be all numbers or all texts"),
        ({"x": math.nan}, "'x' holds nan"),
        ({"x": {"lt": math.inf}}, "'x' holds inf: .*finite number"),
        ({"x": [["a"]]}, r"'x' holds \['a'\]"),
        ({"x": b"a"}, "'x' holds b'a'"),
    ],
)
def test_what_is_no_filter_is_refused_by_the_name_of_its_field(filter: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        checked_filter(filter)


@pytest.fixture(scope="module")
def changed_index(
    tmp_path_factory: pytest.TempPathFactory, lone_encoder: DualEncoder
) -> tuple[DiPairIndex, dict[str, Passage]]:
    """An index of several parts, in which passages were replaced and deleted, and what it holds."""
    rng = np.random.default_rng(5)
    words = ["bees", "moon", "tea", "river", "ice", "lava", "the", "winter"]
    values = [None, True, 0, 1, 1.5, 2, "a", "b", "1", ["a", 2], []]

    def passage(passage_id: str) -> Passage:
        text = " ".join(rng.choice(words, 6))
        fields = [name for name in "xyz" if rng.random() < 0.7]
        metadata = {name: values[rng.integers(len(values))] for name in fields}
        return Passage(passage_id, text, metadata=metadata)

    held = {each: passage(each) for each in IDS[:25]}
    folder = tmp_path_factory.mktemp("filtered") / "index"
    index = DiPairIndex.build(held.values(), folder, model=lone_encoder)
    more = [passage(each) for each in IDS[25:]]
    index.add(more)
    held |= {each.id: each for each in more}
    replaced = [passage(each) for each in IDS[20:22]]
    index.add(replaced, update=True)
    held |= {each.id: each for each in replaced}
    gone = [IDS[3], IDS[17], IDS[30]]
    index.delete(gone)
    assert len(index.manifest.parts) > 1
    return index, {name: each for name, each in held.items() if name not in gone}


@given(FILTERS, st.integers(1, 45), st.integers(0, 45), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_search_finds_the_nearest_that_fulfil_the_filter(
    changed_index: tuple[DiPairIndex, dict[str, Passage]],
    filter: dict[str, Any],
    top_k: int,
    more: int,
    rerank: bool,
) -> None:
    """The oracle ranks the whole index and strikes out what does not fulfil the filter."""
    index, held = changed_index
    nearest_of_all = index.search(QUERIES, top_k=None, candidates=99, rerank=False)
    found = index.search(QUERIES, top_k, top_k + more, rerank=rerank, filter=filter)
    for all_nearest, ranking, query in zip(nearest_of_all, found, QUERIES, strict=True):
        assert len(all_nearest) == len(held)
        nearest = [each.id for each in all_nearest if fulfils(filter, dict(held[each.id].metadata))]
        candidates = nearest[: top_k + more if rerank else top_k]
        expected = candidates
        if rerank:
            expected = [each.id for each in index.rerank(query, candidates)] if candidates else []
        assert [each.id for each in ranking] == expected[:top_k]
        ranks = {name: rank for rank, name in enumerate(candidates, start=1)}
        assert [each.retrieval_rank for each in ranking] == [ranks[each.id] for each in ranking]


def test_an_invalid_filter_is_refused_by_a_search(
    changed_index: tuple[DiPairIndex, dict[str, Passage]],
) -> None:
    with pytest.raises(SettingsError, match="the filter on 'x' has the unknown bound 'above'"):
        changed_index[0].search("moon", filter={"x": {"above": 3}})


def test_a_filter_finds_in_the_new_state_of_a_changed_index(
    tmp_path: Path, lone_encoder: DualEncoder
) -> None:
    passages = [Passage(f"p{row}", "the moon", metadata={"row": row}) for row in range(6)]
    with DiPairIndex.build(passages, tmp_path / "i", model=lone_encoder) as index:
        filter = {"row": {"gte": 4}}
        assert [each.id for each in index.search("moon", filter=filter)] == ["p4", "p5"]
        index.add([passages[4]._replace(metadata={"row": 0})], update=True)
        index.add([Passage("new", "ice", metadata={"row": 9})])
        assert sorted(each.id for each in index.search("moon", filter=filter)) == ["new", "p5"]
        index.delete(["p5"])
        assert [each.id for each in index.search("moon", filter=filter)] == ["new"]
        index.compact()
        assert [each.id for each in index.search("moon", filter=filter)] == ["new"]
