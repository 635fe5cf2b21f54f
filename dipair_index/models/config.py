"""The configuration of a DiPair model, validated when it is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from torch.nn import ModuleDict
from transformers import AutoConfig, PretrainedConfig

from dipair_index.errors import SettingsError
from dipair_index.models.systems import (
    CLASS_SYSTEMS,
    CLUSTER_SYSTEMS,
    FIRST_TOKEN_SIDES,
    KEEP,
    POOLINGS,
    RESIDUALS,
    SYSTEMS,
    TUPLE_SYSTEMS,
)
from dipair_index.records import PAIR
from dipair_index.words import reason

Side: TypeAlias = str
"""The side of a text in its tuple: "query", "passage", or one of `extra_sides`."""


class DiPairConfig(PretrainedConfig):
    """The configuration of a DiPair model; the defaults are those of Q2P-MAT (section 4.4).

    `system` is the architecture of the head, one of `SYSTEMS`. If it reads only the first token of
    a side, the truncated output of that side is one token, whatever was passed, and prettr keeps
    all tokens. `head_hidden` are the widths of the layers of ffnn, de-ffnn and dse; `head_dropout`
    is for these, tsf and prettr, and `head_layers` for the last two. The other `head_*` settings
    are for tsf alone; prettr's layers have the encoder's sizes. With `dim` None, there is no
    projection, and tokens have the encoder's width. `extra_sides` turn pairs into tuples (section
    3.8): each name has the length of its truncated output and the maximum length of its texts, both
    in tokens; the sides are sorted by name. `classes` above 1 are grades from 0, or unordered
    classes. A prefix, such as "query: ", is put before every text of its side; its tokens count
    towards the maximum length. The tokens of `given_sides` are not made of texts but come from
    outside, and only their projection is trained: each name has the tokens of an item and their
    width. A model with such a side has vectors that are means of projected tokens.
    Raises `SettingsError` if a setting is invalid or two of them exclude each other.
    """

    model_type = "dipair"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        max_query_tokens: int = 4,
        max_passage_tokens: int = 8,
        dim: int | None = 256,
        head_layers: int = 2,
        head_attention_heads: int = 1,
        head_intermediate: int = 1024,
        head_dropout: float = 0.1,
        query_length: int = 32,
        passage_length: int = 128,
        query_prefix: str = "",
        passage_prefix: str = "",
        keep: str = "first",
        pooling: str = "cls",
        similarity_residual: str = "none",
        system: str = "tsf",
        head_hidden: list[int] | None = None,
        shared_encoder: bool = True,
        shared_projections: bool = False,
        classes: int = 1,
        extra_sides: dict[str, list[int]] | None = None,
        given_sides: dict[str, list[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": "bert"}
        self.max_query_tokens = max_query_tokens
        self.max_passage_tokens = max_passage_tokens
        self.dim = dim
        self.head_layers = head_layers
        self.head_attention_heads = head_attention_heads
        self.head_intermediate = head_intermediate
        self.head_dropout = head_dropout
        self.query_length = query_length
        self.passage_length = passage_length
        self.query_prefix = query_prefix
        self.passage_prefix = passage_prefix
        # aligned compares tokens as clusters are made of them, of unit length
        self.keep = "clusters" if system == "aligned" else keep
        self.pooling = pooling
        # only a head with a linear output layer can add a similarity to its logits
        self.similarity_residual = similarity_residual if system in CLASS_SYSTEMS else "none"
        self.system = system
        self.head_hidden = [128, 128] if head_hidden is None else list(head_hidden)
        self.shared_encoder = shared_encoder
        self.shared_projections = shared_projections
        self.classes = classes
        # config.json sorts its keys, and the head's weights depend on the order of the sides
        sides = sorted((extra_sides or {}).items())
        self.extra_sides = {name: list(sizes) for name, sizes in sides}
        self.given_sides = {name: list(sizes) for name, sizes in (given_sides or {}).items()}
        for name, (tokens, _) in self.given_sides.items():
            if name in PAIR:
                setattr(self, f"max_{name}_tokens", tokens)
            elif name in self.extra_sides:
                self.extra_sides[name][0] = tokens
        self._check()
        if system == "prettr":
            self.keep = "first"
            self.max_query_tokens, self.max_passage_tokens = query_length, passage_length
        if "query" in FIRST_TOKEN_SIDES.get(system, ()):
            self.max_query_tokens = 1
        if "passage" in FIRST_TOKEN_SIDES.get(system, ()):
            self.max_passage_tokens = 1
            self.extra_sides = {name: [1, length] for name, (_, length) in sides}
        super().__init__(**kwargs)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The names of a tuple's texts, in the order in which the head reads them."""
        return ("query", "passage", *self.extra_sides)

    def kept(self, side: Side) -> int:
        """Returns the tokens of a side's truncated output: N of a query, M of a passage."""
        two = {"query": self.max_query_tokens, "passage": self.max_passage_tokens}
        return two[side] if side in two else self.extra_sides[side][0]

    def text_length(self, side: Side) -> int:
        """Returns the maximum length of a side's texts in tokens, special tokens included."""
        two = {"query": self.query_length, "passage": self.passage_length}
        return two[side] if side in two else self.extra_sides[side][1]

    def width(self, side: Side) -> int:
        """Returns the width of a side's tokens before the projection."""
        return self.given_sides[side][1] if side in self.given_sides else self.vector_dim

    def as_read(self, side: Side, texts: Sequence[str]) -> list[str]:
        """Returns a side's texts as the encoder reads them, with the side's prefix before each."""
        if side in self.given_sides:
            return list(texts)
        prefix = {"query": self.query_prefix, "passage": self.passage_prefix}.get(side, "")
        return [prefix + text for text in texts]

    def encoder_config(self) -> PretrainedConfig:
        """Returns the encoder's configuration.

        Raises `SettingsError` if transformers refuses it.
        """
        try:
            return AutoConfig.for_model(**self.encoder)
        # transformers raises errors of many types for settings that it refuses
        except Exception as error:
            raise SettingsError(f"there is no such encoder: {reason(error)}") from error

    @property
    def vector_dim(self) -> int:
        """The width of the encoder's pooled vector, which is its hidden size."""
        return int(self.encoder_config().hidden_size)

    @property
    def pooled_dim(self) -> int:
        """The width of the vectors that FAISS searches: the encoder's, or those of tokens."""
        return self.token_dim if self.given_sides else self.vector_dim

    @property
    def token_dim(self) -> int:
        """The width of a token embedding as it is stored, and as the head reads it."""
        return self.vector_dim if self.dim is None else self.dim

    def _check(self) -> None:
        if self.system not in SYSTEMS:
            raise SettingsError(f"there is no system {self.system}: choose {', '.join(SYSTEMS)}")
        if self.keep not in KEEP or self.pooling not in POOLINGS:
            raise SettingsError(
                f"keep must be one of {', '.join(KEEP)} and pooling one of {', '.join(POOLINGS)}, "
                f"got {self.keep} and {self.pooling}"
            )
        if self.similarity_residual not in RESIDUALS:
            raise SettingsError(
                f"similarity_residual must be one of {', '.join(RESIDUALS)}, got "
                f"{self.similarity_residual}"
            )
        self._check_sides()
        self._check_given()
        sizes = {
            name: getattr(self, name)
            for name in (
                "max_query_tokens", "max_passage_tokens", "query_length", "passage_length",
                "head_layers", "head_attention_heads", "head_intermediate", "classes",
            )
        } | {"head_hidden": min(self.head_hidden, default=0)}  # fmt: skip
        if self.dim is not None:
            sizes["dim"] = self.dim
        for name, size in sizes.items():
            if size < 1:
                raise SettingsError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.classes > 1 and self.system not in CLASS_SYSTEMS:
            raise SettingsError(
                f"{self.system} gives one number a pair, not {self.classes} classes: choose "
                f"{', '.join(CLASS_SYSTEMS)}"
            )
        if self.keep == "clusters" and (self.dim is None or self.max_passage_tokens < 2):
            raise SettingsError(
                "clusters of tokens need a projection and 2 tokens of a passage or more, got dim "
                f"{self.dim} and {self.max_passage_tokens} tokens"
            )
        if self.keep == "clusters" and self.system not in CLUSTER_SYSTEMS:
            raise SettingsError(
                f"{self.system} reads a text's first token, and clusters have no order: choose "
                f"{', '.join(CLUSTER_SYSTEMS)}"
            )
        if self.system in ("tsf", "aligned") and self.token_dim % self.head_attention_heads:
            raise SettingsError(
                f"dim {self.token_dim} cannot be shared among {self.head_attention_heads} "
                "attention heads"
            )

    def _check_sides(self) -> None:
        if self.extra_sides and self.system not in TUPLE_SYSTEMS:
            raise SettingsError(
                f"{self.system} compares a query with a passage, and has no use for "
                f"{', '.join(self.extra_sides)}: choose {', '.join(TUPLE_SYSTEMS)}"
            )
        for name, sizes in self.extra_sides.items():
            check_side_name(name)
            if len(sizes) != 2 or min(sizes) < 1:
                raise SettingsError(
                    f"the side {name} needs two lengths of 1 or more, the tokens that are kept and "
                    f"those that are read, got {sizes}"
                )

    def _check_given(self) -> None:
        for name, sizes in self.given_sides.items():
            if name not in self.sides:
                raise SettingsError(
                    f"the tokens of {name} are given, and the sides are {', '.join(self.sides)}: "
                    "name one of these"
                )
            if len(sizes) != 2 or min(sizes) < 1:
                raise SettingsError(
                    f"the given side {name} needs two sizes of 1 or more, the tokens of an item "
                    f"and their width, got {sizes}"
                )
            if self.dim is None and sizes[1] != self.vector_dim:
                raise SettingsError(
                    f"without a projection, tokens of {name} need the encoder's width "
                    f"{self.vector_dim}, and theirs is {sizes[1]}: pass --dim with a number"
                )
        whole = self.system == "prettr" or self.keep == "clusters"
        if self.given_sides and (whole or self.shared_projections):
            what = self.system if whole else "a shared projection"
            raise SettingsError(
                f"{what} reads the encoder's tokens of both texts, not the given ones of "
                f"{', '.join(self.given_sides)}: "
                + ("choose another system" if whole else "use one projection per side")
            )


def check_side_name(name: str) -> None:
    """Raises `SettingsError` if a side beyond query and passage cannot have this name."""
    if name in ("query", "passage"):
        raise SettingsError(f"there is a side called {name} already: choose another name")
    # a side's modules are items of a `ModuleDict`, which refuses the names of its attributes
    if not re.fullmatch(r"[A-Za-z]\w*", name) or hasattr(ModuleDict(), name):
        raise SettingsError(
            f"a side cannot be called {name}: choose a word of letters, digits and underscores "
            "that means nothing to torch, such as title"
        )


AutoConfig.register("dipair", DiPairConfig)
