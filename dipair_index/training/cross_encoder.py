"""Trains cross-encoders, which read all texts of a tuple together: teachers and students."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig

from dipair_index.encoders.cross_encoders import joined, pair_inputs
from dipair_index.training.groups import GroupDataset, LabelledGroups, stacked_labels
from dipair_index.training.run import TrainingRun
from dipair_index.training.trainer import Schedule, run_training


def random_bert_tiny(tokenizer: Any, *, layers: int | None, outputs: int) -> Any:
    """Returns a BERT-Tiny (2 layers, hidden size 128, 2 attention heads) with random weights."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=128,
        num_hidden_layers=layers or 2,
        num_attention_heads=2,
        intermediate_size=512,
    )
    config.num_labels = outputs
    return AutoModelForSequenceClassification.from_config(config)


def fit(
    model: Any,
    tokenizer: Any,
    groups: LabelledGroups,
    texts: Mapping[str, Mapping[str, str]],
    compute_loss: Callable[[Tensor, Tensor], Tensor],
    run: TrainingRun,
    schedule: Schedule,
    *,
    group: int,
) -> None:
    """Trains `model` in place on `group` tuples of each item; `texts` are by side and id.

    `compute_loss` takes logits and labels, both (items, group) or (items, group, classes). Raises
    `TrainingError` if the loss diverges.
    """
    texts_of = {side: [texts[side][name] for name in names] for side, names in groups.ids.items()}
    queries = texts_of.pop("query")
    separator = tokenizer.sep_token or ""

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        second = [
            [side_texts[row] for item in items for row in item[side]]
            for side, side_texts in texts_of.items()
        ]
        first = [queries[item["query"]] for item in items for _ in range(group)]
        inputs = pair_inputs(model, tokenizer, first, joined(separator, second))
        return {**inputs, "labels": stacked_labels(items)}

    def loss(output: Any, labels: Tensor) -> Tensor:
        return compute_loss(output.logits.float().view(labels.shape), labels)

    dataset = GroupDataset(groups, group, schedule.seed)
    with run.progress("training the cross-encoder", "steps") as report:
        run_training(
            model,
            dataset,
            collate,
            loss,
            run.checkpoints,
            schedule,
            resume=run.resume,
            report=report,
            on_epoch=dataset.begin_epoch,
        )


def saver(model: Any, tokenizer: Any) -> Callable[[Path], None]:
    """Returns a function that writes a cross-encoder to a folder in transformers' format."""

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return save
