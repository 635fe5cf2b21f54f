"""Token embeddings from outside: what the three kinds of file hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dipair_index.errors import FormatError
from dipair_index.formats.token_files import GivenTokens

IDS = ["cat", "dog", "naïve owl"]
TOKENS = np.arange(3 * 2 * 4).reshape(3, 2, 4) - 5


def write(path: Path, tokens: Any = TOKENS, ids: list[str] = IDS) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": ids, "tokens": np.asarray(tokens).tolist()}), path)
        return path
    if path.suffix == ".npy":
        np.save(path, tokens)
    else:
        from safetensors.numpy import save_file

        save_file({"tokens": tokens}, path)
    path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.int16])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_rows_are_those_that_were_written(suffix: str, kind: type, tmp_path: Path) -> None:
    given = GivenTokens.read(write(tmp_path / f"items{suffix}", TOKENS.astype(kind)))
    assert (given.ids, given.kept, given.width, len(given)) == (IDS, 2, 4, 3)
    assert given.rows(["naïve owl", "cat", "cat"]) == [2, 0, 0]
    found = given.read_rows([2, 0])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, TOKENS[[2, 0]])
    assert [(item.id, item.text) for item in given.passages()] == [(name, name) for name in IDS]


def test_the_digest_is_that_of_ids_and_numbers_whatever_the_file(tmp_path: Path) -> None:
    one, two, other = (
        GivenTokens.read(write(tmp_path / name, tokens.astype(np.float32)))
        for name, tokens in (("a.npy", TOKENS), ("b.parquet", TOKENS), ("c.npy", TOKENS + 1))
    )
    assert one.digest == two.digest != other.digest


def test_items_of_fewer_tokens_are_padded_with_zeros(tmp_path: Path) -> None:
    tokens = [[[1, 2]], [[3, 4], [5, 6], [7, 8]], [[9, 10], [11, 12]]]
    for kind in (pa.list_(pa.list_(pa.float32())), pa.large_list(pa.list_(pa.int64(), 2))):
        path = tmp_path / "uneven.parquet"
        pq.write_table(pa.table({"id": IDS, "tokens": pa.array(tokens, kind)}), path)
        found = GivenTokens.read(path).read_rows([0, 1, 2])
        np.testing.assert_array_equal(found[0], [[1, 2], [0, 0], [0, 0]])
        np.testing.assert_array_equal(found[1], tokens[1])
        np.testing.assert_array_equal(found[2], [[9, 10], [11, 12], [0, 0]])


def test_an_absent_item_is_named(tmp_path: Path) -> None:
    given = GivenTokens.read(write(tmp_path / "items.npy"))
    with pytest.raises(FormatError, match=r"items\.npy has no item 'cow' \(absent: 2 of 3\)"):
        given.rows(["cow", "cat", "hen"])


@pytest.mark.parametrize(
    ("name", "tokens", "ids", "message"),
    [
        ("a.npy", TOKENS, IDS[:2], "a.npy holds the tokens of 3 items, and there are 2 ids"),
        ("a.npy", TOKENS, ["x", "y", "x"], "row 3 of .*a.npy has the id 'x' of row 1: give every"),
        ("a.parquet", TOKENS, ["x", "", "y"], "row 2 of .*a.parquet has no id: give every item"),
        ("a.npy", TOKENS[0], IDS[:2], r"holds int64 of the shape \(2, 4\): expected numbers of"),
        ("a.npy", TOKENS[:, :0], IDS, r"of the shape \(3, 0, 4\): expected numbers of the shape"),
        ("a.npy", TOKENS.astype(str), IDS, "holds <U21 of the shape"),
        ("a.npy", np.where(TOKENS == 4, np.nan, TOKENS), IDS, "row 2 of .*item 'dog', holds a num"),
        ("a.npy", TOKENS * 1e39, IDS, "row 1 of .*item 'cat', holds a number that is not finite"),
        ("a.parquet", [[[1, 2]], [[3, 4], [5]], [[6, 7]]], IDS,
         "row 2 of .*item 'dog', has a token of 1 numbers, not 2: give"),
        ("a.parquet", [[[1, 2]], [[3, 4]], []], IDS, "row 3 of .*owl', has no tokens: give every"),
        ("a.parquet", [[1, 2], [3, 4], [5, 6]], IDS, "is list<.*>: expected lists of tokens"),
        ("a.parquet", [[["a"]], [["b"]], [["c"]]], IDS, "holds string with 0 nulls: expected num"),
        ("a.parquet", [[[1, 2]], [[3, None]], [[5, 6]]], IDS, "holds .* with 1 nulls: expected"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_file_and_row(
    name: str, tokens: Any, ids: list[str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(tokens, list):
        pq.write_table(pa.table({"id": ids, "tokens": tokens}), path)
    else:
        write(path, tokens, ids)
    with pytest.raises(FormatError, match=message):
        GivenTokens.read(path)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"embeddings": TOKENS}, tmp_path / "a.safetensors")
    np.save(tmp_path / "lonely.npy", TOKENS)
    for name in ("b.npy", "b.safetensors", "b.parquet", "b.csv"):
        (tmp_path / name).write_bytes(b"neither of these")
    pq.write_table(pa.table({"id": IDS}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"id": [1, 2, 3], "tokens": TOKENS.tolist()}), tmp_path / "d.parquet")
    for name, message in (
        ("a.safetensors", "holds embeddings: expected a tensor called tokens"),
        ("lonely.npy", r"has no ids: write them into .*lonely\.ids\.txt, one a line"),
        ("none.npy", "there is no file .*none.npy: check the path"),
        ("b.npy", r"is not a \.npy file or is damaged"),
        ("b.safetensors", "b.safetensors cannot be read"),
        ("b.parquet", "is not a Parquet file or is damaged"),
        ("b.csv", "is of an unknown kind: expected token embeddings in .npy, .safetensors"),
        ("c.parquet", "has the columns id, expected tokens too"),
        ("d.parquet", "has ids that are no strings, int64: convert them"),
    ):
        with pytest.raises(FormatError, match=message):
            GivenTokens.read(tmp_path / name)
