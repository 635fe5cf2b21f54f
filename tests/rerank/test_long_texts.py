"""Passages longer than the model reads: cut, or split into windows of which the best counts."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.encoders.onnx_encoder import OnnxEncoder
from dipair_index.encoders.open import open_encoder
from dipair_index.errors import FormatError, SettingsError
from dipair_index.records import Passage
from dipair_index.rerank.build import build_index
from dipair_index.rerank.index import DiPairIndex
from dipair_index.rerank.offline.match import match_indexes
from dipair_index.rerank.text_cache import TextCache
from dipair_index.stores.verification import verify_index

LONG = "why does bread dough rise: yeast and heat and water and sugar of the mountain " * 20
PASSAGES = [
    Passage("p1", "how bees dance in the winter"),
    Passage("p2", LONG + "the glacier and the river of ice"),
    Passage("p3", "the queen of the bees", title="honey", metadata={"kind": "short"}),
    Passage("p4", "the moon and the tide " * 60 + "gravity of the sun", metadata={"kind": "long"}),
    Passage("p5", "green tea leaves"),
    Passage("p6", "solar panels heat water " * 80, metadata={"kind": "long"}),
]
QUERIES = ["the glacier river", "gravity", "what is green tea"]


def twin(encoder: OnnxEncoder, query: str, passages: list[Passage]) -> dict[str, float]:
    """The score of each passage: each window is a passage of its own, and the best one counts."""
    best = {}
    tokens = encoder.encode_queries([query]).tokens[0]
    for passage in passages:
        (windows,) = encoder.windows("passage", [passage.full_text], 32)
        logits = [
            encoder.logits(tokens, encoder.encode_passages([window]).tokens)[0]
            for window in windows
        ]
        best[passage.id] = float(max(logits))
    return best


@pytest.fixture(scope="module")
def encoder(exported: DualEncoder) -> OnnxEncoder:
    return OnnxEncoder.open(exported.name)


@pytest.fixture(scope="module")
def split(encoder: OnnxEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "split.index"
    summary = build_index(PASSAGES, folder, encoder, long="split", codec="float32")
    assert (summary.passages, summary.truncated, summary.split) == (6, 0, 3)
    return folder


def test_windows_are_whole_words_that_cover_the_text_and_overlap(encoder: OnnxEncoder) -> None:
    words, at = [f"{one}{other}" for one in ascii_lowercase for other in ascii_lowercase], 0
    (windows,) = encoder.windows("passage", [" ".join(words)], 32)
    assert len(windows) > 2
    assert encoder.tokenised("passage", windows).truncated == 0
    for number, window in enumerate(windows):
        own = window.split()
        start = words.index(own[0])
        assert words[start : start + len(own)] == own
        if number:
            shared = " ".join(words[start:at])
            # beside two special tokens, at most what was asked for, and nearly as many
            assert 2 + 20 < len(encoder.tokenised("passage", [shared]).ids[0]) <= 2 + 32
        at = start + len(own)
    assert at == len(words)
    assert encoder.windows("passage", ["short", ""], 32) == [["short"], [""]]


def test_the_best_window_counts_however_a_passage_is_scored(
    encoder: OnnxEncoder, split: Path
) -> None:
    with DiPairIndex.open(split, encoder, cache=TextCache()) as index:
        assert len(index) == 6
        for query in QUERIES:
            expected = twin(encoder, query, PASSAGES)
            ranked = sorted(expected, key=lambda each: (-expected[each], each))
            for found in (
                index.search(query, None, 6, raw_scores=True),
                index.rerank(query, [each.id for each in PASSAGES], raw_scores=True),
                index.rerank(query, PASSAGES, raw_scores=True),
                index.rerank(
                    query, [PASSAGES[0].id, *PASSAGES[1:3], *(each.id for each in PASSAGES[3:])],
                    raw_scores=True,
                ),
            ):  # fmt: skip
                assert [each.id for each in found] == ranked
                assert {each.id: each.score for each in found} == pytest.approx(expected, abs=1e-4)
            by_text = index.rerank(
                query, texts=[each.full_text for each in PASSAGES], raw_scores=True
            )
            assert {PASSAGES[int(each.id)].id: each.score for each in by_text} == pytest.approx(
                expected, abs=1e-4
            )
            assert found[0].text in [each.text for each in PASSAGES]


def test_candidates_are_passages_and_not_windows(encoder: OnnxEncoder, split: Path) -> None:
    with DiPairIndex.open(split, encoder) as index:
        for query in QUERIES:
            vector = encoder.encode_queries([query]).vectors[0]
            nearest = {}
            for each in PASSAGES:
                (windows,) = encoder.windows("passage", [each.full_text], 32)
                nearest[each.id] = float((encoder.encode_passages(windows).vectors @ vector).max())
            order = sorted(nearest, key=lambda each: (-nearest[each], each))
            for count in (1, 3, 6, 50):
                found = index.search(query, None, count, rerank=False, raw_scores=True)
                assert [each.id for each in found] == order[:count]
                assert [each.score for each in found] == pytest.approx(
                    [nearest[each] for each in order[:count]], abs=1e-5
                )
            kind = index.search(query, None, 6, filter={"kind": "long"})
            assert {each.id for each in kind} == {"p4", "p6"}


@settings(
    max_examples=5, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "delete", "compact"]),
                  st.lists(st.sampled_from(range(6)), min_size=1, max_size=3, unique=True)),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_after_any_changes_an_index_is_that_of_its_passages(
    encoder: OnnxEncoder, tmp_path_factory: pytest.TempPathFactory,
    operations: list[tuple[str, list[int]]],
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("changes") / "i"
    held = {PASSAGES[1].id: PASSAGES[1]}
    with DiPairIndex.build(
        held.values(), path, model=encoder, long="split", codec="float32"
    ) as index:
        for name, rows in operations:
            chosen = [PASSAGES[row] for row in rows]
            if name == "add":
                texts = {
                    each.id: PASSAGES[(row + 1) % 6] for row, each in zip(rows, chosen, strict=True)
                }
                chosen = [Passage(each, texts[each].text) for each in texts]
                index.add(chosen, update=True)
                held |= {each.id: each for each in chosen}
            elif name == "compact":
                index.compact()
            elif gone := [each.id for each in chosen if each.id in held]:
                index.delete(gone)
                for each in gone:
                    del held[each]
        assert len(index) == len(held)
        assert list(verify_index(path)) == []
        found = index.search(QUERIES[0], None, 6, raw_scores=True)
        expected = twin(encoder, QUERIES[0], list(held.values()))
        assert {each.id: each.score for each in found} == pytest.approx(expected, abs=1e-4)


def test_an_id_with_the_separator_is_refused_where_windows_are_numbered(
    encoder: OnnxEncoder, tmp_path: Path
) -> None:
    strange = [Passage("a\x1f1", "bees")]
    with pytest.raises(FormatError, match=r"contains U\+001F"):
        build_index(strange, tmp_path / "split", encoder, long="split")
    build_index(strange, tmp_path / "cut", encoder)
    with DiPairIndex.open(tmp_path / "cut", encoder) as index:
        assert index.search("bees")[0].id == "a\x1f1"
    with pytest.raises(SettingsError, match="long"):
        build_index(strange, tmp_path / "other", encoder, long="some")


ENDS = {
    "latin": ("Yeast makes the bread dough rise. ", "Whales sing under the ice.", "whales sing"),
    "cyrillic": ("Дрожжи поднимают тесто для хлеба. ", "Киты поют подо льдом.", "киты поют"),
    "arabic": ("الخميرة ترفع عجين الخبز في الدفء. ", "الحيتان تغني تحت الجليد.", "الحيتان تغني"),
    "chinese": ("酵母使面团在温暖的地方发酵。", "鲸鱼在冰下歌唱。", "鲸鱼歌唱"),
    "devanagari": ("खमीर से रोटी का आटा फूलता है। ", "व्हेल बर्फ के नीचे गाती है।", "व्हेल गाती है"),
}


@pytest.mark.parametrize("script", ENDS)
def test_the_end_of_a_long_text_is_found_in_every_script(script: str, tmp_path: Path) -> None:
    filler, end, query = ENDS[script]
    default = open_encoder()
    times, windows = 4, [""]
    while len(windows) < 2:
        times += 2
        (windows,) = default.windows("passage", [filler * times + end], 32)
    assert windows[-1].endswith(end)
    passages = [Passage("long", filler * times + end), Passage("other", filler * 3)]
    scores = {}
    for long in ("cut", "split"):
        build_index(passages, tmp_path / long, default, long=long)
        with DiPairIndex.open(tmp_path / long, default) as index:
            found = index.search(query, raw_scores=True)
            scores[long] = {each.id: each.score for each in found}
            alone = index.rerank(query, texts=[windows[-1], filler * 3], raw_scores=True)
            last = {each.id: each.score for each in alone}
    assert scores["split"]["long"] >= last["0"] - 1e-3
    assert scores["split"]["long"] > scores["cut"]["long"] + 1
    assert scores["split"]["other"] == pytest.approx(scores["cut"]["other"], abs=1e-4)
    assert scores["split"]["long"] > scores["split"]["other"]
    assert np.isfinite(scores["split"]["long"])


@pytest.mark.parametrize("how", ["given", "every", "nearest"])
def test_pairs_have_the_score_of_their_best_windows(
    encoder: OnnxEncoder, split: Path, tmp_path: Path, how: str
) -> None:
    queries = [Passage(f"q{row}", text) for row, text in enumerate(QUERIES)]
    build_index(queries, tmp_path / "queries", encoder, side="query", codec="float32")
    expected = {
        (query.id, passage_id): score
        for query in queries
        for passage_id, score in twin(encoder, query.text, PASSAGES).items()
    }
    pairs = "".join(f"{left}\t{right}\n" for left, right in expected)
    (tmp_path / "pairs.tsv").write_text(pairs)
    which: dict[str, Any] = {"given": {"pairs": tmp_path / "pairs.tsv"}, "every": {"every": True},
                             "nearest": {"nearest": 6}}[how]  # fmt: skip
    match_indexes(tmp_path / "queries", split, tmp_path / "out", raw_scores=True, **which)
    files = sorted((tmp_path / "out").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    found = {(row["left"], row["right"]): row["score"] for row in rows}
    assert found == pytest.approx(expected, abs=1e-4)
