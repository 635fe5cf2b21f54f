"""Cross-encoder teachers, which read all texts of a pair or tuple together and score them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dipair_index.digests import short_digest
from dipair_index.encoders.batches import beginnings, length_sorted_batches, truncating
from dipair_index.errors import ModelError
from dipair_index.models.sources import CROSS_ENCODER, CROSS_ENCODER_NEXT
from dipair_index.models.torch_setup import prepare_torch_for
from dipair_index.records import FloatArray
from dipair_index.words import reason

QUERY_TOKENS, PASSAGE_TOKENS = 32, 128
"""The maximum lengths in tokens (DiPair, section 3.2)."""
MAX_TOKENS = QUERY_TOKENS + PASSAGE_TOKENS
"""The maximum length of a pair or tuple, in tokens, for a cross-encoder trained elsewhere."""
ONNX_INPUTS = {
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}
"""The possible inputs of an ONNX file, with their names in the package `tokenizers`."""
TRUNCATION = "longest_first"
"""The truncation of a long pair: of the longer text, token by token; mostly the passage."""


class Teacher(Protocol):
    """A model that scores pairs or tuples; `fingerprint` changes if any weight does."""

    name: str
    fingerprint: str
    outputs: int

    def logits(self, first: Sequence[str], *others: Sequence[str]) -> FloatArray:
        """Returns logits in the order of the tuples: (tuples,), or (tuples, outputs) if several.

        Each argument holds the texts of one side. The model reads pairs: the first side's text, and
        those of the other sides joined by the separator token.
        """
        ...


def open_teacher(name: str, *, device: str = "cpu", batch_size: int = 8) -> Teacher:
    """Opens an ONNX file (or a folder with `model.onnx`), or any transformers cross-encoder.

    Raises `ModelError` if there is no such model or it cannot score pairs, and `SettingsError` if
    there is no such device.
    """
    path = Path(name)
    if path.suffix == ".onnx" or (path / "model.onnx").is_file():
        file = path if path.suffix == ".onnx" else path / "model.onnx"
        return OnnxTeacher(file, batch_size=batch_size)
    prepare_torch_for(
        name,
        kind=CROSS_ENCODER,
        following=CROSS_ENCODER_NEXT,
        needed_by=f"the teacher {name}",
        device=device,
    )
    return TransformersTeacher.load(name, device=device, batch_size=batch_size)


def longest_input(model: Any, tokenizer: Any) -> int:
    """Returns the maximum length of a transformers cross-encoder in tokens.

    It is that of its training, or less if the model or its tokenizer cannot read as many.
    """
    from dipair_index.models.pretrained import readable_tokens

    trained_on: int = getattr(model.config, "dipair_max_tokens", MAX_TOKENS)
    return min(trained_on, int(tokenizer.model_max_length), readable_tokens(model) or trained_on)


def set_longest_input(model: Any, tokenizer: Any, tokens: int) -> int:
    """Sets the maximum length that a cross-encoder is saved with, in tokens.

    Returns that length, which is at most the one that the model can read.
    """
    from dipair_index.models.pretrained import readable_tokens

    longest = min(tokens, readable_tokens(model) or tokens)
    model.config.dipair_max_tokens = tokenizer.model_max_length = longest
    return longest


def joined(separator: str, others: Sequence[Sequence[str]]) -> list[str]:
    """Returns the second text of each tuple, (tuples,): the other sides' texts, joined."""
    return [f" {separator} ".join(texts) for texts in zip(*others, strict=True)]


def pair_inputs(
    model: Any, tokenizer: Any, first: Sequence[str], second: Sequence[str]
) -> dict[str, Any]:
    """Returns the inputs of a transformers cross-encoder by name, padded, (pairs, tokens) each."""
    length = longest_input(model, tokenizer)
    encode = truncating(tokenizer, length)
    batch = tokenizer(
        beginnings(encode, first, length),
        beginnings(encode, second, length),
        truncation=TRUNCATION,
        max_length=length,
        padding=True,
        return_tensors="pt",
    )
    known = inspect.signature(model.forward).parameters  # DistilBERT, for example, takes no types
    return {name: values for name, values in batch.items() if name in known}


