"""`import dipair_index`: free, complete, and with examples that run."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dipair_index
from dipair_index import errors, stores

EXAMPLES = [
    name
    for name in dipair_index.__all__
    if name != "__version__"
    # one of the errors shows how all of them are caught
    and (name == "DiPairError" or not hasattr(errors, name))
]


FINDER = doctest.DocTestFinder()


def is_ours(value: object) -> bool:
    return value.__module__.startswith("dipair_index.")


def names() -> dict[str, object]:
    return {name: getattr(dipair_index, name) for name in dipair_index.__all__}


def run(program: str, tmp_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
import dipair_index
dir(dipair_index), dipair_index.__version__, dipair_index.DiPairError
print(sorted({"numpy", "torch", "faiss", "lmdb", "click", "onnxruntime"} & set(sys.modules)))
"""
    assert run(program, tmp_path) == "[]\n"


def test_searching_imports_neither_torch_nor_building(tmp_path: Path) -> None:
    program = """
import sys
from dipair_index import DiPairIndex, Reranker
print("torch" in sys.modules, "dipair_index.rerank.build" in sys.modules)
"""
    assert run(program, tmp_path) == "False False\n"


def test_serving_imports_neither_torch_nor_building(tmp_path: Path) -> None:
    program = """
import sys
from dipair_index.rerank.serving import server
print(sorted({"torch", "transformers", "dipair_index.rerank.build"} & set(sys.modules)))
"""
    assert run(program, tmp_path) == "[]\n"


@pytest.mark.parametrize("package", [dipair_index, stores], ids=lambda each: each.__name__)
def test_every_name_is_there(package: object) -> None:
    names = package.__all__
    assert set(names) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in names)
    assert list(names) == sorted(names, key=lambda name: (not name.isupper(), name))
    with pytest.raises(AttributeError, match="has no attribute 'DiPairIndx'"):
        _ = package.DiPairIndx


def test_names_are_those_of_their_modules() -> None:
    from dipair_index.rerank.index import DiPairIndex
    from dipair_index.stores.token_store import TokenStore

    assert dipair_index.DiPairIndex is DiPairIndex
    assert dipair_index.TokenStore is stores.TokenStore is TokenStore


def test_every_error_is_at_the_door() -> None:
    kinds = {
        kind.__name__
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.DiPairError)
    }
    assert kinds <= set(dipair_index.__all__)


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dipair_index", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"dipair-index {dipair_index.__version__}\n"


def test_every_name_has_an_example_and_all_of_them_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, in one folder: the first builds the index that the others open."""
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    for name in sorted(EXAMPLES, key=lambda name: name != "DiPairIndex"):
        value = getattr(dipair_index, name)
        places = [each for each in getattr(value, "__mro__", [value]) if is_ours(each)]
        found = [test for place in places for test in FINDER.find(place, name, globs=names())]
        tests = sorted(found, key=lambda test: (test.filename or "", test.lineno or 0))
        assert any(test.examples for test in tests), f"{name} has no example"
        written: list[str] = []
        for test in tests:
            runner.run(test, out=written.append)
        assert not written, "".join(written)
