"""Figures of `dipair-index inspect`: drawn by matplotlib, alone or in a page of their own."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipair_index.files import write_whole
from dipair_index.optional import require

if TYPE_CHECKING:
    from dipair_index.rerank.inspection.over_training import Course
    from dipair_index.rerank.inspection.pair import PairInspection
    from dipair_index.rerank.inspection.used import UsedTokens
    from dipair_index.rerank.inspection.words import Word

PAGE = ".html"
SUFFIXES = (PAGE, ".svg", ".png", ".pdf")
INCHES_A_TOKEN = 0.28

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } svg { max-width: 100%; height: auto }
td, th { border-bottom: 1px solid #ccc; padding: .2rem .8rem .2rem 0; text-align: left }
mark { background: hsl(45 90% 60% / var(--weight)); color: inherit }
"""


def check_figure(path: Path) -> None:
    """Refuses a figure that cannot be drawn, before anything is computed for it."""
    if path.suffix not in SUFFIXES:
        raise click.UsageError(f"--figure {path} must end in {', '.join(SUFFIXES)}")
    require("inspect", "--figure", "matplotlib")


def draw(found: PairInspection | UsedTokens | Course, path: Path) -> None:
    """Draws what was found into a file, whose suffix says as what. Raises `WriteError`."""
    from dipair_index.rerank.inspection.over_training import Course
    from dipair_index.rerank.inspection.pair import PairInspection

    if isinstance(found, PairInspection):
        title, figure, body = "A query and a passage", _pair_figure(found), _pair_page(found)
    elif isinstance(found, Course):
        title, figure, body = "Tokens over the training", _course_figure(found), ""
    else:
        title, figure, body = "The tokens of an index", _used_figure(found), ""
    drawn = io.BytesIO()
    kind = path.suffix[1:] if path.suffix != PAGE else "svg"
    figure.savefig(drawn, format=kind, bbox_inches="tight")
    data = drawn.getvalue()
    if path.suffix == PAGE:
        svg = data.decode()
        data = _page(title, svg[svg.index("<svg") :] + body).encode()
    write_whole(path, data)


def _pair_figure(found: PairInspection) -> Any:
    from matplotlib.figure import Figure

    names = [_name(each.token, each.words) for each in found.tokens]
    asked = [_name(each.token, each.words) for each in found.meetings]
    width = 3 + INCHES_A_TOKEN * len(names)
    heights = [len(asked) or 1, len(names) or 1]
    figure = Figure((width, 4 + INCHES_A_TOKEN * sum(heights)), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=heights)
    _heat(above, found.similarities, asked, names, "Similarity of query and passage tokens")
    _heat(below, found.cosines, names, names, "Cosines of the passage's tokens")
    return figure


def _heat(axes: Any, values: Any, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    axes.figure.colorbar(image, ax=axes)


def _used_figure(found: UsedTokens) -> Any:
    from matplotlib.figure import Figure

    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([each.tokens for each in found.kept], [each.measure for each in found.kept], "o-")
    axes.set_xlabel("tokens a passage")
    axes.set_ylabel("nDCG@10, " + ("judged" if found.judged else "of the order with all tokens"))
    axes.set_xlim(left=0)
    axes.set_title("Dropping the most alike tokens of each passage")
    return figure


def _course_figure(found: Course) -> Any:
    from matplotlib.figure import Figure

    figure = Figure((8, 8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    names = [each.checkpoint for each in found.moments]
    above.plot(names, [each.effective_rank for each in found.moments], "o-")
    above.set_ylabel("effective rank of a passage's tokens")
    below.plot(names, [each.similarity_spread for each in found.moments], "o-", label="similarity")
    below.plot(names, [each.added_spread for each in found.moments], "o-", label="head's addition")
    below.set_ylabel("standard deviation over pairs")
    below.tick_params(axis="x", rotation=90)
    below.legend()
    return figure


def _name(place: int, words: Sequence[Word]) -> str:
    return f"{words[0].word if words else '·'} {place}"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1>{body}</html>\n"
    )


def _pair_page(found: PairInspection) -> str:
    """The texts, with the words that tokens stand for marked, and the tables."""
    logit, alike = found.logit, found.redundancy
    met = {each.met for each in found.meetings}
    marked = _marked(
        found.passage,
        (word for token in found.tokens if token.token in met for word in token.words),
    )
    meetings = (
        [_listed(each.words), _listed(found.tokens[each.met].words), f"{each.similarity:.3f}"]
        for each in found.meetings
    )
    tokens = (
        [str(each.token), _listed(each.words), _listed(each.nearest), f"{each.norm:.2f}"]
        for each in found.tokens
    )
    return "".join([
        f"<p><b>{escape(found.query)}</b></p><p>{marked}</p>",
        f"<p>Logit {logit.logit:.3f}: the similarity {logit.similarity:.3f}, and the head's "
        f"addition {logit.added:.3f}. Of {alike.tokens} tokens of the passage, the mean cosine is "
        f"{alike.mean_cosine:.3f}, and the effective rank {alike.effective_rank:.1f}.</p>",
        _html_table(["query token", "met", "similarity"], meetings),
        _html_table(["token", "stands for", "near in the vocabulary", "length"], tokens),
    ])  # fmt: skip


def _marked(text: str, words: Iterable[Word]) -> str:
    """The text in HTML, with words marked by the largest of their weights."""
    weights: dict[tuple[int, int], float] = {}
    for word in words:
        if word.start is not None and word.end is not None:
            place = word.start, word.end
            weights[place] = max(word.weight, weights.get(place, 0))
    pieces, at = [], 0
    for (start, end), weight in sorted(weights.items()):
        pieces.append(escape(text[at:start]))
        shade = min(1, weight)
        pieces.append(f'<mark style="--weight:{shade:.2f}">{escape(text[start:end])}</mark>')
        at = end
    return "".join([*pieces, escape(text[at:])])


def _listed(words: Sequence[Word]) -> str:
    return ", ".join(f"{each.word} {each.weight:.2f}" for each in words)


def _html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
