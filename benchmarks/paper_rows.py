"""The rows of DiPair's tables: what is trained for each, and what the paper reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """How one row comes about; tables share rows."""

    settings: Mapping[str, Any] = {}  # of DiPairConfig, beside N, M and D
    sizes: tuple[int, int, int | None] = (4, 8, 256)
    kind: str = "stage-one"  # or stage-two, one-stage, bert-tiny, teacher
    layers: int | None = None  # None: the script's
    length: int | None = None  # of the teacher's input
    task: str = "match"  # table 2's data, or "relevance", table 3's


class Line(NamedTuple):
    """A line of a table: a row, and the paper's quality and speed-up for it."""

    label: str
    row: str
    paper: float | None = None
    speed: int | None = None


def _tsf(*sizes: int | None, **settings: Any) -> Recipe:
    return Recipe({"system": "tsf", **settings}, sizes)  # type: ignore[arg-type]


def _wide(system: str, sizes: tuple[int, int, int | None], *hidden: int) -> Recipe:
    return Recipe({"system": system, "head_hidden": list(hidden)}, sizes)


def _terms(system: str, sizes: tuple[int, int, int | None]) -> Recipe:
    return Recipe({"system": system}, sizes, task="relevance")


SMALL, OWN = (4, 8, 256), (1, 1, None)
ROWS: dict[str, Recipe] = {
    "tsf 4/8/256": _tsf(*SMALL),
    "de-cos": Recipe({"system": "de-cos"}, OWN),
    "de-ffnn 128x2": _wide("de-ffnn", OWN, 128, 128),
    "ffnn 4/8 128x2": _wide("ffnn", SMALL, 128, 128),
    "teacher": Recipe(kind="teacher"),
    "tsf 4/8/128": _tsf(4, 8, 128),
    "tsf 4/8/16": _tsf(4, 8, 16),
    "tsf 4/8/none": _tsf(4, 8, None),
    "tsf 8/16/256": _tsf(8, 16, 256),
    "tsf 2/2/256": _tsf(2, 2, 256),
    "tsf 1/11/256": _tsf(1, 11, 256),
    "tsf 11/1/256": _tsf(11, 1, 256),
    "tsf 8/4/256": _tsf(8, 4, 256),
    "tsf 4/8/256 4 layers": _tsf(*SMALL, head_layers=4),
    "de-ffnn 1024x2": _wide("de-ffnn", OWN, 1024, 1024),
    "de-ffnn 1024x4": _wide("de-ffnn", OWN, 1024, 1024, 1024, 1024),
    "ffnn 4/8 1024x2": _wide("ffnn", SMALL, 1024, 1024),
    "ffnn 8/16 1024x2": _wide("ffnn", (8, 16, 256), 1024, 1024),
    "de-cos 256": Recipe({"system": "de-cos"}, (1, 1, 256)),
    "dse": Recipe({"system": "dse"}, OWN),
    "maxsim 4/8/256": Recipe({"system": "maxsim"}, SMALL),
    "poly 1/11": Recipe({"system": "poly"}, (1, 11, 256)),
    "poly 1/5": Recipe({"system": "poly"}, (1, 5, 256)),
    "tsf 3/3/256": _tsf(3, 3, 256),
    "tsf 6/6/256": _tsf(6, 6, 256),
    **{f"teacher {length} tokens": Recipe(kind="teacher", length=length)
       for length in (16, 24, 32, 64)},
    "two-stage": Recipe({"system": "tsf"}, kind="stage-two"),
    "one-stage": Recipe({"system": "tsf"}, kind="one-stage"),
    "de-cos terms": _terms("de-cos", OWN),
    "de-ffnn terms": _terms("de-ffnn", OWN),
    "ffnn 4/12/128 terms": _terms("ffnn", (4, 12, 128)),
    "tsf 4/12/128 terms": _terms("tsf", (4, 12, 128)),
    "teacher terms": Recipe(kind="teacher", task="relevance"),
    **{f"{name} K={layers}": Recipe({"system": system}, sizes, layers=layers)
       for layers in (1, 2)
       for name, system, sizes in (("ffnn 4/8 128x2", "ffnn", SMALL), ("de-cos", "de-cos", OWN))},
    "bert-tiny": Recipe(kind="bert-tiny"),
    "tsf 4/8/256 from nothing": _tsf(*SMALL, similarity_residual="none"),
    "ffnn 4/8 128x2 from nothing": Recipe(
        {"system": "ffnn", "similarity_residual": "none"}, SMALL
    ),
    "de-ffnn 128x2 from nothing": Recipe(
        {"system": "de-ffnn", "similarity_residual": "none"}, OWN
    ),
    "bert-tiny terms": Recipe(kind="bert-tiny", task="relevance"),
}  # fmt: skip

