"""Teachers are real: a small cross-encoder of transformers, and the same one as an ONNX file."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipair_index.encoders.cross_encoders import (
    TransformersTeacher,
    open_teacher,
    set_longest_input,
)
from dipair_index.errors import ModelError
from dipair_index.models.pretrained import load_classifier

QUERIES = ["why do bees dance", "lava", "green tea", "lava"]
PASSAGES = ["the honey bees dance " * 60, "lava ash erupts", "tea leaves", "moon"]


def cross_encoder(
    folder: Path, tokenizer: Any, *, outputs: int, dtype: torch.dtype = torch.float32
) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=outputs,
        initializer_range=0.2,
    )
    model = BertForSequenceClassification(config).eval().to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_logits_come_in_the_order_given_and_alone_as_in_a_batch(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    model = cross_encoder(tmp_path, tiny_tokenizer, outputs=1)
    expected = []
    for query, passage in zip(QUERIES, PASSAGES, strict=True):
        inputs = tiny_tokenizer(
            query, passage, truncation="only_second", max_length=160, return_tensors="pt"
        )
        with torch.inference_mode():
            expected.append(model(**inputs).logits.item())
    teacher = open_teacher(str(tmp_path), batch_size=3)
    np.testing.assert_allclose(teacher.logits(QUERIES, PASSAGES), expected, atol=1e-5)


def token_counting_onnx(file: Path, ids: str = "input_ids") -> None:
    """Writes a model whose logit is the sum of the piece numbers, the passage's counted twice."""
    from onnx import TensorProto, helper, save

    names = [ids, "attention_mask", "token_type_ids"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in names
    ]
    nodes = [
        helper.make_node("Mul", [ids, "attention_mask"], ["seen"]),
        helper.make_node("Mul", ["seen", "token_type_ids"], ["second"]),
        helper.make_node("Add", ["seen", "second"], ["both"]),
        helper.make_node("Cast", ["both"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axes"], ["logits"], keepdims=1),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes, "counting", inputs, [output], [axes])
    opset = helper.make_opsetid("", 18)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=9), str(file))


def test_an_onnx_file_is_fed_ids_masks_and_types_of_each_pair(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    token_counting_onnx(tmp_path / "model.onnx")
    expected = []
    for query, passage in zip(QUERIES, PASSAGES, strict=True):
        pair = tiny_tokenizer(query, passage, truncation="only_second", max_length=160)
        ids, types = pair["input_ids"], pair["token_type_ids"]
        expected.append(sum(one * (1 + kind) for one, kind in zip(ids, types, strict=True)))
    for name in (tmp_path, tmp_path / "model.onnx"):
        scores = open_teacher(str(name), batch_size=3).logits(QUERIES, PASSAGES)
        assert scores.tolist() == expected


def test_a_teacher_with_several_outputs_gives_a_row_a_pair(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    model = cross_encoder(tmp_path, tiny_tokenizer, outputs=3)
    inputs = tiny_tokenizer(QUERIES[1], PASSAGES[1], return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits[0].numpy()
    teacher = open_teacher(str(tmp_path), batch_size=3)
    assert teacher.outputs == 3
    np.testing.assert_allclose(teacher.logits(QUERIES, PASSAGES)[1], expected, atol=1e-5)


def test_a_tuple_is_read_as_its_first_text_and_the_others_between_separators(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    token_counting_onnx(tmp_path / "model.onnx")
    (count,) = open_teacher(str(tmp_path)).logits(["lava"], ["tea"], ["moon"])
    number = tiny_tokenizer.convert_tokens_to_ids
    second = sum(map(number, ["tea", "[SEP]", "moon", "[SEP]"]))
    assert count == sum(map(number, ["[CLS]", "lava", "[SEP]"])) + 2 * second
    cross_encoder(tmp_path / "torch", tiny_tokenizer, outputs=1)
    teacher = open_teacher(str(tmp_path / "torch"))
    np.testing.assert_allclose(
        teacher.logits(["lava"], ["tea"], ["moon"]), teacher.logits(["lava"], ["tea [SEP] moon"])
    )


def test_a_first_text_longer_than_what_is_read_is_cut_too(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    cross_encoder(tmp_path, tiny_tokenizer, outputs=1)
    logits = open_teacher(str(tmp_path)).logits(["bees dance " * 200], ["tea"])
    assert np.isfinite(logits).all()


def test_a_teacher_saved_in_half_precision_scores_in_float32(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    half = cross_encoder(tmp_path, tiny_tokenizer, outputs=1, dtype=torch.bfloat16)
    expected = TransformersTeacher(half.float(), tiny_tokenizer, name="")
    teacher = open_teacher(str(tmp_path))
    assert teacher.fingerprint == expected.fingerprint
    logits = expected.logits(QUERIES, PASSAGES)
    np.testing.assert_allclose(teacher.logits(QUERIES, PASSAGES), logits, atol=1e-6)
    start = load_classifier(str(tmp_path), layers=None, outputs=1)
    assert {weights.dtype for weights in start.parameters()} == {torch.float32}


def test_an_encoder_without_a_trained_classifier_is_refused(tiny_encoder_dir: Path) -> None:
    message = r"is no cross-encoder, since it has no classifier.bias.*train-teacher --encoder"
    with pytest.raises(ModelError, match=message):
        open_teacher(str(tiny_encoder_dir))


def test_a_cross_encoder_reads_160_tokens_or_what_it_was_trained_on_here(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    model, tokenizer = cross_encoder(tmp_path, tiny_tokenizer, outputs=1), deepcopy(tiny_tokenizer)
    sides = (["lava"] * 2, ["tea " * 200 + end for end in ("moon", "ice")], ["sun"] * 2)
    one, other = open_teacher(str(tmp_path)).logits(*sides)
    assert one == other
    assert set_longest_input(model, tokenizer, 320) == 320
    assert set_longest_input(model, tokenizer, 1000) == 512  # all its positions
    model.save_pretrained(tmp_path / "long")
    tokenizer.save_pretrained(tmp_path / "long")
    one, other = open_teacher(str(tmp_path / "long")).logits(*sides)
    assert one != other


def test_what_is_no_teacher_is_refused_by_name(tmp_path: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=f"no cross-encoder could be loaded from {tmp_path}"):
        open_teacher(str(tmp_path))
    file = tmp_path / "teacher.onnx"
    with pytest.raises(ModelError, match="teacher.onnx is missing"):
        open_teacher(str(file))
    file.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="tokenizer.json is missing"):
        open_teacher(str(file))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        open_teacher(str(file))
    token_counting_onnx(file)
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer"):
        open_teacher(str(file))
    tiny_tokenizer.save_pretrained(tmp_path)
    token_counting_onnx(file, ids="tokens")
    with pytest.raises(ModelError, match="takes tokens: export it with the inputs input_ids, atte"):
        open_teacher(str(file))
