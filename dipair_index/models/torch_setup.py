"""Prepares torch: it must be installed and have the device, and transformers keeps quiet."""

from __future__ import annotations

from dipair_index.errors import SettingsError
from dipair_index.models.hub import check_may_be_on_hub, check_there
from dipair_index.models.sources import loading
from dipair_index.optional import require


def prepare_torch(device: str = "cpu", *, needed_by: str = "the torch backend") -> None:
    """Call it before the first import of a module that imports torch.

    `needed_by` is the noun that the sentence about a missing package begins with. Raises
    `MissingPackageError` where it is not installed, and `SettingsError` where torch has no such
    device here.
    """
    require("torch", needed_by)
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it has CUDA
        raise SettingsError(f"there is no device {device!r} here: use cpu") from error


def prepare_torch_for(
    source: str, *, kind: str, following: str, needed_by: str, device: str = "cpu"
) -> None:
    """As `prepare_torch`, before a model of a folder or hub name is loaded.

    Raises `ModelError`, which calls the model a `kind` and says `following` at its end, where it
    can be known before torch is imported that there is none: that takes seconds.
    """
    with loading(kind, source, following):
        check_may_be_on_hub(source)
    require("torch", needed_by)
    with loading(kind, source, following):
        check_there(source)
    prepare_torch(device, needed_by=needed_by)
