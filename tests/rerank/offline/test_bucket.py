"""Pairs from a bucket, scores into a bucket, tokens in a bucket: on a server that speaks S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import FormatError, WriteError
from dipair_index.formats.places import Place
from dipair_index.formats.tables import table_bytes
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.offline.match import match_indexes

pytest.importorskip("moto.server", reason="moto is not installed")


def test_a_bucket_holds_pairs_tokens_and_scores(
    bucket: str,
    sides: Any,
    encoder: DualEncoder,
    passages: list[Passage],
    bytes_in: Callable[[Path], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    left = [sides.left_ids[row % 13] for row in range(50)]
    right = [sides.right_ids[row % 24] for row in range(50)]
    data = table_bytes(pa.table({"left": left, "right": right}))
    Place(bucket).write("some/pairs.parquet", data)
    folder = tmp_path / "remote"
    store = {"store": "tensorstore", "store_url": f"{bucket}/tokens", "codec": "int8"}
    build_index(passages, folder, encoder, **store)
    for index, source, out in (
        (folder, f"{bucket}/some", f"{bucket}/scores"),
        (sides.right, f"{bucket}/some/pairs.parquet", tmp_path / "scores"),
    ):
        match_indexes(sides.left, index, out, pairs=source, block_pairs=20)
    there = Place(f"{bucket}/scores")
    names = [name for name in there.sizes() if name != "manifest.json"]
    here = bytes_in(tmp_path / "scores")
    assert {name: there.read(name) for name in names} == {name: here[name] for name in names}
    assert len(names) == 3
    # what is there is not scored again
    again = match_indexes(sides.left, folder, f"{bucket}/scores", pairs=f"{bucket}/some",
                          block_pairs=20)  # fmt: skip
    assert again.scored == 0


def test_a_bucket_that_refuses_is_named_in_a_sentence(
    bucket: str, sides: Any, tmp_path: Path
) -> None:
    absent = "s3://no-such-bucket/pairs"
    with pytest.raises(FormatError, match=f"there is no file or folder {absent}: check the path"):
        match_indexes(sides.left, sides.right, tmp_path / "out", pairs=absent)
    with pytest.raises(WriteError, match="^cannot write s3://no-such-bucket/out/manifest.json: "):
        match_indexes(sides.left, sides.right, "s3://no-such-bucket/out", every=True)
    with pytest.raises(FormatError, match="^cannot open ftp://somewhere/pairs: .*give a path, or"):
        match_indexes(sides.left, sides.right, tmp_path / "out", pairs="ftp://somewhere/pairs")
