"""The systems that `peers.py` compares: each scores the passages of a query by its text.

A system is made in two steps: `prepare` stores what it keeps of each passage, once, and `open_...`
returns the function that is timed, from a query and the rows of its candidates to scores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dipair_index.formats.row_files import fill_rows
from dipair_index.models.systems import Backend, Precision
from dipair_index.records import FloatArray

Score = Callable[[str, Sequence[int]], FloatArray]
MAX_TOKENS = 160
CHUNK = 256


@dataclass(frozen=True)
class Setting:
    """What all systems are given."""

    passages: list[str]
    folder: Path  # for what is stored
    model: str  # of DiPair
    teacher: Path | None
    colbert: Path | None
    threads: int


class Stored(NamedTuple):
    """A scorer, and the bytes that it keeps of a passage."""

    score: Score
    bytes_per_passage: float


# ==== Cross-encoders: nothing is stored ====


def flashrank(setting: Setting) -> Stored:
    """FlashRank itself over the int8 file, under the names that it expects."""
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    name = "ms-marco-MiniLM-L-12-v2"
    assert setting.teacher is not None
    folder = setting.folder / "flashrank" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in setting.teacher.iterdir():
        target = folder / (model_file_map[name] if file.suffix == ".onnx" else file.name)
        if not target.exists():
            target.symlink_to(file)
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    ranker = Ranker(name, str(folder.parent), max_length=MAX_TOKENS, log_level="ERROR")

    def score(query: str, rows: Sequence[int]) -> FloatArray:
        asked = [{"id": place, "text": setting.passages[row]} for place, row in enumerate(rows)]
        scores = np.empty(len(rows), np.float32)
        for found in ranker.rerank(RerankRequest(query, asked)):
            scores[found["id"]] = found["score"]
        return scores

    return Stored(score, 0)


def teacher(setting: Setting) -> Stored:
    """The same file, in batches of eight pairs of similar length."""
    from dipair_index.encoders.cross_encoders import open_teacher

    opened = open_teacher(str(setting.teacher))
    texts = setting.passages
    return Stored(lambda q, rows: opened.logits([q] * len(rows), [texts[r] for r in rows]), 0)


def cross_encoder(layers: int, width: int, heads: int, inner: int) -> Callable[[Setting], Stored]:
    """sentence-transformers' CrossEncoder as it comes, random weights: for its time alone."""

    def opened(setting: Setting) -> Stored:
        from sentence_transformers import CrossEncoder
        from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

        from dipair_index.models.sources import model_folder

        folder = setting.folder / f"bert-{layers}-{width}"
        if not folder.exists():
            tokenizer = AutoTokenizer.from_pretrained(str(model_folder(setting.model)))
            config = BertConfig(
                vocab_size=len(tokenizer), num_hidden_layers=layers, hidden_size=width,
                num_attention_heads=heads, intermediate_size=inner, num_labels=1,
            )  # fmt: skip
            BertForSequenceClassification(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        model: Any = CrossEncoder(str(folder), max_length=MAX_TOKENS, device="cpu")

        def score(query: str, rows: Sequence[int]) -> FloatArray:
            pairs = [(query, setting.passages[row]) for row in rows]
            return np.asarray(model.predict(pairs, show_progress_bar=False))

        return Stored(score, 0)

    return opened


# ==== ColBERT ====


class OnnxTokens:
    """All output tokens of a BERT in ONNX, at unit length."""

    def __init__(self, folder: Path, dim: int | None) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        self._dim = dim

    def __call__(self, texts: Sequence[str], length: int) -> tuple[FloatArray, FloatArray]:
        """(texts, longest, dim), with zeros where a text has ended, and its mask."""
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding()
        made = self._tokenizer.encode_batch(list(texts))
        ids, mask = (np.array([getattr(e, n) for e in made]) for n in ("ids", "attention_mask"))
        fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        tokens = self._session.run(["last_hidden_state"], fed)[0][..., : self._dim]
        tokens = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True) * mask[..., None]
        return tokens.astype(np.float32), mask


def _colbert_tokens(setting: Setting, dim: int | None) -> tuple[OnnxTokens, Any, FloatArray]:
    assert setting.colbert is not None
    encode = OnnxTokens(setting.colbert, dim)
    width, longest = dim or 384, 128
    texts = setting.passages
    chunks = [texts[at : at + 16] for at in range(0, len(texts), 16)]

    def compute(chunk: list[str]) -> Any:
        tokens, _ = encode(chunk, longest)
        return np.pad(tokens, ((0, 0), (0, longest - tokens.shape[1]), (0, 0))).astype(np.float16)

    stored = fill_rows(
        setting.folder / f"colbert-{width}.npy", (len(texts), longest, width), np.float16,
        key={"texts": len(texts), "model": str(setting.colbert)}, chunks=chunks, compute=compute,
        report=lambda done: print(f"colbert: {done}", file=sys.stderr) if not done % 512 else None,
    )  # fmt: skip
    return encode, stored, np.array([(row[:, 0] != 0).sum() for row in stored], np.float32)


