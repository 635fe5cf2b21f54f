"""The models in the package, one of which is put together when it is first named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.encoders.scorers import is_dipair
from dipair_index.errors import ModelError, WriteError
from dipair_index.models import packaged
from dipair_index.models.licences import licence_of, licence_of_model
from dipair_index.models.sources import lasting_name, model_folder
from dipair_index.models.stored_tensors import tensors_in
from dipair_index.onnx.graphs import OnnxRecord

OWN = packaged._in_package("permissive")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "assets"
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(folder))
    return folder


def test_the_names_in_the_package_are_valid_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "permissive").mkdir()
    monkeypatch.chdir(tmp_path)
    assert lasting_name(None) == "default"
    assert lasting_name("permissive") == "permissive"
    assert lasting_name("./permissive") == str(tmp_path / "permissive")


def test_the_permissive_model_is_the_default_one_with_weights_of_its_own(cache: Path) -> None:
    folder = model_folder("permissive")
    assert cache in folder.parents
    default, own = model_folder(None), tensors_in(OWN / packaged.OWN)
    frozen = "frozen.safetensors"
    assert (folder / frozen).read_bytes() == (default / frozen).read_bytes()
    whole = (folder / "trained.safetensors").read_bytes()
    base = (default / "trained.safetensors").read_bytes()
    mine = (OWN / packaged.OWN).read_bytes()
    for name, place in tensors_in(folder / "trained.safetensors").items():
        found = whole[place.offset : place.offset + place.length]
        source, at = (mine, own[name]) if name in own else (base, place)
        assert found == source[at.offset : at.offset + at.length], name
    assert {"centre", "vector_map.weight", "head.output.weight"} <= own.keys()
    assert not any(name.startswith("encoder.") for name in own)


def test_the_permissive_model_opens_and_is_another_model(cache: Path) -> None:
    encoder = OnnxEncoder.open("permissive")
    assert encoder.name == "permissive"
    assert encoder.fingerprint != OnnxRecord.read(packaged.default_model_folder()).fingerprint
    texts = ["Yeast makes the gas that lifts a dough.", "The moon pulls the sea twice a day."]
    passages = encoder.encode_passages(texts).tokens
    for row, query in enumerate(("why does bread rise", "what makes the tides")):
        logits = encoder.logits(encoder.encode_queries([query]).tokens[0], passages)
        assert int(np.argmax(logits)) == row
    licence = licence_of(model_folder("permissive"))
    assert licence is not None
    assert licence.name == "apache-2.0"


def test_it_is_put_together_once(cache: Path) -> None:
    folder = model_folder("permissive")
    before = (folder / "trained.safetensors").stat().st_mtime_ns
    assert model_folder("permissive") == folder
    assert (folder / "trained.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    with pytest.raises(WriteError, match="assets"):
        model_folder("permissive")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(OWN, own)
    data = (own / packaged.OWN).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["centre"]["dtype"] = "I16"
    changed = json.dumps(header).encode()
    (own / packaged.OWN).write_bytes(
        len(changed).to_bytes(8, "little") + changed + data[8 + size :]
    )
    with pytest.raises(ModelError, match="centre"):
        packaged.put_together(own, packaged.default_model_folder(), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_its_licence_is_told_without_putting_it_together(cache: Path) -> None:
    assert licence_of_model("permissive") == licence_of(OWN)
    assert licence_of_model("default") == licence_of(packaged.default_model_folder())
    assert not cache.exists()


def test_all_models_in_the_package_are_known_as_dipair_models() -> None:
    assert all(map(is_dipair, packaged.PACKAGED_MODELS))