TSF = Line("DiPair-TSF", "tsf 4/8/256", 0.932, 355)
TABLES: dict[str, tuple[str, list[Line]]] = {
    "table2": ("Table 2: systems, query to passage", [
        Line("Teacher", "teacher", 0.957, 1),
        Line("BERT-Tiny", "bert-tiny", 0.936, 44),
        TSF,
        Line("DiPair-FFNN", "ffnn 4/8 128x2", 0.904, 2437),
        Line("DE-FFNN", "de-ffnn 128x2", 0.896, 3863),
        Line("DE-Cos", "de-cos", 0.878, 5109),
        Line("DE-Cos with a projection, 256 (ours)", "de-cos 256"),
        Line("DSE", "dse"),
        Line("MaxSim, 4/8/256 (ours)", "maxsim 4/8/256"),
        Line("DiPair-TSF from nothing", "tsf 4/8/256 from nothing"),
        Line("DiPair-FFNN from nothing", "ffnn 4/8 128x2 from nothing"),
        Line("DE-FFNN from nothing", "de-ffnn 128x2 from nothing"),
    ]),
    "table3": ("Table 3: systems, product to term", [
        Line("Teacher", "teacher terms", 0.757, 1),
        Line("DiPair-TSF", "tsf 4/12/128 terms", 0.731, 362),
        Line("DiPair-FFNN", "ffnn 4/12/128 terms", 0.697, 2128),
        Line("DE-FFNN", "de-ffnn terms", 0.677, 3129),
        Line("DE-Cos", "de-cos terms", 0.669, 3990),
        Line("BERT-Tiny", "bert-tiny terms", 0.640, 53),
    ]),
    "table4": ("Table 4: heads", [
        Line("TSF 2 layers, 4/8", "tsf 4/8/256", 0.930, 355),
        Line("TSF 2 layers, 8/16", "tsf 8/16/256", 0.942, 98),
        Line("FFNN x128x128, 4/8", "ffnn 4/8 128x2", 0.900, 2437),
        Line("FFNN x1024x1024, 4/8", "ffnn 4/8 1024x2", 0.909, 616),
        Line("FFNN x1024x1024, 8/16", "ffnn 8/16 1024x2", 0.908, 268),
        Line("DE-FFNN x128x128", "de-ffnn 128x2", 0.895, 3863),
        Line("DE-FFNN x1024x1024", "de-ffnn 1024x2", 0.912, 754),
        Line("DE-FFNN x1024 four times", "de-ffnn 1024x4", 0.909, 420),
    ]),
    "table5": ("Table 5: width D of the projection, TSF 4/8", [
        Line("256", "tsf 4/8/256", 0.930),
        Line("128", "tsf 4/8/128", 0.904),
        Line("16", "tsf 4/8/16", 0.831),
        Line("no projection (paper 768, here 384)", "tsf 4/8/none", 0.930),
    ]),
    "table6": ("Table 6: lengths N/M and layers of the head", [
        Line("8/16, 2 layers", "tsf 8/16/256", 0.942),
        Line("8/4, 2 layers", "tsf 8/4/256", 0.934),
        Line("4/8, 4 layers", "tsf 4/8/256 4 layers", 0.936),
        Line("4/8, 2 layers", "tsf 4/8/256", 0.930),
        Line("2/2, 2 layers", "tsf 2/2/256", 0.909),
        Line("1/11, 2 layers", "tsf 1/11/256", 0.922),
        Line("11/1, 2 layers", "tsf 11/1/256", 0.916),
    ]),
    "table7": ("Table 7: Poly-encoders (paper: product to product, Pearson)", [
        Line("Teacher", "teacher", 0.840),
        Line("DiPair 6/6", "tsf 6/6/256", 0.826),
        Line("Poly 1/11", "poly 1/11", 0.805),
        Line("DiPair 3/3", "tsf 3/3/256", 0.823),
        Line("Poly 1/5", "poly 1/5", 0.790),
    ]),
    "figure3a": ("Figure 3a: two stages against one", [
        Line("two stages", "two-stage", 0.930),
        Line("one stage", "one-stage", 0.891),
        Line("stage one alone (ours)", "tsf 4/8/256"),
    ]),
    "figure3b": ("Figure 3b: layers K of the encoder", [
        Line("DiPair-FFNN, 1", "ffnn 4/8 128x2 K=1"),
        Line("DiPair-FFNN, 2", "ffnn 4/8 128x2 K=2"),
        Line("DiPair-FFNN, 6", "ffnn 4/8 128x2"),
        Line("DE-Cos, 1", "de-cos K=1"),
        Line("DE-Cos, 2", "de-cos K=2"),
        Line("DE-Cos, 6", "de-cos"),
        Line("DiPair-TSF, 6", "tsf 4/8/256"),
    ]),
    "figure4": ("Figure 4: the teacher with its input cut", [
        Line("Teacher, 160", "teacher"),
        *(Line(f"Teacher, {length}", f"teacher {length} tokens") for length in (64, 32, 24, 16)),
    ]),
}  # fmt: skip
