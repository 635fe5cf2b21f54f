from pathlib import Path

import numpy as np
import pytest

from dipair_index.errors import SettingsError, StoreError
from dipair_index.stores.backends import open_token_store, remove_token_store
from dipair_index.stores.names import STORE_NAMES

SETTINGS = {"tokens_per_passage": 3, "dim": 5, "codec": "int8"}


@pytest.mark.parametrize("kind", STORE_NAMES)
def test_a_store_by_name_is_opened_and_removed(tmp_path: Path, kind: str) -> None:
    location = tmp_path / "tokens"
    tokens = np.ones((2, 3, 5), np.float32)
    with open_token_store(kind, location, tokens_per_passage=3, dim=5, codec="int8") as store:
        store.put(["b", "a"], tokens)
    with open_token_store(
        kind, str(location), tokens_per_passage=3, dim=5, codec="int8", readonly=True
    ) as store:
        assert list(store) == ["a", "b"]
        np.testing.assert_allclose(store.get(["a", "b"]), tokens, rtol=1e-6)
    remove_token_store(kind, location)
    assert list(tmp_path.iterdir()) == []
    # nothing happens where there is none
    remove_token_store(kind, location)
    with pytest.raises(StoreError, match="there is no store at"):
        open_token_store(kind, location, tokens_per_passage=3, dim=5, codec="int8", readonly=True)


@pytest.mark.parametrize("kind", STORE_NAMES)
def test_files_of_others_stay_where_a_store_is_removed(tmp_path: Path, kind: str) -> None:
    open_token_store(kind, tmp_path, tokens_per_passage=3, dim=5, codec="int8").close()
    (tmp_path / "notes.txt").write_text("mine")
    remove_token_store(kind, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    for use in (remove_token_store, open_token_store):
        settings = SETTINGS if use is open_token_store else {}
        with pytest.raises(SettingsError, match="unknown store 'faiss': choose one of lmdb, tens"):
            use("faiss", tmp_path, **settings)  # type: ignore[operator]


def test_a_url_is_for_tensorstore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="in a folder, got s3://b/t: choose tensorstore"):
        open_token_store("lmdb", "s3://b/t", tokens_per_passage=3, dim=5, codec="int8")
    assert list(tmp_path.iterdir()) == []
