"""Small real models: random weights, a vocabulary of a few dozen pieces, nothing downloaded."""

from __future__ import annotations

import logging
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dipair_index.encoders.dual_encoder import DualEncoder

WORDS = [
    "the",
    "a",
    "of",
    "and",
    "in",
    "to",
    "is",
    "how",
    "what",
    "why",
    "does",
    "bees",
    "honey",
    "dance",
    "winter",
    "queen",
    "volcano",
    "lava",
    "ash",
    "erupts",
    "mountain",
    "tea",
    "leaves",
    "green",
    "black",
    "oxidation",
    "moon",
    "tide",
    "gravity",
    "sun",
    "light",
    "bread",
    "dough",
    "yeast",
    "piano",
    "keys",
    "strings",
    "solar",
    "panels",
    "current",
    "heat",
    "water",
    "ice",
    "glacier",
    "river",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small lose more to a second thread than they gain."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """As `tmp_path`, but in memory where that can be had: for tests that sync many files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def mounted() -> Callable[..., Iterator[Path]]:
    """Mounts something at `place` for a fixture to yield, where this process may."""

    def mount(*options: str, place: Path) -> Iterator[Path]:
        place.mkdir()
        try:
            subprocess.run(
                ["mount", *options, str(place)], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"nothing can be mounted here: {reason.strip()}")
        yield place
        subprocess.run(["umount", "--lazy", str(place)], check=True)

    return mount


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket on a server in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/tests", method="PUT")).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield "s3://tests"
    server.stop()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [prefix + chr(code) for code in range(97, 123) for prefix in ("", "##")]
    vocabulary = {piece: row for row, piece in enumerate(special + WORDS + letters[2:])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A random BERT of two layers and width 32, saved with its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=160,
        # BERT's 0.02 makes all random embeddings alike at this width
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("encoder")
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_tokenizer: Any
) -> Path:
    """A random DiPair model (N=4, M=8, D=16), saved with its tokenizer."""
    import torch

    from dipair_index.models.dipair import DiPairModel

    torch.manual_seed(1)
    model = DiPairModel.from_encoder(str(tiny_encoder_dir), dim=16, head_intermediate=32)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_model(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_tokenizer: object
) -> Callable[..., DualEncoder]:
    """Saves a model of random weights, none of them zero or one, without graphs."""
    import torch

    from dipair_index.encoders.dual_encoder import DualEncoder
    from dipair_index.models.dipair import DiPairModel

    def make(half: bool = False, **settings: object) -> DualEncoder:
        torch.manual_seed(3)
        settings = {"dim": 16, "head_intermediate": 32, **settings}
        model = DiPairModel.from_encoder(str(tiny_encoder_dir), **settings)
        with torch.no_grad():
            for parameter in model.head.parameters():
                spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
                parameter.add_(torch.randn_like(parameter) * spread)
        folder = tmp_path_factory.mktemp("model")
        (model.half() if half else model).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return DualEncoder.load(folder)

    return make


@pytest.fixture(scope="session")
def exported(make_model: Callable[..., DualEncoder]) -> DualEncoder:
    """A model in half precision, with its graphs."""
    from dipair_index.rerank.onnx_export import export_onnx

    encoder = make_model(half=True, similarity_residual="maxsim", pooling="mean")
    export_onnx(encoder)
    return encoder


@pytest.fixture
def int8_model(make_model: Callable[..., DualEncoder], tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A model whose weights are stored in int8, without graphs."""
    from dipair_index.models.weights import save_weights

    save_weights(make_model().model, tmp_path, codec="int8")
    tiny_tokenizer.save_pretrained(tmp_path)
    return tmp_path
