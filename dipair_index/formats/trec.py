"""Judgements and rankings: TREC's qrels, or BEIR's, and TREC's runs.

Every reader takes a path or "-" for standard input, compressed with gzip or not, and raises
`FormatError`, which names file and line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from dipair_index.errors import FormatError
from dipair_index.formats.hub_datasets import local_copy
from dipair_index.formats.irds import is_irds, iter_judgements
from dipair_index.formats.lines import iter_lines, source_name
from dipair_index.records import Qrels, Run, ScoredPassage

BEIR_QRELS_HEADER = ["query-id", "corpus-id", "score"]


class Judgement(NamedTuple):
    """One line of a qrels file; `where` names the line for an error."""

    query_id: str
    passage_id: str
    relevance: int
    where: str


def iter_qrels(source: str | Path) -> Iterator[Judgement]:
    """Yields the judgements of a source in their order.

    It is a file of TREC's four columns or of BEIR's three, or `irds:ID`.
    """
    if is_irds(source):
        yield from itertools.starmap(Judgement, iter_judgements(source))
        return
    path, beir = _qrels_file(local_copy(source, "qrels")), False
    for number, line in iter_lines(path):
        where, fields = f"line {number} of {source_name(path)}", line.split()
        if number == 1 and fields == BEIR_QRELS_HEADER:
            beir = True
            continue
        expected = 3 if beir else 4
        if len(fields) != expected:
            columns = "query-id corpus-id score" if beir else "query-id 0 passage-id relevance"
            raise FormatError(f"{where}: expected {expected} fields ({columns}), got {len(fields)}")
        try:
            relevance = int(fields[-1])
        except ValueError:
            raise FormatError(
                f"{where}: expected a whole number as relevance, got {fields[-1]!r}"
                f"{_header(number)}"
            ) from None
        yield Judgement(fields[0], fields[-2], relevance, where)


def read_qrels(source: str | Path) -> Qrels:
    """Relevance by query, then passage. Raises `FormatError` if two judgements differ."""
    return collect_qrels(iter_qrels(source), source_name(source))


def collect_qrels(judgements: Iterable[Judgement], name: str) -> Qrels:
    """Gathers the judgements of the file `name`, as `read_qrels` does."""
    qrels: Qrels = {}
    for query_id, passage_id, relevance, where in judgements:
        if qrels.setdefault(query_id, {}).setdefault(passage_id, relevance) != relevance:
            raise FormatError(
                f"{where}: query {query_id} and passage {passage_id} were judged "
                f"{qrels[query_id][passage_id]} before and {relevance} here: keep one line"
            )
    if not qrels:
        raise FormatError(f"{name} holds no judgement: expected query-id 0 passage-id relevance")
    return qrels


def read_run(source: str | Path) -> Run:
    """Scores by query, then passage, of a TREC run in the order of its lines."""
    run: Run = {}
    for number, line in iter_lines(source):
        where, fields = f"line {number} of {source_name(source)}", line.split()
        if len(fields) != 6:
            raise FormatError(
                f"{where}: expected 6 fields (query-id Q0 passage-id rank score tag), "
                f"got {len(fields)}"
            )
        query_id, _, passage_id, _, score, _ = fields
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise FormatError(
                f"{where}: expected a finite number as score, got {score!r}{_header(number)}"
            )
        ranking = run.setdefault(query_id, {})
        if passage_id in ranking:
            raise FormatError(
                f"{where}: passage {passage_id} is ranked twice for query {query_id}: keep one line"
            )
        ranking[passage_id] = value
    return run


def without_identical_ids(run: Run) -> Run:
    """The run without passages that have the id of their query (BEIR's `ignore_identical_ids`)."""
    return {
        query_id: {
            passage_id: score for passage_id, score in ranking.items() if passage_id != query_id
        }
        for query_id, ranking in run.items()
    }


def write_run(run: Mapping[str, Sequence[ScoredPassage]], target: TextIO, tag: str) -> None:
    """Writes a TREC run: each query's passages best first, ties by id, ranks from 1."""
    tag = _word(tag)
    for query_id, ranking in run.items():
        best_first = sorted(ranking, key=lambda scored: (-scored.score, scored.passage_id))
        for rank, (passage_id, score) in enumerate(best_first, start=1):
            target.write(
                f"{_word(query_id)} Q0 {_word(passage_id)} {rank} {float(score)!r} {tag}\n"
            )


def _header(number: int) -> str:
    return ": remove the line, if it is a header" if number == 1 else ""


def _qrels_file(source: str | Path) -> str | Path:
    folder = Path(source)
    if str(source) in ("", "-") or not folder.is_dir():
        return source
    folder = folder / "qrels" if (folder / "qrels").is_dir() else folder
    files = sorted(path for path in folder.iterdir() if path.name.endswith((".tsv", ".tsv.gz")))
    if len(files) == 1:
        return files[0]
    found = ", ".join(path.name for path in files) or "no .tsv file"
    raise FormatError(f"{folder} holds {found}: give the one qrels file that is meant")


def _word(value: str) -> str:
    if value.split() != [value]:
        raise FormatError(
            f"{value!r} is empty or holds white space, which qrels and run files cannot hold: use "
            "another id"
        )
    return value
