"""Tokenizers of transformers, loaded and checked against their models."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from tokenizers.models import BPE
from transformers import AutoTokenizer

from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.sources import encoder_source
from dipair_index.words import reason

UNKNOWN = "\U00013080 \U00012000 \ua66e"
"""A text of unknown words: a hieroglyph, a cuneiform sign and a rare Cyrillic letter."""


def load_tokenizer(name: str, model: Any = None) -> Any:
    """Loads the fast tokenizer of a model, by folder or hub name.

    A `model` whose configuration lacks a padding token gets the tokenizer's.
    Raises `ModelError` if there is no tokenizer, if it has no fast form, vocabulary or padding
    token, and if `model` has fewer embeddings than the tokenizer has tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder_source(name), trust_remote_code=False)
        # some tokenizers fail at an unknown word, if they lack the token for it
        tokenizer(UNKNOWN)
    # transformers and tokenizers raise errors of many types, of which some have no base
    except Exception as error:
        raise ModelError(
            f"{name} has no tokenizer that can be read ({reason(error)}): put the tokenizer.json "
            "that it was trained with beside its config.json"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {name}, a {type(tokenizer).__name__}, has no fast form: name a "
            "model that has a tokenizer.json"
        )
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    pieces = {piece: row for piece, row in vocabulary.items() if piece not in special}
    # without files, transformers makes a tokenizer of special tokens and marks of a space alone
    if not any(any(map(str.isalnum, piece)) for piece in pieces):
        raise ModelError(
            f"{name} has no vocabulary, so it would read all words as unknown: put the "
            "tokenizer.json that it was trained with beside its config.json"
        )
    if lacks_merges(tokenizer, pieces):
        raise ModelError(
            f"the tokenizer of {name} has no merges, so it would read all words letter by letter: "
            "put the tokenizer.json that it was trained with beside its config.json"
        )
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the tokenizer of {name} has no padding token, which batches of texts need: name a "
            "model that has one"
        )
    if model is not None:
        if model.config.pad_token_id is None:  # by which a decoder's classifier finds the end
            model.config.pad_token_id = tokenizer.pad_token_id
        rows = model.get_input_embeddings().num_embeddings
        # special tokens that occur in no text, as a [MASK] that transformers adds, may have none
        given = [tokenizer.pad_token_id, *tokenizer("")["input_ids"]]
        needed = max(*pieces.values(), *given) + 1
        if needed > rows:
            raise ModelError(
                f"the tokenizer of {name} needs {needed:,} embeddings and its model has {rows:,}: "
                "put the tokenizer.json that it was trained with beside its config.json"
            )
    return tokenizer


def lacks_merges(tokenizer: Any, pieces: Iterable[str]) -> bool:
    """Returns whether a byte-pair encoding produces none of its vocabulary's longer tokens."""
    model = tokenizer.backend_tokenizer.model
    if not isinstance(model, BPE):
        return False
    longer = list(islice((piece for piece in pieces if len(piece) > 3 and piece.isalpha()), 100))
    return bool(longer) and all(len(model.tokenize(piece)) == len(piece) for piece in longer)


def check_length(tokenizer: Any, tokens: int, what: str, *, pair: bool = False) -> None:
    """Raises `SettingsError` if a length of `tokens` leaves no room beside special tokens.

    `what` names the length in the sentence; `pair` is for pairs of texts.
    """
    special = tokenizer.num_special_tokens_to_add(pair)
    if tokens <= special:
        raise SettingsError(
            f"{what} is {tokens}, of which special tokens take {special}: pass {special + 1} or "
            "more"
        )
