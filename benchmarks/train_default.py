"""Trains the default model from its sources by the commands of the package, one after the other.

    python benchmarks/train_default.py --data msmarco --teacher ms-marco-MiniLM-L-12-v2 \
        --encoder answerai-colbert-small-v1 --vector-teacher bge-small-en-v1.5 --work default.work

`--data` is MS MARCO's layout (collection.tsv, queries.*.tsv, qrels.*.tsv); further queries without
judgements come by `--queries`. A killed run goes on with the same command. With a GPU, `--device
cuda --bf16 --limit 2000000` labels two million pairs; `--device cpu --max-steps 3` tries the path.
`--scores` takes a teacher's scores that exist already in place of labelling.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

QUERY_MARKER, PASSAGE_MARKER = "[unused0]", "[unused1]"
"""What answerai-colbert-small-v1 reads before a query and before a passage."""


def run(*words: str | Path) -> None:
    """Runs a command of the package, and ends with its status if it fails."""
    command = [sys.executable, "-m", "dipair_index", *map(str, words)]
    print("$", shlex.join(["dipair-index", *command[3:]]), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=Path, action="append", default=[])
    parser.add_argument("--teacher", help="label with this cross-encoder")
    parser.add_argument("--scores", type=Path, help="or take these scores: label --scores")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--vector-teacher", required=True)
    parser.add_argument("--work", type=Path, default=Path("default.work"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", help="label at most this many pairs")
    parser.add_argument("--max-steps", help="end each stage after this many steps")
    parser.add_argument("--epochs", default="5")
    parser.add_argument("--bf16", action="store_true")
    given = parser.parse_args()
    if (given.teacher is None) == (given.scores is None):
        parser.error("give either --teacher or --scores")
    dataset, model = given.work / "msmarco.dataset", given.work / "default.model"
    device = ("--device", given.device)
    unlabelled = [word for file in given.queries for word in ("--unlabelled-queries", file)]
    if not (dataset / "dataset.json").exists():
        run(
            "make-dataset", "msmarco", "--from-dir", given.data, "--out", dataset, *unlabelled,
            *device,
        )  # fmt: skip
    if given.scores is not None:
        run("label", "--dataset", dataset, "--scores", given.scores)
    else:
        limit = ("--limit", given.limit) if given.limit else ()
        run("label", "--dataset", dataset, "--teacher", given.teacher, "--per-query", "6",
            *limit, *device)  # fmt: skip
    steps = ("--max-steps", given.max_steps) if given.max_steps else ()
    train(
        dataset, model, given.encoder, given.vector_teacher, given.epochs,
        *steps, *device, *(("--bf16",) if given.bf16 else ()),
    )  # fmt: skip


def train(
    dataset: Path, model: Path, encoder: str | Path, vector_teacher: str, epochs: str, *words: str
) -> None:
    """Trains a model of the default one's shape, or resumes its training."""
    again = ("--resume",) if Path(f"{model}.training").exists() else ()
    run(
        "train", "--dataset", dataset, "--out", model, "--system", "aligned",
        "--encoder", encoder, "--query-prefix", QUERY_MARKER, "--passage-prefix", PASSAGE_MARKER,
        "--shared-projections", "--projection-start", "pretrained", "--pooling", "linear",
        "--vector-teacher", vector_teacher, "--stage-one-epochs", epochs,
        "--stage-two-epochs", "0", "--weights", "int8", *words, *again,
    )  # fmt: skip


if __name__ == "__main__":
    main()
