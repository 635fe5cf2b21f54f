"""Checks that an index holds what is asked of it, and that an encoder is the one that built it."""

from __future__ import annotations

import shlex
from pathlib import Path

from dipair_index.encoders.base import TextEncoder
from dipair_index.encoders.sentence_embedders import SentenceEmbedder, made_by, open_embedder
from dipair_index.errors import DirectoryError, OtherModelError
from dipair_index.models.packaged import PACKAGED_MODELS
from dipair_index.models.sources import lasting_name
from dipair_index.stores.manifest import PASSAGE, Manifest


def refuse_other_sides(manifest: Manifest, index_dir: str | Path) -> None:
    """Raises `DirectoryError` if an index holds other texts than passages, which are ranked."""
    if manifest.side != PASSAGE:
        raise DirectoryError(
            f"{index_dir} holds texts of the side {manifest.side}, and only passages are ranked: "
            "give an index that was built without --side, or score pairs with `dipair-index match`"
        )


def check_built_by(encoder: TextEncoder, manifest: Manifest, index_dir: str | Path) -> None:
    """Raises `OtherModelError` if `encoder` is not the one that built an index."""
    if encoder.fingerprint == manifest.model_fingerprint:
        return
    if lasting_name(encoder.name) == manifest.model in PACKAGED_MODELS:
        raise OtherModelError(
            f"{index_dir} was built by the {manifest.model} model of another version: encode its "
            f"texts with today's by `dipair-index build --from {shlex.quote(str(index_dir))} "
            f"--model {manifest.model} --index-dir NEW`"
        )
    raise OtherModelError(
        f"{index_dir} was built by the model {manifest.model} ({manifest.model_fingerprint}), "
        f"but {encoder.name} is {encoder.fingerprint}: name the model it was built by, or "
        "build it again"
    )


def open_fitting(
    manifest: Manifest,
    index_dir: str | Path,
    encoder: TextEncoder,
    opened: SentenceEmbedder | None = None,
) -> SentenceEmbedder:
    """Returns the embedder of an index: `opened`, if that is the same one.

    Raises `DirectoryError` if `encoder`, or the embedder of the recorded name, has another
    fingerprint than when the index was built.
    """
    check_built_by(encoder, manifest, index_dir)
    if opened is not None and made_by(opened, manifest.embedder_fingerprint):
        return opened
    embedder = open_embedder(manifest.embedder, dual_encoder=encoder, device=encoder.device)
    if not made_by(embedder, manifest.embedder_fingerprint):
        raise DirectoryError(
            f"the vectors in {index_dir} are those of {manifest.embedder} "
            f"({manifest.embedder_fingerprint}), but {embedder.name} is now "
            f"{embedder.fingerprint}: build it again"
        )
    return embedder
