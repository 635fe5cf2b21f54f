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
"""Words of a hieroglyph, a cuneiform sign and a rare Cyrillic letter."""


def load_tokenizer(name: str, model: Any = None) -> Any:
    """Loads the fast tokenizer beside a model, by folder or hub name.

    Raises `ModelError` where there is none, or one without a fast form, a vocabulary or a padding
    token, and where `model` has fewer embeddings than it has pieces.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder_source(name), trust_remote_code=False)
        # texts that no vocabulary has, for which some need a token that this one may lack
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
    # what transformers makes of no files at all knows special tokens and marks of a space
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
        if model.config.pad_token_id is None:  # where a decoder's classifier looks for the end
            model.config.pad_token_id = tokenizer.pad_token_id
        rows = model.get_input_embeddings().num_embeddings
        # special tokens that no text gets may lie beyond, as [MASK] where transformers adds it
        given = [tokenizer.pad_token_id, *tokenizer("")["input_ids"]]
        needed = max(*pieces.values(), *given) + 1
        if needed > rows:
            raise ModelError(
                f"the tokenizer of {name} needs {needed:,} embeddings and its model has {rows:,}: "
                "put the tokenizer.json that it was trained with beside its config.json"
            )
    return tokenizer


def lacks_merges(tokenizer: Any, pieces: Iterable[str]) -> bool:
    """Returns whether byte-pair encoding makes none of the vocabulary's longer pieces."""
    model = tokenizer.backend_tokenizer.model
    if not isinstance(model, BPE):
        return False
    longer = list(islice((piece for piece in pieces if len(piece) > 3 and piece.isalpha()), 100))
    return bool(longer) and all(len(model.tokenize(piece)) == len(piece) for piece in longer)


def check_length(tokenizer: Any, tokens: int, what: str, *, pair: bool = False) -> None:
    """Raises `SettingsError` where texts of so many tokens would be nothing but special ones."""
    special = tokenizer.num_special_tokens_to_add(pair)
    if tokens <= special:
        raise SettingsError(
            f"{what} is {tokens}, of which special tokens take {special}: pass {special + 1} or "
            "more"
        )
