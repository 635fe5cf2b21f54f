"""DiPair: a dual encoder whose first token embeddings are read together by a small head.

    texts ─► shared encoder ─► first N (query) or M (passage) output tokens ─► projection to D
          ─► [query tokens; passage tokens] + position + segment ─► transformer head ─► logit

Source: Chen et al., "DiPair: Fast and Accurate Distillation for Trillion-Scale Text Matching and
Pair Modeling", Findings of EMNLP 2020, section 3.

Deviations from the paper:
- `pooling="mean"`: the mean of all output tokens takes the place of the first kept one, for
  encoders whose sentence vector is that mean. The paper keeps the first token ("cls").
- `similarity_residual`: the cosine of the two first projected tokens is added to the logit, and
  the head's last layer starts at zero, so that training begins at the encoder's own ranking. The
  paper has no such term.
- A text with fewer tokens than are kept is filled with zero vectors, which the head reads like any
  others: the score of a pair never depends on what shares its batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from dipair_index.errors import ModelError, SettingsError

Side = Literal["query", "passage"]


class DiPairConfig(PretrainedConfig):
    """Sizes of a DiPair model; the defaults are those of Q2P-MAT (section 4.4)."""

    model_type = "dipair"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        max_query_tokens: int = 4,
        max_passage_tokens: int = 8,
        dim: int = 256,
        head_layers: int = 2,
        head_attention_heads: int = 1,
        head_intermediate: int = 1024,
        head_dropout: float = 0.1,
        query_length: int = 32,
        passage_length: int = 128,
        keep: str = "first",
        pooling: str = "cls",
        similarity_residual: bool = False,
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
        self.keep = keep
        self.pooling = pooling
        self.similarity_residual = similarity_residual
        for name in ("max_query_tokens", "max_passage_tokens", "dim", "head_layers"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if dim % head_attention_heads:
            raise SettingsError(
                f"dim {dim} cannot be shared among {head_attention_heads} attention heads"
            )
        if keep not in ("first", "last") or pooling not in ("cls", "mean"):
            raise SettingsError(
                f"keep must be first or last and pooling cls or mean, got {keep} and {pooling}"
            )
        super().__init__(**kwargs)

    def kept(self, side: Side) -> int:
        """Output tokens that are kept of a text: N of a query, M of a passage."""
        return self.max_query_tokens if side == "query" else self.max_passage_tokens

    def text_length(self, side: Side) -> int:
        """Tokens that the encoder reads of a text."""
        return self.query_length if side == "query" else self.passage_length

    @property
    def vector_dim(self) -> int:
        """Width of the pooled vector that FAISS holds."""
        return int(AutoConfig.for_model(**self.encoder).hidden_size)


class Encoded(NamedTuple):
    """What one pass of the encoder gives for a batch of texts."""

    tokens: Tensor  # (texts, kept, dim)
    vectors: Tensor  # (texts, vector_dim), unit length


@dataclass
class DiPairOutput(ModelOutput):
    """Scores of B queries against G passages each, and the vectors FAISS would compare."""

    logits: Tensor | None = None  # (B, G)
    query_vectors: Tensor | None = None  # (B, vector_dim)
    passage_vectors: Tensor | None = None  # (B, G, vector_dim)


class Head(nn.Module):
    """The transformer head of section 3.5: one logit a pair from both sides' tokens."""

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__()
        kept = config.max_query_tokens + config.max_passage_tokens
        self.position = nn.Parameter(torch.zeros(kept, config.dim))
        self.segment = nn.Parameter(torch.zeros(2, config.dim))
        self.norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.dim,
                config.head_attention_heads,
                config.head_intermediate,
                config.head_dropout,
                activation="gelu",
                layer_norm_eps=1e-12,
                batch_first=True,
            )
            for _ in range(config.head_layers)
        )
        self.output = nn.Linear(config.dim, 1)
        self.similarity_residual = config.similarity_residual
        if self.similarity_residual:
            self.similarity_scale = nn.Parameter(torch.tensor([20.0]))

    def forward(self, query_tokens: Tensor, passage_tokens: Tensor) -> Tensor:
        """(pairs, N, dim) and (pairs, M, dim) to logits (pairs,)."""
        segments = [self.segment[0].expand_as(query_tokens[0])]
        segments.append(self.segment[1].expand_as(passage_tokens[0]))
        hidden = torch.cat([query_tokens, passage_tokens], dim=1)  # (pairs, N + M, dim)
        hidden = self.norm(hidden + self.position + torch.cat(segments))
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.output(hidden[:, 0]).squeeze(-1)
        if self.similarity_residual:
            cosine = functional.cosine_similarity(query_tokens[:, 0], passage_tokens[:, 0])
            logits = logits + self.similarity_scale * cosine
        return logits


