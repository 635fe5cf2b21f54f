"""PreTTR: a cross-encoder whose lower layers read each text alone, so that their output is cached.

    text ─► encoder (layers 1 to l) ─► hidden states of all tokens ─► compression to D    (cached)
    cached tokens of both texts ─► expansion ─► joint layers ─► first token ─► logits

Without compression, this is one transformer over both texts, in whose layers up to l a token
attends to the tokens of its own text only.

Source: MacAvaney et al., "Efficient Document Re-Ranking for Transformers by Precomputing Term
Representations", SIGIR 2020.

Deviations from the paper:
- Each text begins with its own [CLS] at the first position. In the paper, the passage follows the
  query. Here, an embedding of the segment is added after the expansion instead.
- The query is compressed too, so that either side can be stored.
- Compression and expansion are linear, and start at the principal directions of the hidden states,
  which lose the least. The paper's are trained to preserve the attention of the joint layers.
- `similarity_residual` adds a similarity of the cached tokens to the logit, as in the other heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.config import DiPairConfig
from dipair_index.models.transformer_head import ClassHead, bert_layers, mean_of_largest


class JointLayersHead(ClassHead):
    """prettr: the upper layers of a cross-encoder, over the cached tokens of both texts.

    A token that is all zeros is absent: no other token attends to it.
    """

    def __init__(self, config: DiPairConfig) -> None:
        sizes = config.encoder_config()
        super().__init__(config, sizes.hidden_size)
        self.expansions = nn.ModuleList(
            nn.Linear(config.dim, sizes.hidden_size, bias=False)
            for _ in config.sides
            if config.dim is not None
        )
        self.segment = nn.Parameter(torch.zeros(len(config.sides), sizes.hidden_size))
        self.layers = bert_layers(
            config,
            sizes.hidden_size,
            sizes.num_attention_heads,
            sizes.intermediate_size,
            eps=sizes.layer_norm_eps,
        )

    @property
    def expansion_layers(self) -> list[nn.Linear]:
        """The expansion of each side; none if tokens have the encoder's width."""
        return cast("list[nn.Linear]", list(self.expansions))

    def initialise(self) -> None:
        """Sets the initial segment embeddings to zero: the encoder has seen both sides as one."""
        super().initialise()
        self.segment.zero_()

    def expand(self, side: int, tokens: Tensor) -> Tensor:
        """Returns the joint layers' input, (texts, tokens, width), of cached tokens."""
        expanded: Tensor = self.expansions[side](tokens) if self.expansions else tokens
        return expanded + self.segment[side]

    def forward(self, *tokens: Tensor) -> Tensor:
        """Returns logits, (pairs,) or (pairs, classes), of tokens, (pairs, kept, dim) per side."""
        # most texts are far shorter than the longest
        tokens = tuple(map(without_absent, tokens))
        present = torch.cat([side.any(-1) for side in tokens], dim=1)
        # without this, a pair of no tokens would have a softmax over nothing
        present[:, 0] = True
        hidden = torch.cat([self.expand(number, side) for number, side in enumerate(tokens)], 1)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~present)
        return self._logits(hidden[:, 0], tokens)

    @staticmethod
    def similarity(query: Tensor, passage: Tensor) -> Tensor:
        """Returns the mean over the query's tokens, without absent ones, of the largest cosine."""
        return mean_of_largest(passage @ query.mT, query.any(-1), passage.any(-1))

    @torch.no_grad()
    def start_expansions(self, projections: Mapping[str, nn.Linear]) -> None:
        """Sets the expansions to the transposes of the projections, whose rows are orthonormal."""
        shared = len(projections) == 1
        sides = ["query"] * len(self.expansions) if shared else list(projections)
        for side, expansion in zip(sides, self.expansion_layers, strict=True):
            expansion.weight.copy_(projections[side].weight.T)


def without_absent(tokens: Tensor) -> Tensor:
    """Returns tokens, (texts, kept, dim), without the last ones that are absent in all texts."""
    lengths = tokens.any(-1).any(0).nonzero()
    longest = int(lengths[-1]) + 1 if len(lengths) else 1
    return tokens[:, :longest]


def lower_layers(encoder: Any, joint: int, name: str) -> int:
    """Returns how many of an encoder's layers read each text alone, with `joint` layers above them.

    Raises `ModelError` if its layers are not those of BERT, and `SettingsError` if none is left.
    """
    try:
        _renamed(encoder.encoder.layer[0])
    except AttributeError as error:
        raise _not_divisible(encoder, name) from error
    layers: int = encoder.config.num_hidden_layers
    if joint >= layers:
        raise SettingsError(
            f"prettr reads each text alone in the layers below its {joint} joint ones, and "
            f"{name} has {layers}: "
            + (f"pass --head-layers {layers - 1}" if layers > 1 else "name an encoder of more")
        )
    return layers - joint


@torch.no_grad()
def move_upper_layers(encoder: Any, head: JointLayersHead, name: str) -> None:
    """Moves the last layers of a BERT-like encoder into a head; the encoder keeps the others.

    Raises `ModelError` if the layers compute something else in the head.
    """
    ids = torch.arange(min(8, encoder.config.vocab_size))[None]  # (1, tokens)
    expected = encoder(input_ids=ids)[0]
    layers, joint = encoder.encoder.layer, head.layers
    for layer, own in zip(layers[-len(joint) :], joint, strict=True):
        own.load_state_dict(_renamed(layer))
    del layers[-len(joint) :]
    hidden = encoder(input_ids=ids)[0]
    for own in joint.eval():
        hidden = own(hidden)
    joint.train(head.training)
    # a family with another activation, or with positions inside its layers
    if not torch.allclose(hidden, expected, rtol=1e-3, atol=1e-3):
        raise _not_divisible(encoder, name)


def _not_divisible(encoder: Any, name: str) -> ModelError:
    return ModelError(
        f"prettr divides the layers of BERT and its like, and {name} is another kind "
        f"({encoder.config.model_type}): name an encoder such as BERT, RoBERTa or ELECTRA"
    )


def _renamed(layer: Any) -> dict[str, Tensor]:
    """Returns the weights of a layer of transformers' BERT under torch's names."""
    attention = layer.attention
    stacked = [attention.self.query, attention.self.key, attention.self.value]
    weights = {
        f"self_attn.in_proj_{kind}": torch.cat([getattr(part, kind) for part in stacked])
        for kind in ("weight", "bias")
    }
    named = {
        "self_attn.out_proj": attention.output.dense,
        "norm1": attention.output.LayerNorm,
        "linear1": layer.intermediate.dense,
        "linear2": layer.output.dense,
        "norm2": layer.output.LayerNorm,
    }
    weights |= {
        f"{name}.{kind}": getattr(module, kind)
        for name, module in named.items()
        for kind in ("weight", "bias")
    }
    return weights