def refuse_unusable(teacher: Teacher) -> None:
    """Raises `ModelError` if a teacher fails on a short pair or on one that it truncates."""
    try:
        logits = teacher.logits(["a", "b"], ["b", "a " * MAX_TOKENS])
    # models of other kinds and ONNX Runtime raise errors of many types
    except Exception as error:
        raise ModelError(
            f"{teacher.name} cannot score pairs of texts ({reason(error)}): name a cross-encoder"
        ) from error
    if not np.isfinite(logits).all():
        raise ModelError(
            f"{teacher.name} gives a pair of texts a score that is not a number: name another"
        )


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

        Raises `ModelError` if there is no such model, or it was not trained to score pairs.
        """
        from dipair_index.models.pretrained import load_cross_encoder
        from dipair_index.models.tokenizers import load_tokenizer

        model = load_cross_encoder(name)
        tokenizer = load_tokenizer(name, model)
        teacher = cls(model.to(device), tokenizer, name=name, batch_size=batch_size)
        refuse_unusable(teacher)
        return teacher

    def logits(self, first: Sequence[str], *others: Sequence[str]) -> FloatArray:
        """Returns logits, (tuples,) or (tuples, outputs), as `Teacher` describes."""
        import torch

        second = joined(self._tokenizer.sep_token or "", others)
        result = np.empty((len(first), self.outputs), np.float32)
        for rows in length_sorted_batches(_lengths(first, second), self._batch_size):
            inputs = pair_inputs(
                self._model,
                self._tokenizer,
                [first[row] for row in rows],
                [second[row] for row in rows],
            )
            with torch.inference_mode():
                inputs = {name: each.to(self._model.device) for name, each in inputs.items()}
                result[rows] = self._model(**inputs).logits.float().cpu().numpy()
        return _flat(result)


class OnnxTeacher:
    """A cross-encoder in an ONNX file, with its `tokenizer.json` in the same folder.

    Raises `ModelError` if either file is missing or invalid, or the model cannot score pairs.
    """

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
        except Exception as error:  # ONNX Runtime raises errors of types without a common base
            raise ModelError(f"{file} is not an ONNX model: {error}") from error
        outputs = self._session.get_outputs()
        width = outputs[0].shape[-1]
        if len(outputs) != 1 or len(outputs[0].shape) != 2 or not isinstance(width, int):
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise ModelError(f"{file} gives outputs {shapes}, a teacher gives one (batch, outputs)")
        self.outputs = width
        # `tokenizers` raises plain `Exception`
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(vocabulary))
        except Exception as error:
            raise ModelError(f"{vocabulary} is not a tokenizer: {error}") from error
        self._length = _onnx_length(file.parent)
        self._tokenizer.enable_truncation(self._length, strategy=TRUNCATION)
        padding = self._tokenizer.padding or {}
        self._tokenizer.enable_padding(
            pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]")
        )
        self._inputs = {entry.name: entry.type for entry in self._session.get_inputs()}
        unknown = sorted(set(self._inputs) - set(ONNX_INPUTS))
        if unknown:
            raise ModelError(
                f"{file} takes {', '.join(unknown)}: export it with the inputs "
                f"{', '.join(ONNX_INPUTS)}, or some of them"
            )
        self._batch_size = batch_size
        self.name = str(file)
        self.fingerprint = short_digest(file.read_bytes())
        refuse_unusable(self)

    def logits(self, first: Sequence[str], *others: Sequence[str]) -> FloatArray:
        """Returns logits, (tuples,) or (tuples, outputs), as `Teacher` describes."""
        known = (piece for piece in ("[SEP]", "</s>") if self._tokenizer.token_to_id(piece))
        encode = self._tokenizer.encode_batch
        second = joined(next(known, ""), others)
        result = np.empty((len(first), self.outputs), np.float32)
        for rows in length_sorted_batches(_lengths(first, second), self._batch_size):
            sides = (
                beginnings(encode, [side[row] for row in rows], self._length)
                for side in (first, second)
            )
            encodings = encode(list(zip(*sides, strict=True)))
            fed = {
                name: np.array(
                    [getattr(encoding, ONNX_INPUTS[name]) for encoding in encodings],
                    np.int32 if kind == "tensor(int32)" else np.int64,
                )
                for name, kind in self._inputs.items()
            }
            result[rows] = self._session.run(None, fed)[0]
        return _flat(result)


def _onnx_length(folder: Path) -> int:
    """Returns the maximum length of a teacher in an ONNX file, in tokens.

    The files of transformers in its folder may lower it.
    """
    limits = [MAX_TOKENS]
    for name, key in (
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    ):
        try:
            limit = json.loads((folder / name).read_text(encoding="utf-8"))[key]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(limit, int) and limit > 0:
            limits.append(limit)
    return min(limits)


def _lengths(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Returns the length of each pair in characters."""
    return [len(one) + len(other) for one, other in zip(first, second, strict=True)]


def _flat(logits: FloatArray) -> FloatArray:
    """Returns (tuples, outputs), or (tuples,) if there is one output."""
    return logits[:, 0] if logits.shape[1] == 1 else logits
