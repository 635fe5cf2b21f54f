"""The DiPair model: a dual encoder, and a small head that reads its truncated outputs together.

    texts ─► encoder ─► first N (query) or M (passage) output tokens ─► projection to D
          ─► the tokens of all sides together ─► head ─► logit

Source: Chen et al., "DiPair: Fast and Accurate Distillation for Trillion-Scale Text Matching and
Pair Modeling", Findings of EMNLP 2020, section 3.

Deviations from the paper:
- `pooling="mean"`: the mean of all hidden states replaces the first one, for encoders whose
  sentence vector is that mean. The paper uses the first token ("cls").
- The truncated output of a short text is padded with zero vectors, which the head reads like any
  others: the score of a pair does not depend on the other pairs of its batch.
The deviations of the heads are in `dipair_index.models.transformer_head` and `heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from dipair_index.errors import SettingsError
from dipair_index.models.config import DiPairConfig, Side
from dipair_index.models.heads import make_head
from dipair_index.models.pretrained import load_encoder, readable_tokens, weights_read
from dipair_index.models.prettr import JointLayersHead, lower_layers, move_upper_layers
from dipair_index.models.transformer_head import TupleHead
from dipair_index.models.truncation import keep_tokens, pool_clusters


class Encoded(NamedTuple):
    """The projected tokens and the pooled vectors of a batch of texts."""

    tokens: Tensor  # (texts, kept, dim)
    vectors: Tensor  # (texts, vector_dim), unit length


@dataclass
class DiPairOutput(ModelOutput):
    """The logits of B queries with G passages each, and the pooled vectors of all texts."""

    logits: Tensor | None = None  # (B, G), or (B, G, classes)
    query_vectors: Tensor | None = None  # (B, vector_dim)
    passage_vectors: Tensor | None = None  # (B, G, vector_dim)


class DiPairModel(PreTrainedModel):
    """An encoder and a projection, shared or one per side, and the head of `config.system`."""

    config_class = DiPairConfig
    centre: Tensor  # of a model of clusters, (dim,)
    base_model_prefix = "dipair"
    _supports_sdpa = True

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__(config)
        self.encoder = _new_encoder(config)
        # one module per side, never one module under two names: safetensors refuses shared memory
        own = () if config.shared_encoder else config.sides[1:]
        self.other_encoders = nn.ModuleDict({side: _new_encoder(config) for side in own})
        own = ("query",) if config.shared_projections else config.sides
        self.projections = nn.ModuleDict(
            {
                side: nn.Linear(config.width(side), config.dim, bias=False)
                for side in own
                if config.dim is not None
            }
        )
        if config.keep == "clusters":
            # what all passage tokens have in common, and no comparison needs
            self.register_buffer("centre", torch.zeros(config.token_dim))
        if config.pooling == "linear":
            self.vector_map = nn.Linear(2 * config.vector_dim, config.vector_dim)
        self.head = make_head(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=0.02)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, TupleHead):
            module.initialise()
        elif isinstance(module, nn.MultiheadAttention):
            module.in_proj_weight.normal_(std=0.02)
            module.in_proj_bias.zero_()

    @classmethod
    def from_encoder(cls, name: str, *, layers: int | None = None, **settings: Any) -> DiPairModel:
        """Returns a new model with the first `layers` layers of a pretrained encoder (section 3.2).

        `settings` are those of `DiPairConfig`. Raises `ModelError` and `SettingsError` as
        `load_encoder` does, and `SettingsError` if the maximum length of a side's texts is beyond
        the encoder's.
        """
        encoder, *_ = load_encoder(name, layers=layers)
        described = encoder.config.to_diff_dict()
        described.pop("_name_or_path", None)  # a path of this machine is of no use elsewhere
        config = DiPairConfig(encoder=described, **settings)
        if config.system == "prettr":
            below = lower_layers(encoder, config.head_layers, name)
            config.encoder["num_hidden_layers"] = below
        model = cls(config)
        if isinstance(model.head, JointLayersHead):
            move_upper_layers(encoder, model.head, name)
        encoder.pooler = None
        weights_read(encoder, (), name)  # SqueezeBERT, for example, fails without a pooler
        for own in (model.encoder, *model.other_encoders.values()):
            own.load_state_dict(encoder.state_dict())
        return model

    def encoder_of(self, side: Side) -> nn.Module:
        """Returns the encoder of a side's texts; with `shared_encoder`, all sides have the same."""
        own = side in self.other_encoders
        encoder: nn.Module = self.other_encoders[side] if own else self.encoder
        return encoder

    def project(self, side: Side, states: Tensor) -> Tensor:
        """Projects hidden states, (..., vector_dim), to tokens of the head, (..., dim).

        They are returned unchanged by a model without a projection, and by one of clusters, whose
        states are projected before they are pooled.
        """
        if not self.projections or self.config.keep == "clusters":
            return states
        projected: Tensor = self._projection(side)(states)
        return projected

    def _projection(self, side: Side) -> nn.Module:
        """Returns the projection of a side's hidden states."""
        return self.projections["query" if self.config.shared_projections else side]

    @property
    def state_width(self) -> int:
        """The width of `states`."""
        config = self.config
        return int(config.token_dim if config.keep == "clusters" else config.vector_dim)

    def hidden(self, side: Side, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns all hidden states of texts, (texts, tokens, vector_dim)."""
        encoder = self.encoder_of(side)
        hidden: Tensor = encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return hidden

    def states(self, side: Side, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns what `project` makes tokens of, (texts, kept, width), as stage one caches it.

        It is the truncated hidden states, of width vector_dim. With `pooling="mean"`, the first of
        them is the mean of all hidden states of the text; not for prettr, whose states are all of
        the text's. `keep="clusters"` pools projected tokens, and returns these, of width token_dim.
        """
        return self._kept(side, self.hidden(side, input_ids, attention_mask), attention_mask)

    def _kept(self, side: Side, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns `states` of hidden states, (texts, tokens, vector_dim)."""
        config, count = self.config, self.config.kept(side)
        if config.keep == "clusters":
            tokens = self.unit_tokens(side, hidden)
            if side == "query":
                return keep_tokens(tokens, attention_mask, count, "first")
            return pool_clusters(tokens, attention_mask, count)
        kept = keep_tokens(hidden, attention_mask, count, config.keep)
        if config.pooling == "mean" and config.system != "prettr":
            kept = torch.cat([masked_mean(hidden, attention_mask).unsqueeze(1), kept[:, 1:]], dim=1)
        return kept

    def unit_tokens(self, side: Side, hidden: Tensor) -> Tensor:
        """Returns the tokens that clusters are made of, (..., tokens, dim).

        They are projected to unit length; those of a passage are less their mean, the centre.
        """
        tokens = functional.normalize(self._projection(side)(hidden), dim=-1)
        return tokens if side == "query" else tokens - self.centre

    def encode(self, side: Side, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Returns the projected tokens and the pooled vector of each text."""
        hidden = self.hidden(side, input_ids, attention_mask)
        states = self._kept(side, hidden, attention_mask)
        if not self.pools_hidden_states:
            return self.encode_states(side, states)
        pooled = hidden[:, 0]
        if self.config.pooling != "cls":
            mean = masked_mean(hidden, attention_mask)
            linear = self.config.pooling == "linear"
            pooled = self.vector_map(torch.cat([pooled, mean], dim=-1)) if linear else mean
        return Encoded(self.project(side, states), functional.normalize(pooled, dim=-1))

    @property
    def pools_hidden_states(self) -> bool:
        """Whether a text's vector is made of all hidden states, so that `states` do not tell it."""
        return bool(self.config.pooling == "linear" or self.config.keep == "clusters")

    def encode_states(self, side: Side, states: Tensor) -> Encoded:
        """Returns the projected tokens and the pooled vectors of truncated hidden states.

        `states` are (..., kept, width), as `states` returns them, or the tokens of a given side.
        """
        return Encoded(self.project(side, states), self.vectors(side, states))

    def vectors(self, side: Side, states: Tensor) -> Tensor:
        """Returns the pooled vectors of texts or items, (..., pooled_dim), unit length.

        `states` are (..., kept, width), as `states` returns them, or the tokens of a given side.
        """
        if self.config.given_sides:  # whose sides have nothing in common but the projected tokens
            return functional.normalize(self.project(side, states).sum(-2), dim=-1)
        pooled = states[..., 0, :]  # of no use if `pools_hidden_states`
        if self.config.pooling == "mean" and self.config.system == "prettr":
            pooled = states.sum(-2)  # absent tokens are zeros, and a mean has the same direction
        return functional.normalize(pooled, dim=-1)

    def forward(
        self,
        states: Mapping[Side, Tensor] | None = None,
        texts: Mapping[Side, Mapping[str, Tensor]] | None = None,
    ) -> DiPairOutput:
        """Scores each of B queries against its own G passages, or G tuples of the other sides.

        Stage one of the training (section 3.7) passes `states`, the truncated hidden states by
        side: (B, N, vector_dim) of the queries and (B, G, kept, vector_dim) of the others. Stage
        two passes `texts`, the token ids and attention masks by side: (B, tokens) of the queries
        and (B * G, tokens) of the others; a given side has "states" in their place. Raises
        `SettingsError` if a side is missing.
        """
        sides = self.config.sides
        if texts is not None and set(texts) == set(sides):
            encoded = {side: self._encoded_by_length(side, **texts[side]) for side in sides}
            count = len(encoded["query"].tokens)
        elif states is not None and set(states) == set(sides):
            count = len(states["query"])
            encoded = {
                side: self.encode_states(side, each if side == "query" else each.flatten(0, 1))
                for side, each in states.items()
            }
        else:
            raise SettingsError(
                f"forward takes the states or the texts of {', '.join(sides)}, got those of "
                f"{', '.join(states or texts or ()) or 'no side'}"
            )
        group = len(encoded["passage"].tokens) // count
        queries = encoded["query"].tokens.repeat_interleave(group, dim=0)
        logits = self.head(queries, *(encoded[side].tokens for side in sides[1:]))
        return DiPairOutput(
            logits=logits.unflatten(0, (count, group)),
            query_vectors=encoded["query"].vectors,
            passage_vectors=encoded["passage"].vectors.unflatten(0, (count, group)),
        )

    def _encoded_by_length(
        self,
        side: Side,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Encoded:
        """Returns `encode` of many texts, in chunks of similar length to save padding.

        Padding would take a third of the time. A given side has `states` instead.
        """
        if input_ids is None or attention_mask is None:
            if states is None:
                raise SettingsError(f"forward takes the texts or the states of {side}, got neither")
            return self.encode_states(side, states)
        lengths = attention_mask.sum(1)
        order = lengths.argsort(descending=True)
        chunks = [
            self.encode(
                side,
                input_ids[rows, : int(lengths[rows[0]])],
                attention_mask[rows, : int(lengths[rows[0]])],
            )
            for rows in order.split(max(8, len(order) // 4))
        ]
        tokens, vectors = (torch.cat(parts)[order.argsort()] for parts in zip(*chunks, strict=True))
        return Encoded(tokens, vectors)


def masked_mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the mean of all hidden states of each text, (texts, vector_dim)."""
    mask = attention_mask.to(hidden.dtype).unsqueeze(-1)  # (texts, tokens, 1)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def _new_encoder(config: DiPairConfig) -> nn.Module:
    """Returns an encoder with random weights.

    Raises `SettingsError` if the maximum length of a side's texts is beyond the encoder's.
    """
    encoder: Any = AutoModel.from_config(config.encoder_config())
    longest = max(map(config.text_length, config.sides))
    limit = readable_tokens(encoder)
    if limit is not None and longest > limit:
        raise SettingsError(f"the encoder reads {limit} tokens at most, not {longest} of a text")
    # BERT's pooler is trained for next-sentence prediction, and DiPair does not use it
    encoder.pooler = None
    module: nn.Module = encoder
    return module


AutoModel.register(DiPairConfig, DiPairModel)
