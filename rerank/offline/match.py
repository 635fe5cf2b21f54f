"""`match_indexes`: scores pairs of the texts of two indexes, in one process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dipair_index.errors import SettingsError
from dipair_index.models.systems import Backend, Precision, check_choice
from dipair_index.rerank.offline.run import Engine, MatchSummary, run_here, run_match
from dipair_index.rerank.offline.settings import BLOCK_PAIRS, MatchSettings

ENGINES = ("plain", "ray")
EngineName = Literal["plain", "ray"]


def match_indexes(
    left: str | Path,
    right: str | Path,
    out: str | Path,
    *,
    pairs: str | Path | None = None,
    every: bool = False,
    nearest: int | None = None,
    top_k: int | None = None,
    min_score: float | None = None,
    raw_scores: bool = False,
    model: str | Path | None = None,
    block_pairs: int = BLOCK_PAIRS,
    device: str = "cpu",
    backend: Backend = "auto",
    precision: Precision = "float32",
    engine: EngineName = "plain",
    workers: int | None = None,
    overwrite: bool = False,
    report: Callable[[int, int], None] = lambda done, pairs: None,
) -> MatchSummary:
    """Scores pairs of the texts of two indexes into Parquet files with left, right and score.

    The pairs are cut into blocks, whose files appear only when they are whole. A call that ended
    early goes on when it is made again, and leaves the same bytes as an undisturbed one.

    Parameters
    ----------
    left, right : str or Path
        Two index directories of one model: of queries (`build_index(..., side="query")`) and of
        passages, in either order, or twice the same one if the model reads both sides alike. A text
        is never paired with itself then.
    out : str or Path
        The folder of the scores, or a URL such as s3://bucket/scores.
    pairs : str or Path, optional
        Pairs of ids to score, in the order given: a file, a folder or a URL of Parquet with columns
        left and right, of which others are carried along, or of TSV with two ids a line.
    every : bool
        Score every left text with every right one. If the model is symmetric, a set against itself
        has each unordered pair once, unless there is a `top_k`.
    nearest : int, optional
        Score each left text with so many right ones that the vector search finds.
    top_k : int, optional
        Keep so many of the best pairs of each left text, best first, ties by the right id.
    min_score : float, optional
        Keep pairs with this score and higher.
    raw_scores : bool
        Write logits instead of scores in [0, 1]; `min_score` is a logit then.
    model : str or Path, optional
        The model that built the indexes, if it is elsewhere now.
    block_pairs : int
        The pairs of a block, about.
    device, backend, precision
        As `DiPairIndex.open` takes them, but "auto" is torch where it is installed.
    engine : {"plain", "ray"}
        Compute in this process, or by Ray in `workers` processes of its cluster.
    overwrite : bool
        Replace another match that is in `out`.
    report : callable
        Called with the pairs scored so far, and with all of them.

    Returns
    -------
    MatchSummary

    Raises
    ------
    DirectoryError
        If an index is absent, if different models built the two, or if `out` holds something else.
    MissingPassagesError
        If an id is not in its index; the message names the row.
    FormatError
        If a pair file cannot be read.
    SettingsError
        If settings exclude each other, or if the two sides make no pairs.

    Examples
    --------
    >>> from dipair_index import build_index, match_indexes, open_encoder
    >>> queries = [("q1", "why does dough rise")]
    >>> _ = build_index(queries, "q.index", open_encoder(), side="query", overwrite=True)
    >>> passages = [("p1", "Yeast makes gas."), ("p2", "Bees dance.")]
    >>> _ = build_index(passages, "p.index", open_encoder(), overwrite=True)
    >>> match_indexes("q.index", "p.index", "my.scores", every=True, overwrite=True).pairs
    2
    """
    check_choice("engine", engine, ENGINES)
    settings = MatchSettings(
        left=Path(left).absolute(),
        right=Path(right).absolute(),
        pairs=None if pairs is None else str(pairs),
        every=every,
        nearest=nearest,
        top_k=top_k,
        min_score=min_score,
        raw_scores=raw_scores,
        model=None if model is None else str(model),
        block_pairs=block_pairs,
        device=device,
        backend=backend,
        precision=precision,
    )
    runs: Engine = run_here
    if engine == "ray":
        from dipair_index.rerank.offline.ray_engine import RayEngine

        runs = RayEngine(workers)
    elif workers is not None:
        raise SettingsError("workers are for the engine ray: the plain one is one process")
    return run_match(settings, out, engine=runs, overwrite=overwrite, report=report)
