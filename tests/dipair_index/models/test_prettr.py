"""PreTTR's cached path against one pass of transformers' BERT over both texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RoFormerConfig,
    RoFormerModel,
)

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.errors import ModelError, SettingsError
from dipair_index.models.dipair import DiPairModel
from dipair_index.rerank.head import HeadScorer

QUERY = "why does the honey bees dance"
PASSAGES = ["tea", "the queen of the honey bees is in the mountain", "lava ash erupts " * 30, ""]
LAYERS, JOINT = 4, 2


@pytest.fixture(scope="module")
def deep_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=LAYERS,
        num_attention_heads=4, intermediate_size=48, max_position_embeddings=64,
        initializer_range=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("deep")
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def new_model(folder: Path, **settings: Any) -> DiPairModel:
    sizes = {"head_layers": JOINT, "query_length": 12, "passage_length": 20, "dim": 16} | settings
    model = DiPairModel.from_encoder(str(folder), system="prettr", **sizes).eval()
    with torch.no_grad():
        for parameter in [model.head.segment, *model.head.output.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def one_pass(model: DiPairModel, bert: Any, tokenizer: Any, query: str, passage: str) -> Tensor:
    """The logit of a pair as a cross-encoder computes it: all layers over both texts at once.

    `bert` has the whole encoder's weights. In its lower layers, a mask keeps the texts apart; the
    compression and its expansion stand between these and the upper layers.
    """
    config, head = model.config, model.head
    ids = [
        tokenizer(text, truncation=True, max_length=config.text_length(side))["input_ids"]
        for side, text in (("query", query), ("passage", passage))
    ]
    side = torch.tensor([0] * len(ids[0]) + [1] * len(ids[1]))
    positions = torch.cat([torch.arange(len(each)) for each in ids])[None]
    hidden = bert.embeddings(input_ids=torch.tensor([ids[0] + ids[1]]), position_ids=positions)
    apart = torch.where(side[:, None] == side, 0.0, torch.finfo(torch.float32).min)[None, None]
    for layer in bert.encoder.layer[:-JOINT]:
        hidden = layer(hidden, attention_mask=apart)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    if config.dim is not None:
        down = [model.projections[name].weight for name in config.sides]
        up = [each.weight for each in head.expansions]
        rows = zip(side, hidden[0], strict=True)
        hidden = torch.stack([up[number] @ (down[number] @ row) for number, row in rows])[None]
    hidden = hidden + head.segment[side]
    for layer in bert.encoder.layer[-JOINT:]:
        hidden = layer(hidden, attention_mask=torch.zeros_like(apart))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return head.output(hidden[0, 0])


@pytest.mark.parametrize("dim", [16, None])
def test_cached_tokens_score_as_one_pass_over_both_texts(
    dim: int | None, deep_encoder: Path, tiny_tokenizer: Any
) -> None:
    model = new_model(deep_encoder, dim=dim)
    bert = BertModel.from_pretrained(deep_encoder).eval()
    with torch.inference_mode():
        expected = [one_pass(model, bert, tiny_tokenizer, QUERY, text).item() for text in PASSAGES]
    encoder = DualEncoder(model, tiny_tokenizer, name="prettr")
    query = encoder.encode_queries([QUERY]).tokens[0]
    passages = encoder.encode_passages(PASSAGES).tokens
    assert passages.shape == (4, 20, 32 if dim is None else 16)
    assert (passages[0].any(-1) == (np.arange(20) < 3)).all(), "[CLS] tea [SEP] and zeros"
    np.testing.assert_allclose(encoder.logits(query, passages), expected, atol=1e-4)
    np.testing.assert_allclose(HeadScorer(model).logits(query, passages), expected, atol=1e-4)


def test_the_encoder_keeps_the_lower_layers_and_the_head_has_the_upper(deep_encoder: Path) -> None:
    model, bert = new_model(deep_encoder), BertModel.from_pretrained(deep_encoder)
    assert len(model.encoder.encoder.layer) == LAYERS - JOINT
    below = {
        name: tensor for name, tensor in bert.state_dict().items()
        if not name.startswith(("encoder.layer.2", "encoder.layer.3", "pooler"))
    }  # fmt: skip
    assert model.encoder.state_dict().keys() == below.keys()
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, below[name])


def test_the_vector_is_the_mean_over_the_tokens_that_are_there(
    deep_encoder: Path, tiny_tokenizer: Any
) -> None:
    model = new_model(deep_encoder, pooling="mean")
    encoder = DualEncoder(model, tiny_tokenizer, name="prettr")
    ids = torch.tensor([tiny_tokenizer("honey bees dance")["input_ids"]])
    with torch.inference_mode():
        mean = model.encoder(input_ids=ids)[0][0].mean(0)
    found = encoder.encode_passages(["lava ash erupts in the mountain", "honey bees dance"]).vectors
    np.testing.assert_allclose(found[1], mean / mean.norm(), atol=1e-5)


def test_an_encoder_that_cannot_be_divided_is_refused(
    tmp_path: Path, deep_encoder: Path, tiny_tokenizer: Any
) -> None:
    with pytest.raises(SettingsError, match=r"below its 4 joint ones.*has 4: pass --head-layers 3"):
        new_model(deep_encoder, head_layers=4)
    other = DistilBertModel(DistilBertConfig(
        vocab_size=len(tiny_tokenizer), dim=32, n_layers=3, n_heads=2, hidden_dim=48,
        max_position_embeddings=64,
    ))  # fmt: skip
    other.save_pretrained(tmp_path / "distil")
    with pytest.raises(ModelError, match=r"another kind \(distilbert\): name an encoder such as"):
        new_model(tmp_path / "distil")
    # its weights have BERT's names, but its positions turn inside the layers
    other = RoFormerModel(RoFormerConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, embedding_size=32, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=48, max_position_embeddings=64,
        initializer_range=0.2,
    ))  # fmt: skip
    other.save_pretrained(tmp_path / "roformer")
    with pytest.raises(ModelError, match=r"another kind \(roformer\)"):
        new_model(tmp_path / "roformer")
