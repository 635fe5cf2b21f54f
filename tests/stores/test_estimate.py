from collections.abc import Callable
from pathlib import Path

import pytest

from dipair_index.errors import DirectoryError, SettingsError
from dipair_index.stores.codecs import open_codec
from dipair_index.stores.estimate import Basis, SizeSettings
from dipair_index.stores.index_info import IndexInfo
from dipair_index.stores.names import CODEC_NAMES


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_tokens_take_what_their_codec_takes(codec: str) -> None:
    lmdb = Basis().estimate(1000, codec=codec, dim=64).sizes["tokens"]
    tensorstore = Basis().estimate(1000, codec=codec, dim=64, store="tensorstore").sizes["tokens"]
    payload = open_codec(codec, tokens_per_passage=32, dim=64).bytes_per_passage
    assert lmdb == 1000 * (payload + 50)
    assert tensorstore == 1000 * (payload + 20)


def seconds(ann: str) -> Callable[[int], float]:
    def of(passages: int) -> float:
        found = Basis(SizeSettings(ann=ann)).estimate(passages).seconds["index the vectors"]
        assert found is not None
        return found

    return of


def test_time_to_index_grows_with_the_kind_of_index() -> None:
    flat, hnsw, ivf = map(seconds, ("flat", "hnsw", "ivf"))
    assert flat(5_000_000) == pytest.approx(100 * flat(50_000))
    # log(5,000,000) / log(50,000) = 1.4256
    assert hnsw(5_000_000) == pytest.approx(142.56 * hnsw(50_000), rel=1e-4)
    assert ivf(5_000_000) == pytest.approx(1000 * ivf(50_000))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown codec 'int3': choose one of"):
        Basis().estimate(10, codec="int3")
    with pytest.raises(SettingsError, match="unknown store 'redis': choose one of"):
        Basis().estimate(10, store="redis")
    with pytest.raises(SettingsError, match="cannot make an index 'nonsense': choose flat"):
        Basis().estimate(10, ann="nonsense")


def test_what_is_no_index_has_no_sizes(tmp_path: Path) -> None:
    for read in (Basis.from_index, IndexInfo.read):
        with pytest.raises(DirectoryError, match="is not an index: it has no manifest.json"):
            read(tmp_path)
