"""Models that are no folders: whether a hub can be asked for them, found out before it is."""

from __future__ import annotations

import re
import time
from pathlib import Path

from dipair_index.words import reason

TIMEOUT = 5.0
"""Seconds for the hub's answer. Its own client tries six times a file, for half a minute each."""
REMEMBERED = 60.0
"""Seconds for which a hub that could not be reached is not asked again."""

OURS = (".model", ".teacher", ".index", ".dataset", ".onnx")
"""What the commands of this project call their folders and files."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

_unreachable: dict[str, tuple[float, str]] = {}
"""When a hub could not be reached, and why."""


class NotThereError(OSError):
    """No model is where its name says."""


def check_there(name: str) -> None:
    """Raises `NotThereError` at once where `name` is no folder and no hub can be asked for it.

    Models that are in the hub's cache need no hub.
    """
    if not Path(name).is_dir():
        check_may_be_on_hub(name)
        _check_reachable(name)


def check_may_be_on_hub(name: str) -> None:
    """Raises `NotThereError` for what can only be a folder, and is none."""
    path = Path(name)
    looks_local = (
        not _HUB_NAME.fullmatch(name)
        or path.suffix in OURS
        or path.exists()
        or ("/" in name and path.parent.is_dir())
    )
    if looks_local and not path.is_dir():
        raise NotThereError(
            "it is a file, not a folder" if path.exists() else "there is no such folder"
        )


def _check_reachable(name: str) -> None:
    from huggingface_hub import constants, get_session, hf_hub_url, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    host = constants.ENDPOINT
    when, why = _unreachable.get(host, (-REMEMBERED, ""))
    if time.monotonic() - when >= REMEMBERED:
        try:
            # whatever it answers, it can be asked; what it has is then the loader's business
            get_session().head(hf_hub_url(name, "config.json"), timeout=TIMEOUT)
            return
        except Exception as error:  # of httpx, or of requests in older versions
            why = reason(error)
            _unreachable[host] = time.monotonic(), why
    raise NotThereError(
        f"there is no such folder, and {host} cannot be reached for a model of that name: {why}"
    )
