"""Kinds of FAISS index: `flat`, `hnsw`, `ivf` and factory strings, checked before FAISS is called.

FAISS raises an exception for most invalid strings, but some end the process (`HNSW0`, `OPQ` trained
on fewer vectors than dimensions), and some build an index that cannot be searched (`IVF0,Flat`).
"""

from __future__ import annotations

import math
import re
from importlib import import_module
from typing import Any

from dipair_index.errors import SettingsError
from dipair_index.stores.faiss_search import HNSW_EFFORT
from dipair_index.words import counted

HNSW_NEIGHBOURS = 32
TRAINING_VECTORS_PER_LIST = 39
"""Below this FAISS warns that a cluster has too few points."""
_NAMED = ("flat", "hnsw", "ivf")
_NUMBERS = {
    "IVF": (1, 2**24, "lists"),
    "HNSW": (2, 512, "neighbours"),
    "NSG": (2, 512, "neighbours"),
    "x": (1, 16, "bits"),
    "": (1, 2**16, "numbers"),
}
"""The smallest and largest number after each word of a factory string, and the number's unit."""


def check_kind(kind: str, dim: int) -> None:
    """Checks a kind of index as far as possible without the vectors, before hours of encoding.

    Takes little time and memory. Raises `SettingsError` if the kind is invalid for vectors of `dim`
    dimensions.
    """
    if kind not in _NAMED:
        _check_numbers(kind)
        # with one list, since FAISS would allocate all of them, and their limit is not known yet
        _from_factory(re.sub(r"IVF\d+", "IVF1", kind), dim, kind)


def new_index(kind: str, count: int, dim: int, *, seed: int) -> Any:
    """Returns an empty FAISS index for `count` vectors of `dim` dimensions.

    Raises `SettingsError` if FAISS does not know the kind or cannot search it by inner product, or
    if there are too few vectors to train it.
    """
    faiss: Any = import_module("faiss")
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_EFFORT
        return index
    if kind == "ivf":
        index = _from_factory(_ivf_factory(count), dim, kind)
    else:
        check_kind(kind, dim)
        for lists in map(int, re.findall(r"IVF(\d+)", kind)):
            _check_count(kind, count, lists, "one for each list")
        index = _from_factory(kind, dim, kind)
        for transform in _untrained_transforms(index):
            _check_count(kind, count, int(transform.d_in), "one for each dimension")
            if isinstance(faiss.downcast_VectorTransform(transform), faiss.OPQMatrix):
                _check_count(kind, count, 256, "one for each code of OPQ's own training")
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.cp.seed = seed
        # one list in eight: fewer lose too much on unit vectors, which cluster badly
        ivf.nprobe = max(8, ivf.nlist // 8)
    return index


def code_bytes(kind: str, dim: int) -> int:
    """Returns the bytes per vector in an index of a FAISS factory string.

    Raises `SettingsError` if the string is invalid, or if FAISS does not know the size.
    """
    check_kind(kind, dim)
    try:
        return int(_from_factory(kind, dim, kind).sa_code_size())
    except RuntimeError as error:
        raise SettingsError(
            f"the size of a FAISS index {kind!r} is not known: choose flat, hnsw, ivf, or a "
            "factory string for inner products such as IVF1024,PQ32"
        ) from error


def reason(error: Exception) -> str:
    """Returns the message of a FAISS error without the C++ signatures."""
    return str(error).split("Error: ")[-1].split(" at /")[-1].strip()


def _from_factory(factory: str, dim: int, kind: str) -> Any:
    """Returns the index of a factory string; raises `SettingsError`, which names `kind`."""
    faiss: Any = import_module("faiss")
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError) as error:
        raise _refusal(kind, reason(error)) from error
    if isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        raise _refusal(kind, "IDMap holds ids of its own, and an index here has them already")
    for transform in _untrained_transforms(index):
        if transform.d_out > transform.d_in:
            raise _refusal(kind, f"{transform.d_out} dimensions cannot be made of {transform.d_in}")
    return index


def _check_numbers(kind: str) -> None:
    """Raises `SettingsError` for numbers with which FAISS ends the process or takes all memory."""
    for word, digits in re.findall(r"([A-Za-z]*)(\d+)", kind):
        least, most, unit = _NUMBERS.get(word, _NUMBERS[""])
        if not least <= int(digits) <= most:
            raise _refusal(kind, f"{word}{digits}: {unit} must be from {least:,} to {most:,} there")


def _check_count(kind: str, count: int, least: int, why: str) -> None:
    if count < least:
        raise SettingsError(
            f"FAISS cannot build {kind!r} from {counted(count, 'vector')} (it takes {least:,} to "
            f"train, {why}): use flat or hnsw, or give more passages"
        )


def _untrained_transforms(index: Any) -> list[Any]:
    """Returns the transforms of an index that are trained on vectors, such as OPQ and PCA."""
    faiss: Any = import_module("faiss")
    if isinstance(index, faiss.IndexRefine):
        index = faiss.downcast_index(index.base_index)
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    chain = [index.chain.at(number) for number in range(index.chain.size())]
    return [transform for transform in chain if not transform.is_trained]


def _refusal(kind: str, why: str) -> SettingsError:
    return SettingsError(
        f"FAISS cannot make an index {kind!r}: choose flat, hnsw, ivf, or a FAISS factory "
        f"string for inner products such as IVF1024,Flat ({why})"
    )


def _ivf_factory(count: int) -> str:
    """Returns a factory string with 4 * sqrt(count) lists, or as many as can be trained."""
    lists = min(round(4 * math.sqrt(count)), count // TRAINING_VECTORS_PER_LIST)
    if lists < 1:
        raise SettingsError(
            f"ivf needs at least {TRAINING_VECTORS_PER_LIST} vectors to train, got {count}: "
            "use flat"
        )
    return f"IVF{lists},Flat"
