"""Datasets of the Hugging Face hub, which are named `hf:OWNER/NAME[/PATH][@REVISION]`."""

from __future__ import annotations

import re
from pathlib import Path

from dipair_index.errors import DownloadError, FormatError
from dipair_index.words import reason

PREFIX = "hf:"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<path>[^@]+))?(@(?P<revision>.+))?")


def local_copy(source: str | Path, part: str) -> str | Path:
    """Returns the source itself, or the folder or file to which a dataset of the hub was fetched.

    Of a dataset, only PATH is fetched, a file or a folder; without it, the files and the folder
    that are called `part`. They stay in the hub's cache, so that they are fetched once.

    Raises `FormatError` if that is no name or has no such files, and `DownloadError` if it cannot
    be fetched.
    """
    if not str(source).startswith(PREFIX):
        return source
    found = _NAME.fullmatch(str(source).removeprefix(PREFIX))
    if found is None:
        raise FormatError(
            f"{source} is not a dataset of the hub: expected hf:OWNER/NAME, and perhaps /PATH of "
            "a file or a folder in it"
        )
    path, revision = found["path"], found["revision"]
    wanted = [path, f"{path}/*"] if path else [f"{part}.*", f"{part}/*"]
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            found["repo"], repo_type="dataset", revision=revision, allow_patterns=wanted
        )
    except Exception as error:  # of the hub's client, of its network library, or of the disk
        raise DownloadError(
            f"{source} cannot be fetched ({reason(error)}): check the name and the network; "
            "`hf auth login` gives access to what is not public"
        ) from error
    local = Path(folder) / (path or "")
    if not local.exists() or (local.is_dir() and not any(local.iterdir())):
        raise FormatError(f"{source} holds no {' or '.join(wanted)}: add the PATH of what is meant")
    return local
