"""`dipair-index serve`: an index or a model over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dipair_index.cli._console import remark
from dipair_index.cli._options import backend_option, compute_options, index_dirs_option
from dipair_index.cli._types import COUNT, NOT_NEGATIVE, NOT_NEGATIVE_COUNT, POSITIVE, SIZE
from dipair_index.cli.build import build_sample, lacks_sample
from dipair_index.words import counted

if TYPE_CHECKING:
    from dipair_index.models.systems import Backend
    from dipair_index.rerank.serving.settings import ServerSettings
    from dipair_index.rerank.serving.state import Served

KEY_VARIABLE = "DIPAIR_API_KEY"


@click.command()
@index_dirs_option("Serve this index")
@click.option("--model", help="Without --index-dir, serve this DiPair model alone")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen at this address")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Listen at this port; 0 is any free one",
)
@click.option("--allow-writes", is_flag=True, help="Let clients add and delete passages")
@click.option(
    "--max-documents",
    type=COUNT,
    default=1000,
    show_default=True,
    help="Take at most this many documents in a request",
)
@click.option(
    "--max-body",
    type=SIZE,
    default="8MiB",
    show_default=True,
    help="Take bodies of at most this many bytes, such as 512KiB or 8MiB",
)
@click.option(
    "--queue",
    type=NOT_NEGATIVE_COUNT,
    default=64,
    show_default=True,
    help="Let at most this many requests wait; more are answered 429",
)
@click.option(
    "--deadline",
    type=POSITIVE,
    default=30.0,
    show_default=True,
    help="Answer 504 to a request that takes more than this many seconds",
)
@click.option(
    "--grace",
    type=NOT_NEGATIVE,
    default=30.0,
    show_default=True,
    help="After SIGTERM, let requests that have begun take at most this many seconds",
)
@click.option(
    "--cache-mb",
    type=NOT_NEGATIVE_COUNT,
    default=256,
    show_default=True,
    help="Keep encoded texts in at most this many MiB of memory",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help=f"Read the key that clients must send from this file  [default: ${KEY_VARIABLE}]",
)
@click.option("--no-auth", is_flag=True, help="Serve other hosts than this one without a key")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin, such as https://example.org, ask; may be repeated",
)
@click.option(
    "--root-path", default="", metavar="PATH", help="Serve below this path of a reverse proxy"
)
@click.option("--log-json", is_flag=True, help="Log each request as a JSON object")
@compute_options("Compute")
@backend_option()
@click.pass_context
def serve(
    ctx: click.Context,
    index_dir: tuple[Path, ...],
    model: str | None,
    host: str,
    port: int,
    allow_writes: bool,
    max_documents: int,
    max_body: int,
    queue: int,
    deadline: float,
    grace: float,
    cache_mb: int,
    api_key_file: Path | None,
    no_auth: bool,
    cors_origins: tuple[str, ...],
    root_path: str,
    log_json: bool,
    device: str,
    backend: Backend,
) -> None:
    """Rerank, search and embed over HTTP, for the clients of Cohere, Jina, OpenAI and others.

    Clients are pointed here by their base URL. Without --index-dir and an index in ./dipair.index,
    an index of the bundled sample is built there first. The key that clients must send is read
    from the variable DIPAIR_API_KEY, or from a file.

    \b
    Example:
      dipair-index serve --index-dir passages.index
      DIPAIR_API_KEY=secret dipair-index serve --host 0.0.0.0 --allow-writes
    """
    from dipair_index.optional import require

    require("serve", "serving over HTTP")
    from dipair_index.rerank.serving.server import is_loopback, listen, run, url_of
    from dipair_index.rerank.serving.settings import ServerSettings

    key = _api_key(api_key_file)
    if not key and not no_auth and not is_loopback(host):
        raise click.UsageError(
            f"--host {host} is reached from other machines, so a key is needed: set {KEY_VARIABLE} "
            "or --api-key-file, or say --no-auth"
        )
    settings = ServerSettings(
        api_key=key,
        allow_writes=allow_writes,
        max_documents=max_documents,
        max_body=max_body,
        queue=queue,
        deadline=deadline,
        grace=grace,
        cors_origins=cors_origins,
        root_path=root_path.rstrip("/"),
    )
    # before the model is loaded, since the port may be in use
    listening = listen(host, port)
    is_default = ctx.get_parameter_source("index_dir") is ParameterSource.DEFAULT
    alone = model is not None and is_default
    served = _served(
        () if alone else index_dir, model, settings, cache_mb, device, backend,
        sample=is_default,
    )  # fmt: skip
    served.warm_up()
    what = counted(len(served.index), "passage") if served.index else "a model without an index"
    remark(f"serving {what} at {url_of(listening)}")
    run(served, listening, log_json=log_json)


def _served(
    index_dirs: tuple[Path, ...],
    model: str | None,
    settings: ServerSettings,
    cache_mb: int,
    device: str,
    backend: Backend,
    *,
    sample: bool,
) -> Served:
    """Opens the indexes, or the model alone if there is none."""
    from dipair_index.encoders.open import open_encoder
    from dipair_index.rerank.index import DiPairIndex
    from dipair_index.rerank.serving.state import Served
    from dipair_index.rerank.text_cache import TextCache
    from dipair_index.stores.manifest import Manifest

    cache = TextCache(cache_mb * 2**20)
    if not index_dirs:
        return Served.of_model(open_encoder(model, backend=backend, device=device), cache, settings)
    if sample and lacks_sample(index_dirs[0]):
        build_sample(index_dirs[0], model=model, device=device, backend=backend)
    # says what is wrong with the index before a model is loaded
    name = model or Manifest.read(index_dirs[0]).model
    encoder = open_encoder(name, backend=backend, device=device)
    return Served.of_index(DiPairIndex.open(index_dirs, encoder, cache=cache), cache, settings)


def _api_key(file: Path | None) -> str:
    """Returns the key of the file or the variable; an empty one is refused."""
    if file is not None:
        # as a header of HTTP can hold it
        key, source = file.read_bytes().decode("ascii", "replace").strip(), f"the file {file}"
    elif KEY_VARIABLE in os.environ:
        key, source = os.environ[KEY_VARIABLE].strip(), f"the variable {KEY_VARIABLE}"
    else:
        return ""
    if not key:
        raise click.UsageError(f"{source} holds no key: write one, or take it away")
    return key
