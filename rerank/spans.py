"""Matched spans: the parts of a passage that answer the words of a query, for people to look at.

For each word of the query, the word of the passage whose vector has the largest cosine with its own
matches, and neighbouring matches are one span. The weight of a span is what leaving it out takes
off the logit of query and passage: the passage is encoded once more without it.

The model's own vectors of single words are compared, not the cached tokens, each of which may stand
for many words. So spans are found alike for every model of queries and passages, however it pools
tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from dipair_index.encoders.base import TextEncoder
from dipair_index.records import FloatArray, Passage
from dipair_index.rerank.scorer import TokenScorer

MOST_QUERY_WORDS = 16
"""The words of a query that are matched, its first ones, and so the most spans of a passage."""
_LEAST_WEIGHT = 1e-3
"""A smaller change of a logit is no evidence: rounding moves it by up to 1e-4."""
_LEAST_SHARE = 0.1
"""Spans with a smaller share of the passage's largest weight, mostly articles, are left out."""
_NEIGHBOURS = 2
"""Matched words form one span if they are at most so many words apart."""

_RUN = re.compile(r"\S{1,20}")  # in scripts without spaces, a clause or less
_EDGES = re.compile(r"^\W+|\W+$")


class Span(NamedTuple):
    """A part of a passage's text, [start, end) in code points, and its weight, of a logit."""

    start: int
    end: int
    weight: float


def matched_spans(
    query: str, passages: Sequence[Passage], encoder: TextEncoder, scorer: TokenScorer
) -> list[list[Span]]:
    """Returns the matched spans of the text of each passage, in the order of the text.

    Left out are spans of little or no weight, titles, and what the encoder does not read of a long
    text. For each passage, it encodes `MOST_QUERY_WORDS` + 1 texts of its length at most, and its
    words.
    """
    asked = list(dict.fromkeys(word.text for word in _words(query)))[:MOST_QUERY_WORDS]
    encoded = encoder.encode_queries([query, *asked])
    words = [list(_words(passage.text, _read_end(passage, encoder))) for passage in passages]
    vectors = _vectors({word.text for of_passage in words for word in of_passage}, encoder)
    places = [_nearest(of_passage, encoded.vectors[1:], vectors) for of_passage in words]
    weights = _weights(encoded.tokens[0], passages, places, encoder, scorer)
    return [
        _weighty([Span(*place, next(weights)) for place in of_passage]) for of_passage in places
    ]


def _weighty(spans: Sequence[Span]) -> list[Span]:
    largest = max((span.weight for span in spans), default=0.0)
    return [span for span in spans if span.weight > max(_LEAST_WEIGHT, _LEAST_SHARE * largest)]


class _Word(NamedTuple):
    """A word without the punctuation around it, and its place in a text."""

    text: str
    start: int
    end: int


def _words(text: str, end: int | None = None) -> Iterator[_Word]:
    """Yields the words of a text, or of its part before `end`; punctuation alone is no word."""
    for run in _RUN.finditer(text, 0, len(text) if end is None else end):
        if word := _EDGES.sub("", run[0]):
            start = run.start() + run[0].index(word)
            yield _Word(word, start, start + len(word))


def _read_end(passage: Passage, encoder: TextEncoder) -> int:
    """Returns where the encoder stops reading the text of a passage, to within a word."""
    ends = [0]

    def truncated(count: int) -> bool:
        part = passage._replace(text=passage.text[: ends[count]]).full_text
        return bool(encoder.tokenised("passage", [part]).truncated)

    runs = _RUN.finditer(passage.text)
    while more := [run.end() for run in islice(runs, max(64, len(ends)))]:
        ends += more
        if truncated(len(ends) - 1):
            break
    else:
        return ends[-1]
    whole, cut = 0, len(ends) - 1
    while whole + 1 < cut:
        middle = (whole + cut) // 2
        whole, cut = (whole, middle) if truncated(middle) else (middle, cut)
    return ends[cut]


def _vectors(words: set[str], encoder: TextEncoder) -> dict[str, FloatArray]:
    """Returns the vector (dim,) of each word as the passage side reads it."""
    listed = sorted(words)
    return dict(zip(listed, encoder.encode_passages(listed).vectors, strict=True)) if listed else {}


def _nearest(
    words: Sequence[_Word], asked: FloatArray, vectors: dict[str, FloatArray]
) -> list[tuple[int, int]]:
    """Returns the spans [start, end) of the words nearest to each of the vectors `asked`.

    Of equally near words, that is of one word that is repeated, the first is taken.
    """
    if not words or not len(asked):
        return []
    cosines = np.stack([vectors[word.text] for word in words]) @ asked.T
    places = sorted(set(cosines.argmax(0).tolist()))
    spans: list[tuple[int, int]] = []
    for before, place in zip([-_NEIGHBOURS - 1, *places], places, strict=False):
        start, end = words[place].start, words[place].end
        if place - before <= _NEIGHBOURS:
            start, _ = spans.pop()
        spans.append((start, end))
    return spans


def _weights(
    query_tokens: FloatArray,
    passages: Sequence[Passage],
    spans: Sequence[Sequence[tuple[int, int]]],
    encoder: TextEncoder,
    scorer: TokenScorer,
) -> Iterator[float]:
    """Yields for each span of each passage what leaving it out takes off the logit."""
    texts = []
    for passage, found in zip(passages, spans, strict=True):
        texts.append(passage.full_text)
        for start, end in found:
            rest = f"{passage.text[:start]}{passage.text[end:]}"
            texts.append(passage._replace(text=rest).full_text)
    if not texts:
        return
    tokens = encoder.encode_passages(texts).tokens
    logits = iter(scorer.logits(query_tokens, tokens).tolist())
    for found in spans:
        whole = next(logits)
        for _ in found:
            yield whole - next(logits)
