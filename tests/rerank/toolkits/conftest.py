"""An index that all toolkits ask, and the environment in which none of them calls home."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipair_index import DiPairIndex, Reranker
from dipair_index.encoders.dual_encoder import DualEncoder

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"


@pytest.fixture(scope="session")
def index(index_dir: Path, encoder: DualEncoder) -> Iterator[DiPairIndex]:
    with DiPairIndex.open(index_dir, encoder) as opened:
        yield opened


@pytest.fixture(scope="session")
def reranker(encoder: DualEncoder) -> Reranker:
    return Reranker(encoder, codec="float32")