class DiPairModel(PreTrainedModel):
    """Shared encoder, a projection a side, and the head."""

    config_class = DiPairConfig
    base_model_prefix = "dipair"
    _supports_sdpa = True

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(AutoConfig.for_model(**config.encoder))
        # BERT's pooler is trained for next-sentence prediction; nothing here reads it
        self.encoder.pooler = None
        width = config.vector_dim
        self.projections = nn.ModuleDict(
            {side: nn.Linear(width, config.dim, bias=False) for side in ("query", "passage")}
        )
        self.head = Head(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=0.02)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, Head):
            module.position.normal_(std=0.02)
            module.segment.normal_(std=0.02)
            if module.similarity_residual:
                # the mean of a teacher's logits is near zero where the cosine is about a half
                module.similarity_scale.fill_(20.0)
                module.output.weight.zero_()
                module.output.bias.fill_(-10.0)
        elif isinstance(module, nn.MultiheadAttention):
            module.in_proj_weight.normal_(std=0.02)
            module.in_proj_bias.zero_()

    @classmethod
    def from_encoder(cls, name: str, *, layers: int | None = None, **settings: Any) -> DiPairModel:
        """Starts from the first `layers` layers of a pretrained BERT (section 3.2).

        `settings` are those of `DiPairConfig`. Raises `ModelError` when there is no such encoder.
        """
        depth = {} if layers is None else {"num_hidden_layers": layers}
        try:
            encoder = AutoModel.from_pretrained(name, dtype=torch.float32, **depth)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"no encoder could be loaded from {name}: name a folder with config.json and "
                "model.safetensors, or a hub model that can be reached"
            ) from error
        described = encoder.config.to_diff_dict()
        described.pop("_name_or_path", None)  # a folder of this machine means nothing elsewhere
        model = cls(DiPairConfig(encoder=described, **settings))
        encoder.pooler = None
        model.encoder.load_state_dict(encoder.state_dict())
        return model

    def states(self, side: Side, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the kept encoder outputs before projection, (texts, kept, vector_dim).

        With `pooling="mean"` the first of them is the mean of all outputs.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask.to(hidden.dtype).unsqueeze(-1)  # (texts, tokens, 1)
        hidden = hidden * mask
        if self.config.keep == "first":
            kept = hidden[:, : self.config.kept(side)]
        else:
            lengths = attention_mask.sum(1)
            start = (lengths - self.config.kept(side)).clamp(min=0)
            places = start[:, None] + torch.arange(self.config.kept(side), device=hidden.device)
            inside = (places < lengths[:, None]).to(hidden.dtype).unsqueeze(-1)
            places = places.clamp(max=hidden.shape[1] - 1).unsqueeze(-1)
            kept = hidden.gather(1, places.expand(-1, -1, hidden.shape[-1])) * inside
        kept = functional.pad(kept, (0, 0, 0, self.config.kept(side) - kept.shape[1]))
        if self.config.pooling == "mean":
            mean = hidden.sum(1) / mask.sum(1).clamp(min=1)
            kept = torch.cat([mean.unsqueeze(1), kept[:, 1:]], dim=1)
        return kept

    def encode(self, side: Side, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Returns the projected tokens that are cached, and the pooled vector, of each text."""
        states = self.states(side, input_ids, attention_mask)
        return Encoded(self.projections[side](states), functional.normalize(states[:, 0], dim=-1))

    def forward(
        self,
        query_states: Tensor | None = None,
        passage_states: Tensor | None = None,
        queries: dict[str, Tensor] | None = None,
        passages: dict[str, Tensor] | None = None,
    ) -> DiPairOutput:
        """Scores each of B queries against its own G passages.

        Either from kept encoder outputs, (B, N, vector_dim) and (B, G, M, vector_dim), which is
        stage one of the training (section 3.7), or from token ids and masks, (B, tokens) and
        (B * G, tokens), which is stage two.
        """
        if queries is not None and passages is not None:
            query_states = self.states("query", **queries)
            passage_states = self._states_by_length(**passages)
            passage_states = passage_states.unflatten(0, (len(query_states), -1))
        if query_states is None or passage_states is None:
            raise SettingsError("forward takes either states or token ids, of both sides")
        count, group = passage_states.shape[:2]
        query_tokens = self.projections["query"](query_states).repeat_interleave(group, dim=0)
        passage_tokens = self.projections["passage"](passage_states.flatten(0, 1))
        return DiPairOutput(
            logits=self.head(query_tokens, passage_tokens).view(count, group),
            query_vectors=functional.normalize(query_states[:, 0], dim=-1),
            passage_vectors=functional.normalize(passage_states[:, :, 0], dim=-1),
        )

    def _states_by_length(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `states` of passages, in chunks of like length: a third of the time is padding."""
        lengths = attention_mask.sum(1)
        order = lengths.argsort(descending=True)
        chunks = [
            self.states(
                "passage",
                input_ids[rows, : int(lengths[rows[0]])],
                attention_mask[rows, : int(lengths[rows[0]])],
            )
            for rows in order.split(max(8, len(order) // 4))
        ]
        return torch.cat(chunks)[order.argsort()]


def save_split(model: DiPairModel, folder: Path, *, frozen: str = "embeddings") -> None:
    """Saves half-precision weights, those whose names hold `frozen` in a file of their own.

    A later model that leaves them as they are then replaces the other file alone. transformers
    reads both through `model.safetensors.index.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Tensor]] = {"frozen.safetensors": {}, "trained.safetensors": {}}
    for name, tensor in model.state_dict().items():
        part = "frozen.safetensors" if frozen in name else "trained.safetensors"
        parts[part][name] = tensor.half().contiguous()
    for part, tensors in parts.items():
        save_file(tensors, str(folder / part), metadata={"format": "pt"})
    weight_map = {name: part for part, tensors in parts.items() for name in tensors}
    size = sum(tensor.nbytes for tensors in parts.values() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    model.config.save_pretrained(folder)


AutoConfig.register("dipair", DiPairConfig)
AutoModel.register(DiPairConfig, DiPairModel)
