"""Models that would be read at random, or not at all, are refused in a sentence at the load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece

from dipair_index.digests import short_digest
from dipair_index.encoders.cross_encoders import open_teacher
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.encoders.sentence_embedders import TransformersEmbedder, made_by
from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.pretrained import load_classifier, load_encoder, readable_tokens
from dipair_index.models.tokenizers import check_length, load_tokenizer
from dipair_index.models.weights import fingerprint, save_weights
from dipair_index.rerank.onnx_export import export_onnx
from dipair_index.training.settings import TrainingSettings
from dipair_index.training.stages import top_layers, unfreeze

TEXTS = ["bees dance", "green tea leaves", "lava"]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "vocab_size": 200}


@pytest.fixture
def encoder(tiny_encoder_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder, to be damaged."""
    return Path(shutil.copytree(tiny_encoder_dir, tmp_path / "encoder"))


@pytest.fixture
def family(tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Path]:
    """Saves a random model of a class of transformers with the tiny tokenizer."""
    import transformers

    def make(model: str, config: str, **settings: Any) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / model
        made = getattr(transformers, model)(getattr(transformers, config)(**settings))
        made.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Edits the tensors of every safetensors file of a model."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        edit(tensors)
        save_file(tensors, file, metadata={"format": "pt"})


def drop(folder: Path, part: str) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    change(folder, edit)


LOADERS: dict[str, Callable[[str], Any]] = {
    "vectors": TransformersEmbedder,
    "student": DiPairModel.from_encoder,
    "cross-encoder": lambda name: load_classifier(name, outputs=1),
}
"""What begins at an encoder: `build --vectors`, `train` and `train-teacher`."""
each_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=list(LOADERS))


# ==== weights ====


@each_loader
def test_whole_numbers_without_scales_are_refused(
    encoder: Path, load: Callable[[str], Any]
) -> None:
    name = "encoder.layer.1.output.dense.weight"
    change(encoder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(ModelError, match=f"{name} as I8, whole numbers without a scale"):
        load(str(encoder))


@each_loader
def test_an_adapter_of_another_model_is_refused(encoder: Path, load: Callable[[str], Any]) -> None:
    (encoder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match=r"an adapter of another model.*merge"):
        load(str(encoder))


@each_loader
def test_code_beside_a_model_is_never_run(
    encoder: Path, load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "y")  # transformers asks whether to
    config = json.loads((encoder / "config.json").read_text())
    config |= {"model_type": "other", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (encoder / "config.json").write_text(json.dumps(config))
    (encoder / "own.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    with pytest.raises(ModelError, match="code of its own, which is never run"):
        load(str(encoder))
    assert not (tmp_path / "was run").exists()


def test_weights_that_are_never_read_may_be_missing_and_do_not_count(encoder: Path) -> None:
    whole = TransformersEmbedder(str(encoder))
    model, never_read, complete = load_encoder(str(encoder))
    assert (never_read, complete) == ({"pooler.dense.weight", "pooler.dense.bias"}, True)
    # as indexes were built before: all weights count that are stored
    former = short_digest((fingerprint(model) + "False 128 []").encode())
    assert made_by(whole, former)
    assert made_by(whole, whole.fingerprint)
    assert not made_by(whole, "0123456789abcdef")
    vectors = whole.embed_passages(TEXTS)
    drop(encoder, "pooler")
    first, second = (TransformersEmbedder(str(encoder)) for _ in range(2))
    assert first.fingerprint == second.fingerprint == whole.fingerprint
    assert not made_by(first, former)  # it cannot be known whether that pooler was the same
    np.testing.assert_allclose(first.embed_passages(TEXTS), vectors, rtol=0, atol=1e-6)
    DiPairModel.from_encoder(str(encoder), dim=16)
    assert load_classifier(str(encoder), outputs=2).config.num_labels == 2


@each_loader
def test_missing_weights_are_named(encoder: Path, load: Callable[[str], Any]) -> None:
    drop(encoder, "layer.1.output.dense")
    message = r"lacks encoder\.layer\.1\.output\.dense\.bias, encoder\.layer\.1.*would be random"
    with pytest.raises(ModelError, match=message):
        load(str(encoder))


@each_loader
def test_damaged_weights_are_refused(encoder: Path, load: Callable[[str], Any]) -> None:
    file = encoder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"no encoder could be loaded from .* \(.*\): name a fold"):
        load(str(encoder))
    file.write_bytes(whole)
    change(encoder, lambda each: each["embeddings.LayerNorm.weight"].fill_(float("nan")))
    with pytest.raises(ModelError, match=r"holds numbers in \S*embeddings\.LayerNorm\.weight that"):
        load(str(encoder))
    change(encoder, lambda each: each.update({"embeddings.LayerNorm.weight": torch.ones(31)}))
    with pytest.raises(ModelError, match=r"embeddings\.LayerNorm\.weight is 31, not 32"):
        load(str(encoder))


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_a_model_that_lacks_weights_is_refused(
    tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path, codec: Any
) -> None:
    save_weights(DualEncoder.load(tiny_model_dir).model, tmp_path, codec=codec)
    tiny_tokenizer.save_pretrained(tmp_path)
    DualEncoder.load(tmp_path)
    if codec == "int8":
        shutil.copytree(tmp_path, tmp_path / "unscaled")
        drop(tmp_path / "unscaled", "query.weight.scale")
        with pytest.raises(ModelError, match=r"query\.weight is stored in int8 without the scales"):
            DualEncoder.load(tmp_path / "unscaled")
    drop(tmp_path, "head.output")
    with pytest.raises(ModelError, match=r"do not fit its config\.json: they lack head\.output\."):
        DualEncoder.load(tmp_path)
    (tmp_path / "trained.safetensors").unlink()
    with pytest.raises(ModelError, match=f"no DiPair model could be loaded from {tmp_path}"):
        DualEncoder.load(tmp_path)


# ==== tokenizers ====


def no_padding(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "pad_token": None}), encoding="utf-8")


