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
from dipair_index.models.truncation import keep_tokens


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

        A model without a projection returns them unchanged.
        """
        if not self.projections:
            return states
        projected: Tensor = self.projections["query" if self.config.shared_projections else side](
            states
        )
        return projected

    def states(self, side: Side, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the truncated hidden states, (texts, kept, vector_dim), before the projection.

        With `pooling="mean"`, the first of them is the mean of all hidden states of the text; not
        for prettr, whose states are all of the text's.
        """
        hidden = self.encoder_of(side)(input_ids=input_ids, attention_mask=attention_mask)[0]
        config = self.config
        kept = keep_tokens(hidden, attention_mask, config.kept(side), config.keep)
        if config.pooling == "mean" and config.system != "prettr":
            mask = attention_mask.to(hidden.dtype).unsqueeze(-1)  # (texts, tokens, 1)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            kept = torch.cat([mean.unsqueeze(1), kept[:, 1:]], dim=1)
        return kept

    def encode(self, side: Side, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Returns the projected tokens and the pooled vector of each text."""
        return self.encode_states(side, self.states(side, input_ids, attention_mask))

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
        pooled = states[..., 0, :]
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
            queries = self._states_by_length("query", **texts["query"])
            states = {
                side: self._states_by_length(side, **texts[side]).unflatten(0, (len(queries), -1))
                for side in sides[1:]
            } | {"query": queries}
        if states is None or set(states) != set(sides):
            raise SettingsError(
                f"forward takes the states or the texts of {', '.join(sides)}, got those of "
                f"{', '.join(states or texts or ()) or 'no side'}"
            )
        count, group = states["passage"].shape[:2]
        tokens = [self.project("query", states["query"]).repeat_interleave(group, dim=0)]
        tokens += [self.project(side, states[side].flatten(0, 1)) for side in sides[1:]]
        return DiPairOutput(
            logits=self.head(*tokens).unflatten(0, (count, group)),
            query_vectors=self.vectors("query", states["query"]),
            passage_vectors=self.vectors("passage", states["passage"]),
        )

    def _states_by_length(
        self,
        side: Side,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """Returns `states` of many texts, in chunks of similar length to save padding.

        Padding would take a third of the time. `states` of a given side are returned as they are.
        """
        if input_ids is None or attention_mask is None:
            if states is None:
                raise SettingsError(f"forward takes the texts or the states of {side}, got neither")
            return states
        lengths = attention_mask.sum(1)
        order = lengths.argsort(descending=True)
        chunks = [
            self.states(
                side,
                input_ids[rows, : int(lengths[rows[0]])],
                attention_mask[rows, : int(lengths[rows[0]])],
            )
            for rows in order.split(max(8, len(order) // 4))
        ]
        return torch.cat(chunks)[order.argsort()]


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
