"""Sides whose tokens come from outside: from their file to a model, an index, rankings, scores."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from dipair_index import DiPairIndex
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.formats.token_files import GivenTokens
from dipair_index.stores.backends import open_token_store
from dipair_index.stores.manifest import Manifest

Run = Callable[..., Result]

SHAPES = {"bees honey": 0, "tea leaves": 1, "moon tide": 2, "bread dough": 3}
KEPT, WIDTH = 3, 5
SIZES = (
    "--dim", 16, "--head-intermediate", 32, "--group", 16, "--batch-queries", 4,
    "--loss", "listwise", "--similarity-residual", "none",
)  # fmt: skip


def images() -> tuple[list[str], np.ndarray[Any, Any]]:
    """Two images of each thing: tokens that lie in the direction of the thing, with noise."""
    random = np.random.default_rng(0)
    names = [f"{thing.split()[0]}-{copy}" for thing in SHAPES for copy in range(4)]
    tokens = random.normal(size=(len(names), KEPT, WIDTH)) * 0.2
    for row in range(len(names)):
        tokens[row, :, row // 4] += 2
    return names, tokens.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of images, and a file of pairs of a text with an image."""
    folder = tmp_path_factory.mktemp("given")
    names, tokens = images()
    pq.write_table(pa.table({"id": names, "tokens": tokens.tolist()}), folder / "images.parquet")
    np.save(folder / "images.npy", tokens)
    (folder / "images.ids.txt").write_text("\n".join(names))
    rows = [
        f"{word} {thing}\t{name}\t{int(row // 4 == number)}\t{split}\n"
        for thing, number in SHAPES.items()
        for word, split in (("the", "train"), ("a", "train"), ("how", "valid"), ("of", "test"))
        for row, name in enumerate(names)
    ]
    (folder / "pairs.tsv").write_text("text\timage\tlabel\tsplit\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def dataset(run: Run, folder: Path) -> Path:
    out = folder / "images.dataset"
    columns = "query=text,passage=image,label,split"
    result = run("make-dataset", "pairs", folder / "pairs.tsv", "--columns", columns, "--out", out)
    assert result.exit_code == 0, result.output
    assert run("label", "--dataset", out, "--judged").exit_code == 0
    return out


@pytest.fixture(scope="module")
def model(run: Run, folder: Path, dataset: Path, tiny_encoder_dir: Path) -> Path:
    out = folder / "images.model"
    side = f"passage={folder / 'images.parquet'}"
    result = run("train", "--dataset", dataset, "--out", out, "--encoder", tiny_encoder_dir,
                 "--side", side, *SIZES, "--stage-one-epochs", 100,
                 "--stage-one-learning-rate", 3e-3, "--stage-two-epochs", 2)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"build --side {side}" in " ".join(result.stderr.split())
    record = json.loads((out / "training.json").read_text())
    assert record["given"] == {"passage": GivenTokens.read(folder / "images.npy").digest}
    # texts that were not trained on, with words that were
    assert record["quality"]["test"]["AUC"] > 0.8
    return out


def test_the_side_has_a_projection_and_no_encoder(model: Path) -> None:
    config = DualEncoder.load(model).model.config
    assert config.given_sides == {"passage": [KEPT, WIDTH]}
    assert config.max_passage_tokens == KEPT
    stored = {}
    for file in model.glob("*.safetensors"):
        stored |= load_file(file)
    assert stored["projections.passage.weight"].shape == (16, WIDTH)
    assert stored["projections.query.weight"].shape == (16, 32)


def test_an_index_of_items_answers_texts_as_pairs_are_scored(
    run: Run, folder: Path, model: Path, tmp_path: Path
) -> None:
    side, index = f"passage={folder / 'images.npy'}", tmp_path / "images.index"
    built = run("build", "--side", side, "--model", model, "--index-dir", index,
                "--codec", "float32")  # fmt: skip
    assert built.exit_code == 0, built.output
    names, tokens = images()
    manifest = Manifest.read(index)
    (part,) = manifest.parts
    with open_token_store("lmdb", index / "parts" / part.name / "tokens",
                          tokens_per_passage=KEPT, dim=16, codec="float32") as store:  # fmt: skip
        held = store.get(names)
    weight = DualEncoder.load(model).model.projections["passage"].weight.detach().numpy()
    np.testing.assert_allclose(held, tokens @ weight.T, atol=1e-5)

    found = run("rerank", "--index-dir", index, "--query", "the tea leaves", "--raw-scores",
                "--json", "--candidates", 16, "--top-k", 16)  # fmt: skip
    assert found.exit_code == 0, found.output
    scores = {each["id"]: each["score"] for each in json.loads(found.stdout)["results"]}
    assert {name.split("-")[0] for name in list(scores)[:4]} == {"tea"}

    pairs = tmp_path / "pairs.tsv"
    lines = "".join(f"the tea leaves\t{name}\n" for name in names)
    pairs.write_text("query\timage\n" + lines)
    result = run("score", pairs, "--columns", "query,passage=image", "--model", model,
                 "--side", side, "--raw-scores", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    of_pairs = {row["image"]: row["score"] for row in map(json.loads, result.stdout.splitlines())}
    assert of_pairs == pytest.approx(scores, abs=1e-4)


def test_more_items_are_added_from_another_file(
    run: Run, folder: Path, model: Path, tmp_path: Path
) -> None:
    names, tokens = images()
    for file, part in (("first", slice(0, 10)), ("others", slice(10, 16))):
        np.save(tmp_path / f"{file}.npy", tokens[part])
        (tmp_path / f"{file}.ids.txt").write_text("\n".join(names[part]))
    index = tmp_path / "grown.index"
    for command, file in (("build", "first"), ("add", "others")):
        side = f"passage={tmp_path / file}.npy"
        done = run(command, "--side", side, "--index-dir", index, "--model", model)
        assert done.exit_code == 0, done.output
    found = run("rerank", "--index-dir", index, "--query", "a bread dough", "--json",
                "--candidates", 16, "--top-k", 4)  # fmt: skip
    best = {each["id"] for each in json.loads(found.stdout)["results"]}
    assert best == {f"bread-{copy}" for copy in range(4)}


def test_a_build_resumes_only_with_the_numbers_it_was_begun_with(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, tokens = images()
    file, index = tmp_path / "images.npy", tmp_path / "images.index"
    (tmp_path / "images.ids.txt").write_text("\n".join(names))

    def begun_with(numbers: np.ndarray[Any, Any]) -> str:
        np.save(file, numbers)
        command = ("build", "--side", f"passage={file}", "--model", model, "--index-dir", index)
        return run(*command, "--resume").output

    encode = DualEncoder.encode_tokenised
    with monkeypatch.context() as patch:
        patch.setattr("dipair_index.rerank.part_builder.PASSAGES_PER_CHUNK", 5)

        def fail(self: DualEncoder, texts: Any) -> Any:
            if [5] in texts.ids:
                raise OSError(28, "No space left on device")
            return encode(self, texts)

        patch.setattr(DualEncoder, "encode_tokenised", fail)
        assert "No space left on device" in begun_with(tokens)
    assert "was begun with given tokens " in begun_with(tokens + 1)
    assert not (index / "manifest.json").exists()
    assert "indexed 16 passages" in begun_with(tokens)


def test_a_query_may_be_an_item_too(
    run: Run, folder: Path, tiny_encoder_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    from dipair_index.models.dipair import DiPairModel

    torch.manual_seed(0)
    model = DiPairModel.from_encoder(
        str(tiny_encoder_dir), dim=8, head_intermediate=8, given_sides={"query": [KEPT, WIDTH]}
    )
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("p1\tbees dance\np2\tgreen tea\n")
    index = tmp_path / "texts.index"
    built = run("build", "--corpus", corpus, "--model", tmp_path / "model", "--index-dir", index,
                "--codec", "float32")  # fmt: skip
    assert built.exit_code == 0, built.output
    asked = ("rerank", "--index-dir", index, "--query", "tea-1", "--raw-scores", "--json",
             "--candidates", 2, "--top-k", 2)  # fmt: skip
    found = run(*asked, "--side", f"query={folder / 'images.parquet'}")
    assert found.exit_code == 0, found.output
    names, tokens = images()
    encoder = DualEncoder.load(tmp_path / "model")
    with torch.inference_mode():
        query = encoder.model.project("query", torch.from_numpy(tokens[names.index("tea-1")]))
    expected = encoder.logits(
        query.numpy(), encoder.encode_passages(["bees dance", "green tea"]).tokens
    )
    scores = {each["id"]: each["score"] for each in json.loads(found.stdout)["results"]}
    assert scores == pytest.approx({"p1": expected[0], "p2": expected[1]}, abs=1e-4)

    for arguments, message in (
        ((), "takes the tokens of its query from a file, by the ids of items: pass --side query="),
        (("--side", "query"), "--side query: expected SIDE=FILE, such as passage=images.npy"),
        (("--side", f"passage={folder / 'images.npy'}"), "makes no tokens of passage from a file"),
    ):
        refused = run(*asked, *arguments)
        assert refused.exit_code == 1
        assert message in " ".join(refused.stderr.split())


def test_what_does_not_fit_is_said_before_anything_is_trained_or_built(
    run: Run, folder: Path, dataset: Path, model: Path, tiny_model_dir: Path,
    tiny_encoder_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    names, tokens = images()
    for file, ids, of_file in (("few", names[:3], tokens[:3]), ("wide", names, tokens[:, :2])):
        np.save(tmp_path / f"{file}.npy", of_file)
        (tmp_path / f"{file}.ids.txt").write_text("\n".join(ids))
    train = ("train", "--dataset", dataset, "--out", tmp_path / "m", "--encoder", tiny_encoder_dir)
    build = ("build", "--index-dir", tmp_path / "i", "--model")
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("p1\ttea\n")
    few, wide = f"passage={tmp_path / 'few.npy'}", f"passage={tmp_path / 'wide.npy'}"
    whole = folder / "images.npy"
    for command, message in (
        ((*train, "--side", few), "few.npy has no item 'bees-3' (absent: 13 of 16)"),
        ((*train, "--side", f"image={whole}"), "the tokens of image are given, and the sides are"),
        ((*train, "--side", f"passage={whole}", "--dim", "none"),
         "need the encoder's width 32, and theirs is 5: pass --dim with a number"),
        ((*train, "--side", f"passage={whole}", "--system", "prettr", "--head-layers", 1),
         "prettr reads the encoder's tokens of both texts"),
        ((*train, "--side", f"passage={whole}", "--side", f"passage={whole}"), "passage twice"),
        ((*build, model, "--side", wide),
         "wide.npy has 2 tokens of 5 numbers an item, and"),
        ((*build, tiny_model_dir, "--side", f"passage={whole}"),
         "makes no tokens of passage from a file such as"),
        ((*build, model, "--corpus", corpus), "takes the tokens of its passage from"),
    ):  # fmt: skip
        refused = run(*command)
        assert refused.exit_code == 1, refused.output
        assert message in " ".join(refused.stderr.split())
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "i").exists()


def test_what_the_page_of_given_tokens_shows_runs(
    run: Run, folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "given-tokens.md").read_text(encoding="utf-8")
    writing, building = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^    \$ dipair-index (.*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "images.model")
    shutil.copy(folder / "pairs.tsv", ".")
    names, tokens = images()
    pq.write_table(pa.table({"id": ["more"], "tokens": tokens[:1].tolist()}), "more.parquet")
    exec(writing, {"my_encoder": lambda given: tokens, "images": names, "ids": names})
    # the others, which make the model, are those of the fixtures above
    ran = [line for line in commands if line.split()[0] in ("build", "rerank", "add", "score")]
    assert len(ran) == 4
    for line in ran:
        result = run(*shlex.split(line))
        assert result.exit_code == 0, f"{line}: {result.output}"
    shutil.rmtree("images.index")
    exec(building, {})
    with DiPairIndex.open("images.index") as index:
        found = index.search("bees honey", None, rerank=False)
    assert {passage.id for passage in found} == set(names)
