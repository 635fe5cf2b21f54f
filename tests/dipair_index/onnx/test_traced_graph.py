"""Encoders of other families than BERT: ONNX Runtime against torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from dipair_index.cli import cli
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.errors import ModelError
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.weights import save_weights
from dipair_index.rerank.onnx_export import cosines, export_onnx

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = [
    "",
    "a",
    "Why does dough rise: yeast and heat?",
    "Тесто поднимается от дрожжей.",
    "ماء النهر",
    "河水流向大海",
    "नदी समुद्र तक बहती है",
    "how bees dance in the winter " * 40,
]
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 140, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "cls_token_id": 0, "sep_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "pad_token_id": 1,
          "max_position_embeddings": 140, "initializer_range": 0.2}  # fmt: skip
DEBERTA = {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
           "position_buckets": 16, "share_att_key": True}  # fmt: skip
MODERN = {**SIZES, "local_attention": 16, "global_attn_every_n_layers": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # the tokenizer, the encoder's sizes, and settings of the model
    "xlm-roberta": ("unigram", SIZES, {"pooling": "mean", "passage_prefix": "passage: "}),
    "mpnet": ("wordpiece", SIZES, {"pooling": "mean", "keep": "spans"}),
    "distilbert": ("wordpiece", DISTIL, {"keep": "last"}),
    "roberta": ("bpe", SIZES, {"codec": "int8"}),
    "modernbert": ("bpe", MODERN, {"codec": "int8", "pooling": "linear", "system": "aligned"}),
    "deberta-v2": ("unigram", DEBERTA, {"shared_encoder": False}),
    "longformer": ("bpe", {**SIZES, "attention_window": 16}, {}),
    "albert": ("unigram", {**SIZES, "embedding_size": 16}, {"dim": None}),
}


def tokenizer_of(kind: str) -> Any:
    """A tokenizer of a kind that learned its pieces from `TEXTS`."""
    from transformers import PreTrainedTokenizerFast

    trainer: Any
    if kind == "unigram":  # as SentencePiece makes it
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
    elif kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=330, special_tokens=SPECIAL, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=SPECIAL, show_progress=False
        )
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    names = dict(zip(("cls", "pad", "sep", "unk", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{name}_token": each for name, each in names.items()}
    )


@pytest.fixture
def make_family(tmp_path: Path) -> Callable[[str], DualEncoder]:
    """Saves an encoder of a family of random weights, and a model of it, without graphs."""
    from transformers import AutoConfig, AutoModel

    def make(family: str) -> DualEncoder:
        kind, sizes, settings = FAMILIES[family]
        tokenizer = tokenizer_of(kind)
        torch.manual_seed(2)
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes)
        AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
        tokenizer.save_pretrained(tmp_path / "encoder")
        settings = {"dim": 16, "head_intermediate": 32, "query_length": 16, **settings}
        codec = settings.pop("codec", "float16")
        model = DiPairModel.from_encoder(str(tmp_path / "encoder"), **settings)
        save_weights(model, tmp_path / "model", codec=codec)
        tokenizer.save_pretrained(tmp_path / "model")
        return DualEncoder.load(tmp_path / "model")

    return make


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "longformer"])
def test_other_families_encode_as_in_torch(
    make_family: Callable[[str], DualEncoder], family: str
) -> None:
    expected = make_family(family)
    folder = export_onnx(expected)
    made = OnnxEncoder.open(folder, batch_size=3)
    assert made.fingerprint == expected.fingerprint
    for side in ("query", "passage"):
        texts = expected.tokenised(side, TEXTS)
        assert made.tokenised(side, TEXTS) == texts
        assert texts.truncated >= 1
        theirs, ours = expected.encode_tokenised(texts), made.encode_tokenised(texts)
        assert theirs.tokens.std() > 0.01
        np.testing.assert_allclose(ours.vectors, theirs.vectors, rtol=0, atol=1e-4)
        # rounding may move a token to another cluster where many are pooled
        few = [row for row, ids in enumerate(texts.ids) if len(ids) <= 4 or family != "modernbert"]
        np.testing.assert_allclose(ours.tokens[few], theirs.tokens[few], rtol=0, atol=1e-4)
        # the tokens of a text do not depend on its batch
        alone = made.encode_tokenised(texts._replace(ids=texts.ids[2:3]))
        np.testing.assert_allclose(alone.tokens[0], ours.tokens[2], rtol=0, atol=1e-5)
    if FAMILIES[family][2].get("codec") == "int8":
        near = OnnxEncoder.open(folder, precision="int8").encode_tokenised(texts)
        assert cosines(near.vectors, theirs.vectors).min() > 0.99
        assert not np.array_equal(near.vectors, ours.vectors)
    # weights are stored once: what is added holds none of them
    weights = (folder / "trained.safetensors").stat().st_size
    passage = (folder / "passage.onnx").read_bytes()
    assert b"trained.safetensors" in passage
    assert len(passage) < 4 * weights


def test_a_graph_that_holds_for_the_traced_length_alone_is_refused(
    make_family: Callable[[str], DualEncoder],
) -> None:
    model = make_family("longformer")
    with pytest.raises(
        ModelError, match=r"graphs of .* this model works with --backend torch only"
    ):
        export_onnx(model)
    with pytest.raises(ModelError, match="holds no ONNX graphs"):
        OnnxEncoder.open(model.name)


WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "safetensors", "onnx")))  # absent
from dipair_index.cli import main
main()
"""


def without_torch(*arguments: str | Path) -> str:
    """What a command prints in a process that cannot import torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SLOW = [each for each in FAMILIES if each not in ("xlm-roberta", "longformer")]


@pytest.mark.parametrize(
    "family", ["xlm-roberta", *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_other_families_are_trained_built_and_answer_without_torch(
    make_family: Callable[[str], DualEncoder], family: str, tmp_path: Path
) -> None:
    make_family(family)
    pairs = "".join(
        f"{TEXTS[2 + row % 4][:12]} {row % 12}\t{TEXTS[2 + row % 5]}\t{row // 12 % 2}\n"
        for row in range(48)
    )
    (tmp_path / "pairs.tsv").write_text(f"query\tpassage\tlabel\n{pairs}")
    (tmp_path / "corpus.tsv").write_text("".join(f"p{n}\t{t}\n" for n, t in enumerate(TEXTS[2:])))
    data, model, index = (tmp_path / f"a.{each}" for each in ("dataset", "trained", "index"))
    for command in (
        ["make-dataset", "pairs", tmp_path / "pairs.tsv", "--out", data],
        ["label", "--judged", "--dataset", data],
        ["train", "--dataset", data, "--encoder", tmp_path / "encoder", "--max-steps", "2",
         "--dim", "16", "--passage-length", "64", "--stages", "one", "--out", model],
    ):  # fmt: skip
        done = CliRunner().invoke(cli, list(map(str, command)))
        assert done.exit_code == 0, done.output
    on = "--index-dir", index
    without_torch("build", "--corpus", tmp_path / "corpus.tsv", "--model", model, *on)
    asked = "rerank", "--json", "--raw-scores", "--query", TEXTS[2], "--top-k", "6", *on
    found = json.loads(without_torch(*asked))["results"]
    by_torch = CliRunner().invoke(cli, list(map(str, [*asked, "--backend", "torch"])))
    expected = json.loads(by_torch.stdout)["results"]
    assert len(found) == 6
    assert {each["id"]: each["score"] for each in found} == pytest.approx(
        {each["id"]: each["score"] for each in expected}, abs=1e-4
    )
