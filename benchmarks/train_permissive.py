"""Trains the permissive model on SQuAD and MedQuAD by the commands of the package.

    python benchmarks/train_permissive.py --squad squad --medquad medquad \
        --teacher ms-marco-MiniLM-L-12-v2 --vector-teacher bge-small-en-v1.5 --work permissive.work

Both folders are in MS MARCO's layout. The encoder is the default model's, and stays as it is: what
the training changed is written to `own/` in the working folder, which the package holds as
models/permissive. A killed run goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from train_default import run, train

from dipair_index.models.packaged import OWN, RECORD, TRAINED, default_model_folder
from dipair_index.models.weights import load_model

QUESTIONS = {"squad": 12_000, "medquad": 7_000}
"""How many questions of each are used; MedQuAD's are much alike, and differ in the illness."""
HELD_OUT = 12
"""One of this many passages is held out, with all of its questions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--medquad", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--vector-teacher", required=True)
    parser.add_argument("--work", type=Path, default=Path("permissive.work"))
    parser.add_argument("--limit", default="60000", help="label this many pairs")
    parser.add_argument("--epochs", default="5")
    given = parser.parse_args()
    data, dataset = given.work / "data", given.work / "permissive.dataset"
    encoder, model = given.work / "answerai-colbert-small-v1", given.work / "permissive.model"
    if not data.exists():
        join({"squad": given.squad, "medquad": given.medquad}, data)
    if not encoder.exists():
        write_encoder(encoder)
    if not (dataset / "dataset.json").exists():
        run("make-dataset", "msmarco", "--from-dir", data, "--out", dataset)
    run("label", "--dataset", dataset, "--teacher", given.teacher, "--per-query", "4",
        "--limit", given.limit)  # fmt: skip
    train(dataset, model, encoder, given.vector_teacher, given.epochs)
    write_own(model, given.work / "own")


def join(sources: dict[str, Path], folder: Path) -> None:
    """Writes one folder in MS MARCO's layout, with a share of the passages held out as dev."""
    chance = random.Random(0)
    passages, questions, judged = [], [], []
    for name, source in sources.items():
        passages += rows(source / "collection.tsv")
        asked = list(rows(source / "queries.train.tsv"))
        chance.shuffle(asked)
        asked = asked[: QUESTIONS[name]]
        kept = {query for query, _ in asked}
        questions += asked
        judged += [row for row in rows(source / "qrels.train.tsv") if row[0] in kept]
    answers = sorted({row[2] for row in judged})
    chance.shuffle(answers)
    held_out = set(answers[: len(answers) // HELD_OUT])
    dev = {row[0] for row in judged if row[2] in held_out}
    folder.mkdir(parents=True)
    write(folder / "collection.tsv", passages)
    for split, is_dev in (("train", False), ("dev", True)):
        write(folder / f"queries.{split}.tsv", (q for q in questions if (q[0] in dev) == is_dev))
        write(folder / f"qrels.{split}.tsv", (q for q in judged if (q[0] in dev) == is_dev))


def rows(path: Path) -> Iterable[list[str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        for line in lines:
            yield line.rstrip("\n").split("\t")


def write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def write_encoder(folder: Path) -> None:
    """Writes the default model's encoder and projection as the folder that training begins from."""
    default = default_model_folder()
    model = load_model(default)
    model.encoder.save_pretrained(folder)
    (folder / "1_Dense").mkdir()
    projection = next(iter(model.projections.values())).weight.detach().clone()
    save_file({"linear.weight": projection}, folder / "1_Dense" / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(default / name, folder / name)


def write_own(model: Path, folder: Path) -> None:
    """Writes what distinguishes a model from the default one, with which it shares its encoder."""
    default = default_model_folder()
    folder.mkdir(exist_ok=True)
    base, trained = load_file(default / TRAINED), load_file(model / TRAINED)
    own = {name: each for name, each in trained.items() if not each.equal(base[name])}
    save_file(own, folder / OWN, metadata={"format": "pt"})
    files = json.loads((model / RECORD).read_text(encoding="utf-8"))["files"]
    for name in {*files, RECORD, "training.json", "README.md"} - {TRAINED}:
        if (model / name).read_bytes() != (default / name).read_bytes():
            shutil.copyfile(model / name, folder / name)
    print(f"{len(own)} tensors of {folder} are its own: {sorted(own)}")


if __name__ == "__main__":
    main()
