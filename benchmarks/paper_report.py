"""Prints the tables of `paper.py` beside the paper's figures, and draws the plots."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paper_rows import ROWS, TABLES, Line
from scipy.stats import spearmanr

from dipair_index.evaluation.bootstrap import Bootstrap, JudgedPairs, Measured, evaluate

RESAMPLES = 2000
REFERENCES = {"table3": "tsf 4/12/128 terms", "table7": "tsf 6/6/256", "figure3a": "two-stage",
              "figure4": "teacher"}  # fmt: skip
"""The row that a table's others are compared with, where it is not DiPair-TSF at 4/8/256."""
NOTES = """\
What differs from the paper in all rows: the encoder is all-MiniLM-L6-v2 (6 layers, 384 wide,
trained for cosines), not layers of BERT-base, and is frozen but for figure 3a. Training sees half
a pass of the labels, not 40 million pairs. So projections begin at the principal directions, and
heads at a similarity (--residual; MaxSim, which is the cosine where one token is kept): "from
nothing" shows what they learn without, which is little. BERT-Tiny begins at random weights and
sees 20 thousand pairs: its figure says nothing about BERT-Tiny. Table 3's students learn the judged
labels of another data set, and its teacher has seen none of them. Table 7's data are table 2's.
In figure 4 the quality is the given teacher's, the speed BERT-base's.

"Same side": the line lies on the side of the reference (p: -) on which the paper has it, on test.
p is of the two-sided paired bootstrap over queries, on test; above 0.05 a difference is noise.
Speed is a head's from tokens in memory, on one thread, against BERT-base at 128 tokens.

How the settings were chosen, on the valid split: of six layers and four, of the first token and the
mean of all (--pooling), of where heads begin, and of three rates. With the mean of six layers the
untrained cosine (0.9813) is as good as every head (0.9790 to 0.9814), since the encoder was trained
for just that; with the mean of four none learns matching (TSF 0.81). The paper's first token leaves
the heads something to learn (cosine 0.9608), so the tables can show their order there. It is not
the best student: that untrained cosine of means is better than every student in these tables.

What does not come out as in the paper in the run of RESULTS.md, and why:
- Table 2: the order is the paper's on valid; on test DE-FFNN is level with TSF (p 0.86). Such
  differences are as small as the noise of 1,654 pairs.
- Table 4: a wider or deeper FFNN gains nothing, and FFNN 8/16 beats TSF 4/8: more tokens make a
  better MaxSim to begin at (0.9612 at 4/8, 0.9776 at 8/16, valid), whatever the head.
- Table 5: without a projection TSF begins lower (0.9544 against 0.9612, valid): all 384 directions
  compare tokens worse than the leading 256. It has no projection to train, and does not recover.
- Table 6: 8/4 is no better than 4/8, as its MaxSim begins at 0.9548; four layers no better than
  two, and 1/11 no worse than 4/8 (p 0.94 and 0.59).
- Table 3: the order of the students is the paper's on valid, not on test (p 0.06 and more): 20,000
  judged pairs; three passes over them cost FFNN 0.05 on valid.
- Table 7: 6/6 and 3/3 beat the Poly-encoders on valid; on test all are level (p 0.35 and more).
- Figure 3a: one stage loses 0.001 only (p 0.32): begun at MaxSim, the head has little to spoil the
  encoder with, and 300 steps of 16 pairs change little.
- Figure 3b: frozen, the first token is nearly the same for all texts after one and two layers (all
  cosines are 1 to four digits): its cosine orders nothing. The paper trains those layers."""


def report(out: Path, plots: Path, benchmark: Any) -> str:
    """The tables in markdown; `benchmark` has the `done` rows and the `data` of each task."""
    rows, speeds = benchmark.done(), _speeds(out)
    parts = [
        _table(name, title, lines, rows, speeds, _compared(name, lines, rows, out, benchmark))
        for name, (title, lines) in TABLES.items()
    ]
    drawn = _draw(rows, speeds, plots)
    if any(line.row not in rows for _, lines in TABLES.values() for line in lines):
        parts.append("What was not run is run by " + command())
    return "\n\n".join([*parts, NOTES, "Plots: " + (", ".join(map(str, drawn)) or "none")])


