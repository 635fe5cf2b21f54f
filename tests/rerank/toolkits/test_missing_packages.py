"""An adapter whose toolkit is not installed says how it is."""

import importlib
import sys

import pytest

from dipair_index import optional
from dipair_index.errors import MissingPackageError

EXTRAS = {
    "haystack": ("haystack", "haystack"),
    "langchain": ("langchain", "langchain-core"),
    "llama_index": ("llamaindex", "llama-index-core"),
    "mteb": ("mteb", "mteb"),
    "pyterrier": ("pyterrier", "pyterrier"),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_an_adapter_without_its_toolkit_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra, package = EXTRAS[name]
    module = f"dipair_index.rerank.toolkits.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(optional, "is_installed", lambda name: False)
    with pytest.raises(MissingPackageError) as caught:
        importlib.import_module(module)
    assert str(caught.value) == (
        f"{module} needs {package}, which is not installed: "
        f"run `pip install '.[{extra}]'` in a checkout of dipair-index"
    )
