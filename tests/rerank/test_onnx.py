"""ONNX Runtime against torch: the same tokens, vectors, scores and rankings."""

import shutil
import subprocess
import sys
from collections.abc import Callable
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
from dipair_index.rerank.onnx_export import export_onnx
from dipair_index.rerank.open_scorer import open_scorer
from dipair_index.rerank.scorer import MICRO_BATCH

TEXTS = [
    "",
    "a",
    "bees",
    "the queen of the bees",
    "why does dough rise: yeast and heat",
    "how bees dance in the winter " * 40,
]


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "cls"},
        {"pooling": "mean", "half": True},
        {"pooling": "cls", "keep": "last"},
        {"pooling": "mean", "keep": "last"},
        {"pooling": "cls", "keep": "spans"},
        {"pooling": "mean", "keep": "spans"},
        {"dim": None},
        {"query_prefix": "bees of the ", "passage_prefix": "tea: "},
        {"shared_encoder": False, "shared_projections": True},
        {"head_attention_heads": 4, "head_layers": 3, "similarity_residual": "cosine"},
        {"head_layers": 1, "max_query_tokens": 1, "max_passage_tokens": 12},
    ],
    ids=str,
)
def test_tokens_vectors_and_logits_are_torchs(
    make_model: Callable[..., DualEncoder], settings: dict[str, object]
) -> None:
    expected = make_model(**settings)
    export_onnx(expected)
    made = OnnxEncoder.open(expected.name)

    assert (made.fingerprint, made.sizes) == (expected.fingerprint, expected.sizes)
    for encode in ("encode_queries", "encode_passages"):
        theirs = getattr(expected, encode)(TEXTS)
        for ours, other in zip(getattr(made, encode)(TEXTS), theirs, strict=True):
            np.testing.assert_allclose(ours, other, rtol=0, atol=1e-4)
        assert theirs.tokens.std() > 0.05
    for encoder in (made, expected):
        assert encoder.tokenised("passage", TEXTS).truncated == 1
    passages = theirs.tokens
    query = expected.encode_queries(TEXTS[3:4]).tokens[0]
    logits = HeadScorer(expected.model).logits(query, passages)
    np.testing.assert_allclose(open_scorer(made).logits(query, passages), logits, atol=1e-4)
    assert logits.std() > 0.01


def test_int8_weights_with_scales_give_what_they_give_in_torch(int8_model: Path) -> None:
    expected = DualEncoder.load(int8_model)
    export_onnx(expected)
    made = OnnxEncoder.open(int8_model)

    np.testing.assert_allclose(
        made.encode_passages(TEXTS).tokens, expected.encode_passages(TEXTS).tokens, atol=1e-4
    )
    # weights are stored once: what is added is small even beside a model as small as this
    graphs = sum(path.stat().st_size for path in int8_model.glob("*.onnx"))
    assert graphs < 80_000

    rounded = OnnxEncoder.open(int8_model, precision="int8")
    near, exact = rounded.encode_passages(TEXTS), made.encode_passages(TEXTS)
    for one, other in zip(near, exact, strict=True):
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines = (one * other).sum(-1)[lengths > 0] / lengths[lengths > 0]
        assert 0.995 < cosines.min() < 0.99999
    # what a text gives does not depend on the texts beside it
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(rounded.encode_passages([text]).tokens[0], near.tokens[row])
    np.testing.assert_array_equal(
        rounded.encode_queries(TEXTS).tokens, made.encode_queries(TEXTS).tokens
    )


def test_a_text_has_the_same_tokens_whatever_the_number_of_threads(
    exported: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, texts = OnnxEncoder.open(exported.name, batch_size=2), TEXTS * 5
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = made.encode_passages(texts)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    three = made.encode_passages(texts)
    np.testing.assert_array_equal(one.tokens, three.tokens)
    assert made.encode_passages([]).tokens.shape == (0, 8, 16)


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