def _speeds(out: Path) -> dict[str, float]:
    file = out / "speed.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def speed_of(row: str, speeds: Mapping[str, float]) -> float | None:
    """The speed-up of a row: a row of the other task may share its head."""
    return speeds.get(row) or speeds.get(row.removesuffix(" terms"))


def reference_of(table: str) -> str:
    return REFERENCES.get(table, "tsf 4/8/256")


def _compared(
    table: str, lines: Sequence[Line], rows: Mapping[str, Any], out: Path, benchmark: Any
) -> dict[str, Measured]:
    """Each row's difference to the reference on the test split; empty without the dataset."""
    reference, task = reference_of(table), ROWS[lines[0].row].task
    needed = {"match": "dataset", "relevance": "relevance_dataset"}[task]
    names = list(dict.fromkeys(line.row for line in lines if line.row in rows))
    if reference not in names or getattr(benchmark.options, needed) is None:
        return {}
    pairs = benchmark.data(task).pairs["test"]
    scores = {}
    for name in names:
        with np.load(out / "scores" / f"{benchmark.file_of(name)}.npz") as saved:
            scores[name] = saved["test"].astype(np.float64)
    judged = JudgedPairs(*pairs.ids, pairs.values.astype(np.float64), scores)
    measure = benchmark.data(task).measure
    measured = evaluate(judged, [measure], Bootstrap(reference, RESAMPLES))
    return {each.system: each for each in measured}


def _table(
    name: str, title: str, lines: Sequence[Line], rows: Mapping[str, Any],
    speeds: Mapping[str, float], compared: Mapping[str, Measured],
) -> str:  # fmt: skip
    measure = next((rows[line.row]["measure"] for line in lines if line.row in rows), "quality")
    text = [f"**{title}** (`--only {name}`)", "",
            f"| | {measure} valid | test | paper | same side | p | speed | paper |",
            "|---|--:|--:|--:|---|--:|--:|--:|"]  # fmt: skip
    reference = next((line for line in lines if line.row == reference_of(name)), lines[0])
    for line in lines:
        row, speed = rows.get(line.row), speed_of(line.row, speeds)
        shown = [line.label]
        if row is None:
            shown += [f'not run: --only "{line.row}"', ""]
        else:
            shown += [_number(row.get("valid"), 4), _number(row["test"], 4)]
        shown += [_number(line.paper, 3), _side(line, reference, rows)]
        p = compared[line.row].p if line.row in compared else None
        shown += [_number(p, 4) or "-", f"{speed:,.0f}x" if speed else ""]
        text.append("| " + " | ".join([*shown, f"{line.speed:,}x" if line.speed else ""]) + " |")
    return "\n".join([*text, "", _agreement(lines, rows)])


def command() -> str:
    """The command that was given, for one row of the reader's choice."""
    given = sys.argv[1:]
    if "--only" in given:
        at = given.index("--only")
        del given[at : at + 2]
    return f"`python benchmarks/paper.py {shlex.join(given)} --only NAME`"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _side(line: Line, reference: Line, rows: Mapping[str, Any]) -> str:
    here, there = rows.get(line.row), rows.get(reference.row)
    if line.row == reference.row or not here or not there or None in (line.paper, reference.paper):
        return ""
    own = here["test"] - there["test"]
    paper = line.paper - reference.paper  # type: ignore[operator]
    # the paper calls what is equal to three digits equal
    return "equal there" if paper == 0 else "yes" if own * paper > 0 else "no"


