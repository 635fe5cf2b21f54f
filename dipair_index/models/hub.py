"""Quick checks of a model's name, before a library asks the hub for it."""

from __future__ import annotations

import re
import time
from pathlib import Path

from dipair_index.words import reason

TIMEOUT = 5.0
"""Seconds to wait for the hub. Its client tries each file six times, for half a minute each."""
REMEMBERED = 60.0
"""Seconds before a hub that could not be reached is asked again."""

OURS = (".model", ".teacher", ".index", ".dataset", ".onnx")
"""The suffixes of the folders and files that the commands of this project write."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

_unreachable: dict[str, tuple[float, str]] = {}
"""The time at which each hub could not be reached, in seconds of `time.monotonic`, and why."""


class NotThereError(OSError):
    """There is no model of this name."""


def check_there(name: str) -> None:
    """Raises `NotThereError` if `name` is no folder and cannot be a model of a reachable hub.

    A model in the hub's local cache needs no connection.
    """
    if not Path(name).is_dir():
        check_may_be_on_hub(name)
        _check_reachable(name)


def check_may_be_on_hub(name: str) -> None:
    """Raises `NotThereError` if `name` can only be a folder's, and there is no such folder."""
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
            # any answer will do: the loader finds out whether the hub has the model
            get_session().head(hf_hub_url(name, "config.json"), timeout=TIMEOUT)
            return
        except Exception as error:  # of httpx, or of requests in older versions
            why = reason(error)
            _unreachable[host] = time.monotonic(), why
    raise NotThereError(
        f"there is no such folder, and {host} cannot be reached for a model of that name: {why}"
    )
