"""Tables come back as they were written, or are refused."""

from pathlib import Path

import pytest

from dipair_index.errors import FormatError
from dipair_index.formats.tables import iter_tables, read_table, write_table, write_tables


def test_tables_come_back_whole_or_group_by_group(tmp_path: Path) -> None:
    import pyarrow as pa

    first = pa.table({"id": ["a", "b"], "n": [1, 2]})
    path = tmp_path / "t.parquet"
    assert write_tables([first, first.slice(1)], path, first.schema) == 3
    assert read_table(path, ["n"]).to_pydict() == {"n": [1, 2, 2]}
    assert [table["id"].to_pylist() for table in iter_tables(path)] == [["a", "b"], ["b"]]
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_a_damaged_table_or_a_missing_column_is_named(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "t.parquet"
    with pytest.raises(FormatError, match=r"there is no file .*t.parquet: check the path"):
        read_table(path)
    write_table(pa.table({"id": list(range(5000))}), path)
    with pytest.raises(FormatError, match=r"t.parquet has the columns id, expected text too"):
        read_table(path, ["text"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"t.parquet is not a Parquet file or is damaged: make"):
        read_table(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"t.parquet is not a Parquet file or is damaged: make"):
        list(iter_tables(path))
