"""Cross-encoder teachers: they read all texts of a pair or tuple together and score them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dipair_index.encoders.batches import length_sorted_batches
from dipair_index.errors import ModelError
from dipair_index.models.torch_setup import prepare_torch
from dipair_index.records import FloatArray

QUERY_TOKENS, PASSAGE_TOKENS = 32, 128
"""What the encoder reads of each (DiPair, section 3.2)."""
MAX_TOKENS = QUERY_TOKENS + PASSAGE_TOKENS
"""What a cross-encoder that was trained elsewhere reads, of pairs and of tuples."""
TRUNCATION = "longest_first"
"""What is cut where a pair is longer: the passage, and a query only where it is as long."""


class Teacher(Protocol):
    """Scores pairs or tuples; `fingerprint` changes when its weights do."""

    name: str
    fingerprint: str
    outputs: int

    def logits(self, first: Sequence[str], *others: Sequence[str]) -> FloatArray:
        """Returns logits in the order given: (tuples,), or (tuples, outputs) of several outputs.

        Each argument holds one side's texts; the first is read against the others, joined by the
        separator token.
        """
        ...


def open_teacher(name: str, *, device: str = "cpu", batch_size: int = 8) -> Teacher:
    """Opens an ONNX file (or a folder with `model.onnx`), or any transformers cross-encoder.

    Raises `ModelError` when there is no such model.
    """
    path = Path(name)
    if path.suffix == ".onnx" or (path / "model.onnx").is_file():
        file = path if path.suffix == ".onnx" else path / "model.onnx"
        return OnnxTeacher(file, batch_size=batch_size)
    prepare_torch(device, needed_by=f"the teacher {name}")
    return TransformersTeacher.load(name, device=device, batch_size=batch_size)


def longest_input(model: Any, tokenizer: Any) -> int:
    """Tokens that a transformers cross-encoder reads of a tuple: what it was trained on here."""
    trained_on = getattr(model.config, "dipair_max_tokens", MAX_TOKENS)
    return min(trained_on, int(tokenizer.model_max_length))


def set_longest_input(model: Any, tokenizer: Any, tokens: int) -> int:
    """Has both save that a cross-encoder reads so many tokens; returns how many it can."""
    longest = min(tokens, getattr(model.config, "max_position_embeddings", tokens))
    model.config.dipair_max_tokens = tokenizer.model_max_length = longest
    return longest


def joined(separator: str, others: Sequence[Sequence[str]]) -> list[str]:
    """Returns what a cross-encoder reads as its second text, (tuples,)."""
    return [f" {separator} ".join(texts) for texts in zip(*others, strict=True)]


class TransformersTeacher:
    """A transformers sequence classifier: a local folder or a hub name."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, batch_size: int = 8) -> None:
        from dipair_index.models.weights import fingerprint

        self._model = model.eval()
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self.name = name
        self.fingerprint = fingerprint(model)
        self.outputs: int = model.config.num_labels

    @classmethod
    def load(cls, name: str, *, device: str = "cpu", batch_size: int = 8) -> TransformersTeacher:
        """Loads a local folder or a hub name.

        Raises `ModelError` when there is no such model, or it was never trained to score pairs.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            # in float32 whatever it was saved in, since numpy has no bfloat16
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"no cross-encoder could be loaded from {name}: name a folder with config.json "
                "and model.safetensors, a hub model that can be reached, or an ONNX file"
            ) from error
        if loaded["missing_keys"]:
            raise ModelError(
                f"{name} is no cross-encoder, since it has no {min(loaded['missing_keys'])}, which "
                f"would be random: run `dipair-index train-teacher --encoder {name}`, or name a "
                "cross-encoder"
            )
        return cls(model.to(device), tokenizer, name=name, batch_size=batch_size)

    def logits(self, first: Sequence[str], *others: Sequence[str]) -> FloatArray:
        """Returns logits, (tuples,) or (tuples, outputs), as `Teacher` says."""
        import torch

        second = joined(self._tokenizer.sep_token or "", others)
        result = np.empty((len(first), self.outputs), np.float32)
        for rows in length_sorted_batches(_lengths(first, second), self._batch_size):
            inputs = self._tokenizer(
                [first[row] for row in rows],
                [second[row] for row in rows],
                truncation=TRUNCATION,
                max_length=longest_input(self._model, self._tokenizer),
                padding=True,
                return_tensors="pt",
            ).to(self._model.device)
            with torch.inference_mode():
                result[rows] = self._model(**inputs).logits.float().cpu().numpy()
        return _flat(result)


class OnnxTeacher:
    """A cross-encoder in an ONNX file, with its `tokenizer.json` beside it."""

    def __init__(self, file: Path, *, batch_size: int = 8) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        vocabulary = file.parent / "tokenizer.json"
        for needed in (file, vocabulary):
            if not needed.is_file():
                raise ModelError(
                    f"{needed} is missing: an ONNX teacher is a model and its tokenizer"
                )
        try:
            self._session: Any = onnxruntime.InferenceSession(str(file))
        except Exception as error:  # ONNX Runtime raises its own types, which share no other base
            raise ModelError(f"{file} is not an ONNX model: {error}") from error
        outputs = self._session.get_outputs()
        width = outputs[0].shape[-1]
        if len(outputs) != 1 or len(outputs[0].shape) != 2 or not isinstance(width, int):
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise ModelError(f"{file} gives outputs {shapes}, a teacher gives one (batch, outputs)")
        self.outputs = width
        self._tokenizer: Any = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.enable_truncation(MAX_TOKENS, strategy=TRUNCATION)
        padding = self._tokenizer.padding or {}
        self._tokenizer.enable_padding(
            pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]")
        )
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._batch_size = batch_size
        self.name = str(file)
        self.fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()[:16]

    def logits(self, first: Sequence[str], *others: Sequence[str]) -> FloatArray:
        """Returns logits, (tuples,) or (tuples, outputs), as `Teacher` says."""
        known = (piece for piece in ("[SEP]", "</s>") if self._tokenizer.token_to_id(piece))
        second = joined(next(known, ""), others)
        result = np.empty((len(first), self.outputs), np.float32)
        for rows in length_sorted_batches(_lengths(first, second), self._batch_size):
            encodings = self._tokenizer.encode_batch([(first[row], second[row]) for row in rows])
            inputs = {
                "input_ids": np.array([encoding.ids for encoding in encodings]),
                "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
                "token_type_ids": np.array([encoding.type_ids for encoding in encodings]),
            }
            fed = {name: array for name, array in inputs.items() if name in self._inputs}
            result[rows] = self._session.run(None, fed)[0]
        return _flat(result)


def _lengths(first: Sequence[str], second: Sequence[str]) -> list[int]:
    return [len(one) + len(other) for one, other in zip(first, second, strict=True)]


def _flat(logits: FloatArray) -> FloatArray:
    """One output a tuple is no column of its own."""
    return logits[:, 0] if logits.shape[1] == 1 else logits
