"""MTEB measures what the index returns.

It takes seconds to import, so that is done where it is used, and the tests are slow ones.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import copy
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dipair_index import DiPairIndex, Passage, SettingsError
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.evaluation.measures import ranking_statistics

if TYPE_CHECKING:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    from dipair_index.rerank.toolkits.mteb import DiPairSearch

pytestmark = pytest.mark.slow

QUERIES = {"q1": "why the bees dance in winter", "q2": "how heat and light is to the moon"}
QRELS = {"q1": {"p00": 1, "p02": 1}, "q2": {"p09": 1, "p10": 1}}
FEW = {"q1": ["p00", "p05", "p11"], "q2": ["p22", "p10", "p01", "p09"]}


@pytest.fixture
def make_task(passages: list[Passage]) -> Callable[..., AbsTaskRetrieval]:
    """Makes a task of the 24 passages, which is on no hub."""
    pytest.importorskip("mteb")
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def make(
        kind: str = "Retrieval", top_ranked: Any = None, queries: Dataset | None = None
    ) -> AbsTaskRetrieval:
        class Local(AbsTaskRetrieval):
            metadata = TaskMetadata(
                name=f"Local{kind}", description="Bees and moons", type=kind,
                dataset={"path": "local", "revision": "1"}, main_score="ndcg_at_10",
                eval_splits=["test"], eval_langs=["eng-Latn"],
            )  # fmt: skip

            def load_data(self, **settings: Any) -> None:
                corpus = [{"id": p.id, "title": p.title, "text": p.text} for p in passages]
                asked = [{"id": query_id, "text": text} for query_id, text in QUERIES.items()]
                split = {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(asked) if queries is None else queries,
                    "relevant_docs": QRELS,
                    "top_ranked": top_ranked,
                }
                self.dataset = {"default": {"test": split}}
                self.data_loaded = True

        return Local()

    return make


@pytest.fixture(scope="module")
def adapter() -> ModuleType:
    pytest.importorskip("mteb")
    return importlib.import_module("dipair_index.rerank.toolkits.mteb")


@pytest.fixture(scope="module")
def model(adapter: ModuleType, encoder: DualEncoder) -> DiPairSearch:
    return adapter.DiPairSearch(encoder, candidates=20, build_settings={"codec": "float32"})


def measured(model: DiPairSearch, task: AbsTaskRetrieval) -> dict[str, float]:
    import mteb

    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return result.task_results[0].scores["test"][0]


def expected(rankings: dict[str, Any]) -> float:
    run = {query: {p.id: p.score for p in ranking} for query, ranking in rankings.items()}
    [statistic] = ranking_statistics(["nDCG@10"], QRELS, {"run": run}).values()
    return float(statistic(np.ones((1, len(QRELS))))[0, 0])


def test_a_task_of_retrieval_is_measured_as_this_package_measures_it(
    model: DiPairSearch, make_task: Callable[..., AbsTaskRetrieval], index: DiPairIndex
) -> None:
    from mteb.models import SearchProtocol

    assert isinstance(model, SearchProtocol)
    value = expected({query: index.search(text, 20, 20) for query, text in QUERIES.items()})
    assert 0 < value < 1
    # MTEB rounds its results to five digits
    assert measured(model, make_task())["ndcg_at_10"] == pytest.approx(value, abs=1e-5)


def test_a_task_of_reranking_ranks_the_passages_that_it_gives(
    model: DiPairSearch, make_task: Callable[..., AbsTaskRetrieval], index: DiPairIndex
) -> None:
    found = measured(model, make_task("Reranking", FEW))
    value = expected({query: index.rerank(text, FEW[query]) for query, text in QUERIES.items()})
    assert 0 < value < 1
    assert found["ndcg_at_10"] == pytest.approx(value, abs=1e-5)


def test_scores_are_those_of_search_and_instructions_are_read(
    model: DiPairSearch, make_task: Callable[..., AbsTaskRetrieval], index: DiPairIndex
) -> None:
    from datasets import Dataset

    rows = [{"id": "q1", "text": QUERIES["q1"], "instruction": "green tea"}]
    task = make_task(queries=Dataset.from_list(rows))
    task.load_data()
    split = task.dataset["default"]["test"]
    settings = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    model.index(split["corpus"], **settings, encode_kwargs={}, num_proc=None)
    found = model.search(split["queries"], **settings, top_k=1000, encode_kwargs={}, num_proc=None)
    ranking = index.search(f"{QUERIES['q1']} green tea", 20, 20, raw_scores=True)
    assert list(found) == ["q1"]
    assert list(found["q1"]) == [passage.id for passage in ranking]
    scores = [passage.score for passage in ranking]
    assert list(found["q1"].values()) == pytest.approx(scores, abs=1e-5)


def test_a_task_without_texts_is_refused(
    model: DiPairSearch, make_task: Callable[..., AbsTaskRetrieval]
) -> None:
    from datasets import Dataset

    turns = Dataset.from_list([{"id": "q1", "text": [{"role": "user", "content": "why"}]}])
    with pytest.raises(SettingsError, match="LocalRetrieval has others in its queries"):
        measured(model, make_task(queries=turns))


def test_the_metadata_are_what_the_encoder_knows(
    adapter: ModuleType, encoder: DualEncoder, model: DiPairSearch
) -> None:
    meta = model.mteb_model_meta
    assert meta.name == f"dipair-index/{encoder.name.rpartition('/')[2]}"
    assert (meta.revision, meta.embed_dim) == (encoder.fingerprint, encoder.sizes.dim)
    assert (meta.framework, meta.model_type) == (["PyTorch"], ["late-interaction"])
    assert meta.license is None
    named = meta.model_copy(update={"name": "someone/bees"})
    assert adapter.DiPairSearch(encoder, meta=named).mteb_model_meta.name == "someone/bees"


def test_the_licence_is_that_of_the_card(
    adapter: ModuleType, tmp_path: Path, encoder: DualEncoder
) -> None:
    asked = copy(encoder)
    asked.name = str(tmp_path)
    for stated, expected in (
        ("license: apache-2.0", "apache-2.0"),
        ("license: other\nlicense_link: https://terms.example/", "https://terms.example/"),
        ("license: other", None),
    ):
        (tmp_path / "README.md").write_text(f"---\n{stated}\n---\n")
        assert adapter.model_meta(asked).license == expected


def test_nothing_is_searched_before_it_is_indexed(
    adapter: ModuleType, encoder: DualEncoder
) -> None:
    with pytest.raises(SettingsError, match="call index with a corpus first"):
        adapter.DiPairSearch(encoder).search([], task_metadata=None, top_k=10)