def _agreement(lines: Sequence[Line], rows: Mapping[str, Any]) -> str:
    """The number of pairs of lines in the paper's order, by split."""
    said = []
    for split in ("valid", "test"):
        both = [(line.paper, rows[line.row].get(split)) for line in lines
                if line.paper and line.row in rows]  # fmt: skip
        known = [(paper, own) for paper, own in both if own is not None]
        if len(known) < 3:
            continue
        paper, own = zip(*known, strict=True)
        ordered = [
            (one[0] - other[0]) * (one[1] - other[1]) > 0
            for at, one in enumerate(known) for other in known[:at] if one[0] != other[0]
        ]  # fmt: skip
        said.append(
            f"{split}: {sum(ordered)} of {len(ordered)} pairs of lines as in the paper, "
            f"Spearman {spearmanr(paper, own).statistic:.2f}"
        )
    return f"Order on {'; on '.join(said)}." if said else "Too few lines to compare their order."


FAMILIES = {
    "DiPair-TSF": ["tsf 2/2/256", "tsf 4/8/256", "tsf 8/16/256"],
    "DiPair-FFNN": ["ffnn 4/8 128x2", "ffnn 4/8 1024x2", "ffnn 8/16 1024x2"],
    "DE-FFNN": ["de-ffnn 128x2", "de-ffnn 1024x2", "de-ffnn 1024x4"],
    "DE-Cos": ["de-cos"],
    "BERT-Tiny": ["bert-tiny"],
    "teacher, input cut": [f"teacher {length} tokens" for length in (16, 24, 32, 64)] + ["teacher"],
    "MaxSim": ["maxsim 4/8/256"],
}
"""The curves of figure 1."""


def _draw(rows: Mapping[str, Any], speeds: Mapping[str, float], folder: Path) -> list[Path]:
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []

    def save(name: str, figure: Any) -> None:
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=80)
        pyplot.close(figure)
        drawn.append(folder / f"{name}.png")

    figure, (ours, papers) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    published = {line.row: (line.speed, line.paper) for table in ("table6", "table4", "table2")
                 for line in TABLES[table][1] if line.speed}  # fmt: skip
    for number, (family, names) in enumerate(FAMILIES.items()):
        own = sorted((speeds[name], rows[name]["test"]) for name in names
                     if name in rows and name in speeds)  # fmt: skip
        paper = sorted(published[name] for name in names if name in published)
        for axis, points in ((ours, own), (papers, paper)):
            if points:
                axis.plot(*zip(*points, strict=True), "o-", color=f"C{number}", label=family)
    for axis, title in ((ours, "here"), (papers, "the paper")):
        axis.set(xscale="log", xlabel="speed-up on BERT-base", ylabel="AUC, test", title=title)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7, loc="best")
    # what is far below would flatten all curves
    ours.set(ylim=(0.92, 1), title="here (what is below 0.92 is left out)")
    save("figure1", figure)
    for name, xlabel in (("figure3a", ""), ("figure3b", "layers"), ("figure4", "tokens of a pair")):
        title, lines = TABLES[name]
        there = [line for line in lines if line.row in rows]
        if not there:
            continue
        figure, axis = pyplot.subplots(figsize=(5, 3.5))
        if name == "figure3a":
            values = [rows[line.row]["test"] for line in there]
            axis.bar([line.label for line in there], values, color="C0", width=0.5)
            axis.set_ylim(min(values) - 0.05, max(values) + 0.02)
        else:
            for series in dict.fromkeys(line.label.rpartition(", ")[0] for line in there):
                points = sorted(
                    (int(line.label.rpartition(", ")[2]), rows[line.row]["test"])
                    for line in there if line.label.rpartition(", ")[0] == series
                )  # fmt: skip
                axis.plot(*zip(*points, strict=True), "o-", label=series)
            axis.legend(fontsize=7, loc="best")
        axis.set(xlabel=xlabel, ylabel="AUC, test", title=title)
        axis.grid(alpha=0.3)
        save(name, figure)
    return drawn
