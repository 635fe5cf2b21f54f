"""Texts are cut before they are tokenised, and their tokens are those of the whole text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from dipair_index.encoders.batches import UNDIVIDED, beginnings, tokenise
from dipair_index.errors import FormatError

LENGTH = 4
"""Tokens that are read: texts above 64 characters are cut before they are tokenised."""


def word_pieces() -> Tokenizer:
    letters = [prefix + chr(code) for code in range(97, 123) for prefix in ("", "##")]
    pieces = ["[UNK]", "the", "bees", "##s", "東", "京", "e", ".", *letters]
    vocabulary = {piece: row for row, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the bees dance", "aaaa   aaa", "東京 東京"], trainer)
    return tokenizer


def unigrams() -> Tokenizer:
    scores = [("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("aaa", -4.0), ("▁the", -3.5), ("th", -4.0)]
    scores += [(letter, -6.0) for letter in "ehtbs東京"]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def read_whole(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The oracle: all tokens of each text, of which the first are taken."""
    tokenizer.no_truncation()
    whole = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    tokenizer.enable_truncation(LENGTH)
    return whole


PIECES = [
    "the",
    "bees",
    " ",
    "  ",
    "\n",
    "a",
    "aaa",
    "é",
    "e\u0301",
    "\u0301\u0323",
    "東京",
    "กข",
    "👩‍👧",
    ".",
]
texts_of_pieces = st.lists(st.sampled_from(PIECES), max_size=150).map("".join)


@pytest.mark.parametrize("make", [word_pieces, byte_pairs, unigrams])
@given(pieces=texts_of_pieces, other=st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_a_beginning_has_the_first_tokens_of_the_whole_text(
    make: Callable[[], Tokenizer], pieces: str, other: str
) -> None:
    tokenizer = make()
    texts = [pieces, other, pieces + other, "a" * len(pieces)]
    whole = read_whole(tokenizer, texts)
    encodings = tokenizer.encode_batch(beginnings(tokenizer.encode_batch, texts, LENGTH))
    assert [each.ids for each in encodings] == [ids[:LENGTH] for ids in whole]
    assert [bool(each.overflowing) for each in encodings] == [len(ids) > LENGTH for ids in whole]


def test_little_of_a_long_text_is_tokenised() -> None:
    tokenizer, seen = word_pieces(), []

    def encode(texts: list[str]) -> Any:
        seen.extend(map(len, texts))
        return tokenizer.encode_batch(texts)

    tokenizer.enable_truncation(LENGTH)
    (prose,) = beginnings(encode, ["the bees " * 100_000], LENGTH)
    assert len(prose) == sum(seen) == 64
    # one unknown word each, which ends where its run of letters does
    (run, spaces) = beginnings(encode, ["ก" * 300_000 + " the bees" * 9, " " * 300_000], LENGTH)
    assert max(seen) < 2 * UNDIVIDED
    assert [tokenizer.decode(tokenizer.encode(each).ids[1:]) for each in (run, spaces)] == [
        "the bees the",
        "",
    ]


def test_a_tokenizer_that_cuts_at_the_front_reads_the_whole_text() -> None:
    tokenizer = word_pieces()
    tokenizer.enable_truncation(LENGTH, direction="left")
    text = "the bees " * 60 + "the end"
    assert beginnings(tokenizer.encode_batch, [text], LENGTH) == [text]


def test_half_of_a_surrogate_pair_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(FormatError, match=r"half of a surrogate pair as its character 5.*'bees'"):
        tokenise(tiny_tokenizer, ["tea", "bees\ud83d"], max_length=8)
