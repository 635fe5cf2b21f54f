"""ONNX Runtime against torch: the same tokens, vectors, scores and rankings."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.errors import SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.encoder_scorer import EncoderScorer
from dipair_index.rerank.head import HeadScorer
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.scorer import MICRO_BATCH

TEXTS = [
    "",
    "a",
    "bees",
    "the queen of the bees",
    "why does dough rise: yeast and heat",
    "how bees dance in the winter " * 40,
]


def test_a_passage_has_the_score_it_has_among_others_whatever_their_number(
    exported: DualEncoder,
) -> None:
    made = OnnxEncoder.open(exported.name)
    rng = np.random.default_rng(0)
    passages = rng.standard_normal((2 * MICRO_BATCH + 7, 8, 16), np.float32)
    query = rng.standard_normal((4, 16), np.float32)
    scorer = EncoderScorer(made, threads=2)
    logits = scorer.logits(query, passages)

    np.testing.assert_allclose(
        logits, HeadScorer(exported.model).logits(query, passages), rtol=0, atol=1e-4
    )
    for row in (0, MICRO_BATCH, len(logits) - 1):
        assert scorer.logits(query, passages[row : row + 1]).tolist() == [logits[row]]
    assert scorer.logits(query, passages[:0]).shape == (0,)
    with pytest.raises(SettingsError, match=r"must be \(4, 16\) .* got \(4, 16\) and \(7, 16\)"):
        scorer.logits(query, passages[:, :7])


@pytest.fixture(scope="session")
def answers(
    exported: DualEncoder, passages: list[Passage], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp("index") / "onnx.index"
    build_index(passages, target, exported)
    return target


def test_an_index_answers_by_both_alike_and_auto_is_onnx(answers: Path) -> None:
    queries = ["why does dough rise", "how is the glacier", "bees"]
    found = {}
    for backend in ("torch", "onnx", "auto"):
        with DiPairIndex.open(answers, backend=backend) as index:
            found[backend] = index.search(queries, raw_scores=True)
    assert found["auto"] == found["onnx"]
    for ours, theirs in zip(found["onnx"], found["torch"], strict=True):
        assert [passage.id for passage in ours] == [passage.id for passage in theirs]
        assert [p.score for p in ours] == pytest.approx([p.score for p in theirs], abs=1e-4)


def test_the_head_in_bfloat16_is_torchs_and_near(answers: Path) -> None:
    with DiPairIndex.open(answers, backend="torch") as index:
        expected = index.search("why does dough rise", top_k=24, raw_scores=True)
    with DiPairIndex.open(answers, precision="bfloat16") as index:
        found = index.search("why does dough rise", top_k=24, raw_scores=True)
    scores = [{passage.id: passage.score for passage in each} for each in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert scores[0] != scores[1]
    with pytest.raises(SettingsError, match="no head in bfloat16: use --backend torch"):
        DiPairIndex.open(answers, backend="onnx", precision="bfloat16")


def test_an_index_may_be_built_by_onnx_and_asked_by_torch(
    exported: DualEncoder, answers: Path, passages: list[Passage], tmp_path: Path
) -> None:
    build_index(passages, tmp_path / "i", OnnxEncoder.open(exported.name))
    found = []
    for path in (tmp_path / "i", answers):
        with DiPairIndex.open(path, backend="torch") as index:
            found.append(index.search("why does dough rise", raw_scores=True))
    assert [passage.id for passage in found[0]] == [passage.id for passage in found[1]]


PROGRAM = """
import sys
from dipair_index.rerank.index import DiPairIndex
from dipair_index.records import Passage
with DiPairIndex.open(sys.argv[1], backend="onnx") as index:
    index.search("why does dough rise")
    index.add([Passage("new", "green tea")])
sys.exit(", ".join({"torch", "transformers", "onnx"} & set(sys.modules)) or 0)
"""


def test_neither_torch_nor_transformers_is_imported(answers: Path, tmp_path: Path) -> None:
    index = shutil.copytree(answers, tmp_path / "i")
    command = [sys.executable, "-c", PROGRAM, str(index)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
