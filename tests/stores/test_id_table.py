"""IdTable against a dictionary."""

import random

import numpy as np
import pytest

from dipair_index.stores import id_table
from dipair_index.stores.id_table import IdTable, hashes_of
from dipair_index.stores.packed_ids import PackedIds


@pytest.mark.parametrize("multiplier", [id_table._MULTIPLIER, 1, 2**63 + 1])
@pytest.mark.parametrize("seed", range(5))
def test_any_updates_leave_it_as_they_leave_a_dictionary(
    monkeypatch: pytest.MonkeyPatch, seed: int, multiplier: int
) -> None:
    # with the others, most hashes are equal
    monkeypatch.setattr(id_table, "_MULTIPLIER", multiplier)
    rng = random.Random(seed)
    table = IdTable()
    expected: dict[str, int] = {}
    names = [str(number) for number in range(300)]
    next_row = 0
    for _ in range(40):
        ids = rng.sample(names, rng.choice([0, 1, 5, 40]))
        others = rng.sample(sorted(expected), rng.choice([0, len(expected) // 2]))
        gone = [expected.pop(each) for each in {*ids, *others} if each in expected]
        rows = np.arange(next_row, next_row + len(ids))
        next_row += len(ids)
        expected.update(zip(ids, rows.tolist(), strict=True))
        keys = PackedIds.from_keys([each.encode() for each in ids])
        added = [(keys, hashes_of(keys), rows)] if ids else []
        table.update(added, np.array(gone, np.int64))
        found = table.find([name.encode() for name in names])
        assert found.tolist() == [expected.get(name, -1) for name in names]
        assert list(table) == sorted(expected)
        assert len(table) == len(expected)
    by_row = sorted((row, each) for each, row in expected.items())
    middle = next_row // 2
    assert table.between(range(middle)) == [each for row, each in by_row if row < middle]


def test_a_hash_is_the_same_for_ever() -> None:
    # the sum of (byte + 1) * multiplier ** (place + 1), modulo 2 ** 64
    keys = [b"a", b"ab", "é".encode(), b"x" * 511]
    expected = [
        sum((byte + 1) * pow(0x9E3779B97F4A7C15, place, 2**64) for place, byte in enumerate(key, 1))
        % 2**64
        for key in keys
    ]
    assert hashes_of(PackedIds.from_keys(keys)).tolist() == expected
