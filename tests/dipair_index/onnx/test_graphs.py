"""Which graphs in a model's folder are used, and which are refused."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.encoders.open import open_encoder
from dipair_index.errors import ModelError, SettingsError
from dipair_index.onnx.graphs import HEAD, PASSAGE, RECORD
from dipair_index.rerank.onnx_export import export_onnx
from dipair_index.rerank.open_scorer import open_token_scorer


@pytest.fixture
def folder(exported: DualEncoder, tmp_path: Path) -> Path:
    """A copy of that model's folder, to be spoilt."""
    return shutil.copytree(exported.name, tmp_path / "model")


def test_without_graphs_auto_is_torch_and_onnx_says_what_to_run(
    make_model: Callable[..., DualEncoder],
) -> None:
    model = make_model().name
    assert isinstance(open_encoder(model), DualEncoder)
    with pytest.raises(ModelError, match="holds no ONNX graphs: run `dipair-index export onnx "):
        open_encoder(model, backend="onnx")
    with pytest.raises(ModelError, match="no DiPair model could be loaded from .*/nowhere"):
        open_encoder(f"{model}/nowhere")


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", PASSAGE])
def test_graphs_of_other_files_are_never_used(folder: Path, name: str) -> None:
    assert isinstance(open_encoder(folder), OnnxEncoder)
    changed(folder / name)
    with pytest.raises(ModelError, match=f"were made from another {name}: run `dipair-index exp"):
        OnnxEncoder.open(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"were made from another {name}"):
        OnnxEncoder.open(folder)


def test_auto_goes_back_to_torch_where_other_weights_came(
    folder: Path, exported: DualEncoder
) -> None:
    with torch.no_grad():
        exported.model.head.output.bias += 1
        exported.model.save_pretrained(folder)
        exported.model.head.output.bias -= 1
    now = open_encoder(folder)
    assert isinstance(now, DualEncoder)
    assert now.fingerprint != exported.fingerprint
    export_onnx(now)
    assert open_encoder(folder).fingerprint == now.fingerprint
    assert isinstance(open_encoder(folder), OnnxEncoder)


def test_a_model_that_was_replaced_after_it_was_opened_is_not_mixed_with_the_old_one(
    folder: Path, exported: DualEncoder
) -> None:
    opened = OnnxEncoder.open(folder)
    opened.encode_queries(["what is loaded stays"])
    with torch.no_grad():
        exported.model.head.output.bias += 1
        exported.model.save_pretrained(folder)
        exported.model.head.output.bias -= 1
    for use in (lambda: opened.encode_passages(["a"]), lambda: open_token_scorer(opened)):
        with pytest.raises(ModelError, match="was replaced since it was opened: open it again"):
            use()
    assert opened.encode_queries(["what is loaded stays"]).tokens.any()


def test_a_folder_that_cannot_be_written_is_named(
    folder: Path, exported: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "query.onnx")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ModelError, match=f"{folder} cannot be written .Read-only .*copy the model"):
        export_onnx(DualEncoder.load(folder))


def test_int8_takes_weights_in_int8_and_onnx_runtime(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no graph .* train --weights int8"):
        open_encoder(folder, precision="int8")
    with pytest.raises(SettingsError, match="use --backend onnx for int8"):
        open_encoder(folder, precision="int8", backend="torch")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_record_that_cannot_be_read_is_as_good_as_none(folder: Path, content: str) -> None:
    (folder / RECORD).write_text(content)
    assert isinstance(open_encoder(folder), DualEncoder)
    with pytest.raises(ModelError, match=r"onnx.json cannot be read .* export onnx"):
        open_encoder(folder, backend="onnx")


def test_a_graph_that_onnx_runtime_does_not_know_is_told(folder: Path) -> None:
    from dipair_index.onnx.graphs import digests

    (folder / HEAD).write_bytes(b"nonsense")
    record = json.loads((folder / RECORD).read_text())
    record["files"] = digests(folder, record["files"])
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"cannot load .*head.onnx .*or choose --backend torch"):
        open_token_scorer(OnnxEncoder.open(folder))


def test_only_what_has_graphs_is_exported(
    make_model: Callable[..., DualEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="only tsf and aligned heads .* not de-ffnn"):
        export_onnx(make_model(system="de-ffnn"))
    encoder = make_model()
    encoder.model.encoder.config.model_type = "roberta"

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("there is no such operator in ONNX")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", refuse)
        with pytest.raises(ModelError, match=r"cannot trace roberta encoders \(there is no such"):
            export_onnx(encoder)
    encoder.name = "some/hub-name"
    with pytest.raises(ModelError, match="some/hub-name is not a folder"):
        export_onnx(encoder)


def test_graphs_that_do_not_compute_what_torch_does_are_not_kept(
    make_model: Callable[..., DualEncoder],
) -> None:
    encoder = make_model()
    with torch.no_grad():
        encoder.model.head.output.bias += 1  # what is in the file is another
    with pytest.raises(ModelError, match="compute logits that differ from torch's by 1"):
        export_onnx(encoder)
    assert isinstance(open_encoder(encoder.name), DualEncoder)


def test_onnx_computes_on_the_processor_alone(exported: DualEncoder) -> None:
    with pytest.raises(SettingsError, match="ONNX Runtime computes on the cpu here, not on 'cuda'"):
        open_encoder(exported.name, backend="onnx", device="cuda")


def test_int8_is_not_offered_where_it_is_not_near(
    int8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipair_index.rerank.onnx_export.INT8_COSINE", 1.1)
    export_onnx(DualEncoder.load(int8_model))
    assert isinstance(open_encoder(int8_model), OnnxEncoder)
    with pytest.raises(ModelError, match="holds no graph that encodes in int8"):
        open_encoder(int8_model, precision="int8")