def colbert(dim: int | None) -> Callable[[Setting], Stored]:
    """MaxSim in float32 over tokens stored as float16, padded to the longest of the candidates."""

    def opened(setting: Setting) -> Stored:
        import torch

        encode, stored, lengths = _colbert_tokens(setting, dim)

        def score(query: str, rows: Sequence[int]) -> FloatArray:
            asked = torch.from_numpy(encode([query], 32)[0][0])
            found = stored[list(rows), : int(lengths[list(rows)].max())]
            # zero tokens have a similarity of nought, and each token some neighbour above it
            best = (torch.from_numpy(found).float() @ asked.T).amax(1)
            return best.sum(-1).numpy()

        return Stored(score, float(lengths.mean()) * stored.shape[2] * 2)

    return opened


def pylate(setting: Setting) -> Stored:
    """PyLate's `rank.rerank` over the same stored tokens."""
    from pylate import rank

    encode, stored, lengths = _colbert_tokens(setting, None)

    def score(query: str, rows: Sequence[int]) -> FloatArray:
        asked = encode([query], 32)[0]
        found = [np.asarray(stored[row, : int(lengths[row])], np.float32) for row in rows]
        (ranked,) = rank.rerank([list(range(len(rows)))], asked, [found])
        scores = np.empty(len(rows), np.float32)
        for each in ranked:
            scores[each["id"]] = each["score"]
        return scores

    return Stored(score, float(lengths.mean()) * stored.shape[2] * 2)


# ==== DiPair's store ====


def _encoder(setting: Setting, backend: Backend) -> Any:
    from dipair_index.encoders.open import open_encoder

    return open_encoder(setting.model, backend=backend)


def _rows(setting: Setting, encoder: Any) -> tuple[Any, Any]:
    """Encoded rows, (passages, bytes), and their codec."""
    from dipair_index.stores.codecs import open_codec

    _, kept, dim, _ = encoder.sizes
    codec = open_codec("int8", tokens_per_passage=kept, dim=dim)
    texts = setting.passages
    rows = fill_rows(
        setting.folder / f"dipair-{encoder.fingerprint}.npy", (len(texts), codec.bytes_per_passage),
        np.uint8, key={"texts": len(texts)},
        chunks=[texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)],
        compute=lambda chunk: codec.encode(encoder.encode_passages(chunk).tokens),
        report=lambda done: print(f"dipair: {done}", file=sys.stderr),
    )  # fmt: skip
    return rows, codec


def dipair(
    backend: Backend = "torch", precision: Precision = "float32"
) -> Callable[[Setting], Stored]:
    """The head over the int8 store."""

    def opened(setting: Setting) -> Stored:
        from dipair_index.rerank.open_scorer import open_token_scorer

        encoder = _encoder(setting, backend)
        stored, codec = _rows(setting, encoder)
        scorer = open_token_scorer(encoder, precision)

        def score(query: str, rows: Sequence[int]) -> FloatArray:
            tokens = encoder.encode_queries([query]).tokens[0]
            return scorer.encoded_logits(tokens, stored[list(rows)], codec)

        return Stored(score, codec.bytes_per_passage)

    return opened


def maxsim(setting: Setting) -> Stored:
    """MaxSim over the tokens of the same store, at unit length."""
    encoder = _encoder(setting, "torch")
    stored, codec = _rows(setting, encoder)

    def score(query: str, rows: Sequence[int]) -> FloatArray:
        asked = _unit(encoder.encode_queries([query]).tokens[0])
        found = _unit(codec.decode(stored[list(rows)]))
        scores: FloatArray = (found @ asked.T).max(1).sum(-1)
        return scores

    return Stored(score, codec.bytes_per_passage)


def _unit(tokens: FloatArray) -> FloatArray:
    unit: FloatArray = tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-8)
    return unit


def system(name: str) -> Callable[[Setting], Stored]:
    """Another head of DiPair's sizes with random weights: for its time alone."""

    def opened(setting: Setting) -> Stored:
        from dipair_index.models.dipair import DiPairConfig, DiPairModel
        from dipair_index.rerank.head import HeadScorer
        from dipair_index.stores.codecs import open_codec

        encoder = _encoder(setting, "torch")
        like = encoder.model.config
        config = DiPairConfig(encoder=like.encoder, dim=like.dim, pooling=like.pooling, system=name)
        n, m, dim = config.max_query_tokens, config.max_passage_tokens, config.token_dim
        codec = open_codec("int8", tokens_per_passage=m, dim=dim)
        shape = (len(setting.passages), m, dim)
        stored = codec.encode(np.random.default_rng(0).standard_normal(shape, np.float32))
        scorer = HeadScorer(DiPairModel(config).eval())

        def score(query: str, rows: Sequence[int]) -> FloatArray:
            tokens = encoder.encode_queries([query]).tokens[0][:n]
            return scorer.encoded_logits(tokens, stored[list(rows)], codec)

        return Stored(score, codec.bytes_per_passage)

    return opened
