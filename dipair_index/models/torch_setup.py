"""Prepares torch: it must be installed and have the device, and transformers keeps quiet."""

from __future__ import annotations

from dipair_index.errors import SettingsError
from dipair_index.optional import Extra, require


def prepare_torch(
    device: str = "cpu", *, needed_by: str = "the torch backend", extra: Extra = "torch"
) -> None:
    """Call it before the first import of a module that imports torch.

    `needed_by` is the noun that the sentence about a missing package begins with. Raises
    `MissingPackageError` where a package of `extra` is missing, and `SettingsError` where torch
    has no such device here.
    """
    require(extra, needed_by)
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it has CUDA
        raise SettingsError(f"there is no device {device!r} here: use cpu") from error
