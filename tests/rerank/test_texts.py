"""Texts and passages of any origin, with an index and without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_index import (
    DiPairError,
    DiPairIndex,
    Passage,
    Query,
    Reranker,
    SettingsError,
    TextCache,
    open_encoder,
)
from dipair_index.encoders.base import EncodedTexts
from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.build import build_index
from dipair_index.rerank.head import HeadScorer
from dipair_index.rerank.ranking import probability
from dipair_index.stores.codecs import Codec, open_codec

QUERY = "why does dough rise"
TEA = Query("q", "tea")
NESTED: dict[str, Any] = {}
NESTED["itself"] = NESTED
OTHERS = ["lava of the mountain", "bees dance", "lava of the mountain", ""]


class CountingEncoder(DualEncoder):
    """Counts how often each text is encoded as a passage."""

    def encode_passages(self, texts: Sequence[str]) -> EncodedTexts:
        self.seen = [*getattr(self, "seen", []), *texts]
        return super().encode_passages(texts)


@pytest.fixture
def counting(tiny_model_dir: Path) -> CountingEncoder:
    encoder = CountingEncoder.load(tiny_model_dir)
    encoder.seen = []
    return encoder


@pytest.fixture
def index(index_dir: Path, counting: CountingEncoder) -> Iterator[DiPairIndex]:
    with DiPairIndex.open(index_dir, counting, cache=TextCache()) as opened:
        yield opened


def logits(encoder: DualEncoder, texts: Sequence[str], codec: str = "float32") -> list[float]:
    """What the head says of texts that no index and no cache has held."""
    tokens = DualEncoder.encode_passages(encoder, texts).tokens
    stored = open_codec(codec, tokens_per_passage=tokens.shape[1], dim=tokens.shape[2])
    query = encoder.encode_queries([QUERY]).tokens[0]
    return HeadScorer(encoder.model).logits(query, stored.decode(stored.encode(tokens))).tolist()


def test_texts_have_the_scores_of_the_head_and_their_places_as_ids(
    index: DiPairIndex, counting: CountingEncoder
) -> None:
    found = index.rerank(QUERY, texts=OTHERS, raw_scores=True)
    expected = dict(zip(OTHERS, logits(counting, OTHERS), strict=True))
    order = sorted(range(4), key=lambda place: (-expected[OTHERS[place]], place))

    assert [each.id for each in found] == [str(place) for place in order]
    assert [each.text for each in found] == [OTHERS[place] for place in order]
    assert [each.score for each in found] == pytest.approx(
        [expected[OTHERS[place]] for place in order], abs=1e-5
    )
    assert {each.retrieval_rank for each in found} == {None}


def test_a_text_of_the_index_is_not_encoded_and_has_its_score(
    index: DiPairIndex, counting: CountingEncoder, passages: list[Passage]
) -> None:
    by_id = index.rerank(QUERY, [each.id for each in passages], raw_scores=True)
    by_text = index.rerank(QUERY, texts=[each.full_text for each in passages], raw_scores=True)
    renamed = [Passage(f"x{each.id}", *each[1:]) for each in passages]
    as_passages = index.rerank(QUERY, renamed, raw_scores=True)

    assert counting.seen == []
    assert [each.score for each in by_text] == [each.score for each in by_id]
    assert [(each.id, each.score) for each in as_passages] == [
        (f"x{each.id}", each.score) for each in by_id
    ]
    assert as_passages[0][3:6] == by_id[0][3:6]


def test_a_text_is_encoded_once_a_process(index: DiPairIndex, counting: CountingEncoder) -> None:
    first = index.rerank(QUERY, texts=OTHERS)
    assert sorted(counting.seen) == sorted(set(OTHERS))
    assert index.rerank(QUERY, texts=OTHERS) == first
    index.rerank([QUERY, "tea"], texts=[OTHERS, OTHERS[:1]])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: index.rerank(QUERY, texts=["tea", "tide"]), range(8)))
    assert sorted(counting.seen) == sorted({*OTHERS, "tea", "tide"})


def test_what_was_deleted_or_changed_is_found_by_its_text_no_longer(
    quick_path: Path, counting: CountingEncoder, passages: list[Passage]
) -> None:
    same = Passage("same", passages[1].text)
    build_index([*passages[:4], same], quick_path / "i", counting, codec="float32")
    with DiPairIndex.open(quick_path / "i", counting, cache=TextCache()) as index:
        ask = lambda: index.rerank(QUERY, texts=[passages[1].text], raw_scores=True)[0].score  # noqa: E731
        score = ask()
        index.delete([passages[1].id])
        assert ask() == pytest.approx(score, abs=1e-5)
        assert counting.seen == []
        index.add([Passage("same", "another text"), passages[9]], update=True)
        assert ask() == pytest.approx(score, abs=1e-5)
        assert counting.seen == [passages[1].text]
        index.rerank(QUERY, texts=["another text", passages[9].full_text])
        assert len(counting.seen) == 1


def test_an_index_without_digests_of_texts_finds_them_all_the_same(
    quick_path: Path, counting: CountingEncoder, passages: list[Passage]
) -> None:
    """Such as was built before there were any."""
    build_index(passages, quick_path / "i", counting)
    (file,) = (quick_path / "i" / "parts").glob("*/texts.npy")
    file.unlink()
    with DiPairIndex.open(quick_path / "i", counting, cache=TextCache()) as index:
        index.rerank(QUERY, texts=[each.full_text for each in passages])
    assert counting.seen == []


def test_ids_and_passages_may_be_mixed_and_an_id_is_ranked_once(
    index: DiPairIndex, passages: list[Passage]
) -> None:
    given = ["p03", Passage("new", "tea"), "p03", Passage("new", "tea"), passages[5]]
    assert sorted(each.id for each in index.rerank(QUERY, given)) == ["new", "p03", "p05"]
    assert index.rerank(QUERY, []) == index.rerank(QUERY, texts=[]) == []


def test_queries_have_a_list_each(index: DiPairIndex) -> None:
    together = index.rerank([QUERY, "tea"], [["p01", "p02"], ["p03"]])
    assert [[each.id for each in ranking] for ranking in together] == [
        [each.id for each in index.rerank(QUERY, ["p01", "p02"])],
        ["p03"],
    ]
    assert together.timings.score > 0
    assert index.rerank([], []) == []


@pytest.mark.parametrize("codec", ["int8", "float32"])
def test_a_reranker_scores_as_an_index_does(
    codec: str, quick_path: Path, lone_encoder: DualEncoder, passages: list[Passage]
) -> None:
    texts = [each.full_text for each in passages]
    build_index(passages, quick_path / "i", lone_encoder, codec=codec)
    reranker = Reranker(lone_encoder, codec=codec, cache=TextCache())
    with DiPairIndex.open(quick_path / "i", lone_encoder) as index:
        expected = index.rerank(QUERY, [each.id for each in passages], raw_scores=True)

    found = reranker.rank(QUERY, texts, return_documents=True, raw_scores=True)
    assert [each["text"] for each in found] == [
        f"{each.title} {each.text}" if each.title else each.text for each in expected
    ]
    assert [each["score"] for each in found] == pytest.approx(
        [each.score for each in expected], abs=1e-6
    )
    scores = reranker.predict([(QUERY, text) for text in texts], raw_scores=True)
    assert sorted(scores.tolist(), reverse=True) == pytest.approx(
        [each["score"] for each in found], abs=1e-6
    )


def test_a_reranker_answers_as_cross_encoders_do(counting: CountingEncoder) -> None:
    reranker = Reranker(counting, cache=TextCache())
    found = reranker.rank(QUERY, OTHERS)
    assert all(set(each) == {"corpus_id", "score"} for each in found)
    expected = [probability(each) for each in logits(counting, OTHERS, "int8")]
    assert {each["corpus_id"]: each["score"] for each in found} == pytest.approx(
        dict(enumerate(expected)), abs=1e-4
    )
    keys = [(-each["score"], each["corpus_id"]) for each in found]
    assert keys == sorted(keys)
    assert reranker.rank(QUERY, OTHERS, 2) == reranker.rank(QUERY, OTHERS, np.int64(2)) == found[:2]
    assert reranker.rank(QUERY, []) == []
    assert reranker.predict([]).shape == (0,)
    both = reranker.predict([("tea", "bees"), (QUERY, "bees"), ("tea", "lava")])
    alone = [reranker.predict([pair])[0] for pair in [("tea", "bees"), (QUERY, "bees")]]
    assert both[:2].tolist() == pytest.approx(alone, abs=1e-5)


def test_the_cache_forgets_what_was_used_least_lately(counting: CountingEncoder) -> None:
    codec: Codec = open_codec("int8", tokens_per_passage=8, dim=16)
    cache = TextCache()
    whole = cache.rows(["tea"], counting, codec)
    one = cache.stored_bytes
    assert whole.shape == (1, codec.bytes_per_passage)

    cache = TextCache(max_bytes=3 * one)
    for text in ("a", "b", "c", "a", "d"):
        cache.rows([text], counting, codec)
    counting.seen = []
    cache.rows(["a", "c", "d"], counting, codec)
    assert (counting.seen, len(cache), cache.stored_bytes) == ([], 3, 3 * one)
    cache.rows(["b"], counting, codec)
    assert counting.seen == ["b"]
    rows = cache.rows(list("efghijklm"), counting, codec)
    assert len({row.tobytes() for row in rows}) == 9
    assert len(cache) == 3
    cache.clear()
    assert (len(cache), cache.stored_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.rerank(QUERY, "p01"), r"must be a list, got 'p01': pass \['p01'\]"),
        (lambda index: index.rerank(QUERY, texts="tea"), "texts must be a list of texts"),
        (lambda index: index.rerank(QUERY), "give either passages .* or texts"),
        (lambda index: index.rerank(QUERY, ["p01"], texts=["a"]), "give either passages"),
        (lambda index: index.rerank(QUERY, [7]), "must be an id .* got 7: pass texts"),
        (lambda index: index.rerank(QUERY, 7), "must be a list, got 7"),
        (lambda index: index.rerank(QUERY, texts=["a", None]), "text 1 must be a str, got None"),
        (lambda index: index.rerank(QUERY, texts=["caf\udce9"]), "text 0 is not valid Unicode"),
        (lambda index: index.rerank(QUERY, [Passage("x", "caf\udce9")]), "text of passage 'x' is"),
        (lambda index: index.rerank(QUERY, [Passage("x", "a"), Passage("x", "b")]), "given twice"),
        (lambda index: index.rerank([QUERY, "tea"], ["p01", "p02"]), "2 queries need as many"),
        (lambda index: index.rerank([QUERY, "tea"], [["p01"]]), "2 queries need .*got 1 list"),
        (lambda index: index.search(None), "a query must be a text .* got None"),
        (lambda index: index.search([QUERY, 3]), "a query must be a text .* got 3"),
        (lambda index: index.search(b"tea"), "a query must be a text"),
        (lambda index: index.search("caf\udce9"), r"query 'caf\\udce9' is not valid Unicode"),
        (lambda index: index.search(QUERY, top_k=True), "top_k must be a whole number .* got True"),
        (lambda index: index.search(QUERY, top_k=2.0), "top_k must be a whole number .* got 2.0"),
        (lambda index: index.search(QUERY, top_k="2"), "top_k must be a whole number .* got '2'"),
        (lambda index: index.search(QUERY, top_k=-1), "top_k must be 1 or more, got -1"),
        (lambda index: index.search(QUERY, candidates=None), "candidates must be a whole number"),
        (lambda index: index.search(Query("q", "tea")), "a query must be a text .* got Query"),
        (lambda index: index.rerank_run(["tea"], {}), r"must be a Query\(id, text\), got 'tea'"),
        (lambda index: index.rerank_run([TEA], None), "a run must be a dict of dicts, got None"),
        (lambda index: index.rerank_run([TEA], {"q": ["p01"]}), "for query q must be a dict of sc"),
        (lambda index: index.rerank_run([TEA], {"q": {1: 2.0}}), "passage id must be a str, got 1"),
        (lambda index: index.rerank_run([TEA], {"q": {"p01": "2"}}), "be a number, got '2'"),
        (lambda index: index.rerank_run([TEA], {"q": {"p01": np.nan}}), "be a number, got nan"),
        (lambda index: index.add([Passage("x", "t", "", None)]), "metadata of passage 'x' must be"),
        (lambda index: index.add([Passage("x", "t", "", NESTED)]), "'x' cannot be stored as JSON"),
        (lambda index: index.delete("p01"), "passage ids must be a list, got 'p01'"),
        (lambda index: index.add("p01"), "passages must be a list of passages, got 'p01'"),
        (lambda index: index.add(["tea"]), r"passage 0 must be a Passage\(id, text\).*got 'tea'"),
        (lambda index: index.add([("x", None)]), "the text of passage 'x' must be a str, got None"),
        (lambda index: index.add([("x", "caf\udce9")]), "text of passage 'x' is not valid Unicode"),
        (lambda index: index.add([(3, "tea")]), "the id of passage 3 must be a str, got 3"),
        (lambda index: index.add([{"id": "x"}]), "passage 0 must be a Passage"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(
    index_dir: Path, encoder: DualEncoder, call, message: str
) -> None:
    with DiPairIndex.open(index_dir, encoder) as index:
        with pytest.raises(DiPairError, match=message):
            call(index)
        assert len(index) == 24


@pytest.mark.parametrize(
    "pairs",
    [None, [None], [3], ["ab"], [("tea",)], [("tea", None)], [(["tea"], "a")], [{"a", "b"}]],
)
def test_a_reranker_refuses_what_is_no_pair(encoder: DualEncoder, pairs: Any) -> None:
    with pytest.raises(SettingsError, match=r"must be (a list of )?\(query, document\), got"):
        Reranker(encoder).predict(pairs)


def test_choices_that_there_are_not_are_refused(encoder: DualEncoder, index_dir: Path) -> None:
    with pytest.raises(SettingsError, match="unknown precision 'int8': choose one of float32, b"):
        DiPairIndex.open(index_dir, encoder, precision="int8")
    with pytest.raises(SettingsError, match="unknown backend 'x': choose one of auto, torch, onnx"):
        Reranker(backend="x")
    with pytest.raises(SettingsError, match="unknown precision of encoding 'x': choose one of fl"):
        open_encoder(precision="x")
    with pytest.raises(SettingsError, match="batch_size must be 1 or more, got 0"):
        open_encoder(batch_size=0)
    for wrong in (-1, "1"):
        with pytest.raises(SettingsError, match="max_bytes must be"):
            TextCache(max_bytes=wrong)


def test_numbers_of_numpy_are_numbers(index: DiPairIndex) -> None:
    two, five = np.int64(2), np.uint8(5)
    expected = index.search(QUERY, top_k=2, candidates=5)
    assert index.search(QUERY, top_k=two, candidates=five) == expected
    assert len(index.search(QUERY, top_k=two, rerank=False)) == 2
    assert len(index.rerank(QUERY, ["p01", "p02", "p03"], two)) == 2
    assert len(index.search(QUERY, top_k=None, candidates=five)) == 5
    assert len(index.search(QUERY, top_k=None)) == 24


def test_passages_are_built_from_tuples_and_mappings(
    quick_path: Path, encoder: DualEncoder
) -> None:
    given = [
        Passage("a", "tea"),
        ("b", "honey"),
        ("c", "lava", "Volcano"),
        {"id": "d", "text": "ice", "title": "Glacier", "year": 1990},
        {"_id": "e", "text": "moon"},
    ]
    with DiPairIndex.build(
        iter(given), quick_path / "i", model=encoder, seed=np.int64(3), codec="float16"
    ) as index:
        found = {each.id: each[3:6] for each in index.rerank(QUERY, list("abcde"))}
        assert index.manifest.seed == 3
    assert found == {
        "a": ("tea", "", {}),
        "b": ("honey", "", {}),
        "c": ("lava", "Volcano", {}),
        "d": ("ice", "Glacier", {"year": 1990}),
        "e": ("moon", "", {}),
    }
    assert Passage("a", "tea").passage_id == "a"


def test_a_model_of_tuples_cannot_rerank(
    counting: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountingEncoder, "sides", ("query", "passage", "title"))
    with pytest.raises(SettingsError, match="also reads title"):
        Reranker(counting)