def fewer_embeddings(folder: Path) -> None:
    rows = {"embeddings.word_embeddings.weight": torch.ones(50, 32)}
    change(folder, lambda each: each.update(rows))
    file = folder / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "vocab_size": 50}), encoding="utf-8")


def no_merges(folder: Path) -> None:
    """Puts a byte-pair encoding there whose merges are lost."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "b": 4, "e": 5, "s": 6, "bees": 7}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))


def no_unknown_word(folder: Path) -> None:
    tokenizer = Tokenizer(WordPiece({"[PAD]": 0, "bees": 1, "dance": 2}, unk_token="[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no files": (
        lambda folder: [file.unlink() for file in folder.glob("tokenizer*")],
        "has no vocabulary, so it would read all words as unknown",
    ),
    "its settings alone": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "has no tokenizer that can be read",
    ),
    "no JSON": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        "has no tokenizer that can be read",
    ),
    "no padding": (no_padding, "has no padding token"),
    "no merges": (no_merges, "has no merges, so it would read all words letter by letter"),
    "no unknown word": (no_unknown_word, "has no tokenizer that can be read"),
    "too many pieces": (
        fewer_embeddings,
        r"needs \d+ embeddings and its model has 50",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_tokenizers_that_cannot_serve_are_refused(
    encoder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(encoder)
    with pytest.raises(ModelError, match=message):
        TransformersEmbedder(str(encoder))
    with pytest.raises(ModelError, match=message):
        load_tokenizer(str(encoder), load_encoder(str(encoder))[0])


def test_a_tokenizer_without_a_fast_form_is_refused(encoder: Path) -> None:
    from transformers import CanineTokenizer

    for file in encoder.glob("tokenizer*"):
        file.unlink()
    CanineTokenizer().save_pretrained(encoder)
    with pytest.raises(ModelError, match="a CanineTokenizer, has no fast form"):
        load_tokenizer(str(encoder))


def test_a_model_without_tokenizer_files_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"has no (vocabulary|tokenizer that can be read)"):
        DualEncoder.load(folder)


# ==== kinds of models ====


@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        ("T5Model", "T5Config", {"d_model": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1}),
        ("T5EncoderModel", "T5Config", {"d_model": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1}),
        ("ViTModel", "ViTConfig", {**SIZES, "image_size": 32}),
    ],
)
def test_what_is_no_encoder_of_texts_is_refused(
    family: Callable[..., Path], model: str, config: str, settings: dict[str, Any]
) -> None:
    folder = str(family(model, config, **settings))
    for load in LOADERS.values():
        with pytest.raises(ModelError, match=r"no encoder that can be used here|could be loaded"):
            load(folder)


def test_an_encoder_whose_output_depends_on_padding_is_refused(
    family: Callable[..., Path],
) -> None:
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    folder = family("FNetModel", "FNetConfig", **settings, vocab_size=200)
    for load in (TransformersEmbedder, DiPairModel.from_encoder):
        with pytest.raises(ModelError, match="depends on the padding behind it"):
            load(str(folder))


def test_a_student_cannot_begin_with_an_encoder_that_needs_its_pooler(
    family: Callable[..., Path],
) -> None:
    settings = {**SIZES, "embedding_size": 32, "q_groups": 2, "k_groups": 2, "v_groups": 2}
    groups = {f"{part}_groups": 2 for part in ("post_attention", "intermediate", "output")}
    folder = family("SqueezeBertModel", "SqueezeBertConfig", **settings, **groups)
    with pytest.raises(ModelError, match="no encoder that can be used here"):
        DiPairModel.from_encoder(str(folder), dim=16)


def test_roberta_reads_two_tokens_fewer_than_it_has_positions(
    family: Callable[..., Path], tiny_tokenizer: Any
) -> None:
    folder = family(
        "RobertaModel", "RobertaConfig",
        **SIZES, max_position_embeddings=20, pad_token_id=1, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    model, *_ = load_encoder(str(folder))
    assert readable_tokens(model) == 18
    embedder = TransformersEmbedder(str(folder))
    (vector,) = embedder.embed_passages(["bees dance " * 100])
    inputs = tiny_tokenizer("bees dance " * 100, truncation=True, max_length=18)
    with torch.inference_mode():
        outputs = model(torch.tensor([inputs["input_ids"]])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vector, outputs / outputs.norm(), rtol=0, atol=1e-5)
    with pytest.raises(SettingsError, match="reads 18 tokens at most, not 20 of a text"):
        DiPairModel.from_encoder(str(folder), passage_length=20, query_length=8)


def test_a_length_that_special_tokens_use_up_is_refused(tiny_tokenizer: Any) -> None:
    check_length(tiny_tokenizer, 3, "the length of a query")
    with pytest.raises(SettingsError, match="length of a query is 2, of which special tokens take"):
        check_length(tiny_tokenizer, 2, "the length of a query")


@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        ("DistilBertModel", "DistilBertConfig",
         {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 200}),
        ("ModernBertModel", "ModernBertConfig",
         {**SIZES, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
          "sep_token_id": 3}),
        ("GPT2Model", "GPT2Config",
         {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 200}),
    ],
)  # fmt: skip
def test_other_families_are_saved_loaded_and_exported(
    family: Callable[..., Path], tiny_tokenizer: Any, tmp_path: Path,
    model: str, config: str, settings: dict[str, Any],
) -> None:  # fmt: skip
    folder = family(model, config, **settings)
    student = DiPairModel.from_encoder(str(folder), dim=16)
    unfreeze(student, TrainingSettings(stage_two_layers=1))
    trained = {name for name, each in student.encoder.named_parameters() if each.requires_grad}
    assert trained == {name for name in trained if ".1." in name} != set()
    save_weights(student, tmp_path / "student", codec="int8")
    tiny_tokenizer.save_pretrained(tmp_path / "student")
    loaded = DualEncoder.load(tmp_path / "student")
    assert np.isfinite(loaded.encode_passages(TEXTS).tokens).all()
    export_onnx(loaded)
    made = OnnxEncoder.open(loaded.name).encode_passages(TEXTS)
    expected = loaded.encode_passages(TEXTS)
    np.testing.assert_allclose(made.tokens, expected.tokens, rtol=0, atol=1e-4)


def test_layers_that_share_weights_cannot_be_trained_alone(family: Callable[..., Path]) -> None:
    folder = family("AlbertModel", "AlbertConfig", **SIZES, embedding_size=16)
    student = DiPairModel.from_encoder(str(folder), dim=16)
    with pytest.raises(SettingsError, match=r"\(albert\) cannot be trained one by one"):
        top_layers(student, 1)


# ==== teachers ====


def test_a_teacher_reads_no_more_than_it_has_positions(family: Callable[..., Path]) -> None:
    folder = family(
        "BertForSequenceClassification", "BertConfig",
        **SIZES, max_position_embeddings=40, num_labels=1, initializer_range=0.2,
    )  # fmt: skip
    teacher = open_teacher(str(folder))
    one, same, other = teacher.logits(
        ["bees"] * 3, ["tea " * 37 + "moon", "tea " * 37 + "ice", "tea " * 30 + "ice"]
    )
    assert one == same != other


def test_a_teacher_is_fed_what_it_takes(family: Callable[..., Path]) -> None:
    folder = family(
        "DistilBertForSequenceClassification", "DistilBertConfig",
        dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=200, num_labels=3,
    )  # fmt: skip
    assert open_teacher(str(folder)).logits(["lava"], ["ash"]).shape == (1, 3)


def test_a_teacher_that_fails_on_pairs_is_refused(family: Callable[..., Path]) -> None:
    # the tokenizer numbers the second text 1, and there is one kind of texts alone
    folder = family(
        "BertForSequenceClassification", "BertConfig", **SIZES, num_labels=1, type_vocab_size=1
    )
    with pytest.raises(ModelError, match="cannot score pairs of texts"):
        open_teacher(str(folder))
