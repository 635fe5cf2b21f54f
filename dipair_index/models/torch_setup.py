"""Prepares torch: checks that it is installed and has the device, and silences transformers."""

from __future__ import annotations

from dipair_index.errors import SettingsError
from dipair_index.models.hub import check_may_be_on_hub, check_there
from dipair_index.models.sources import loading
from dipair_index.optional import require


def prepare_torch(device: str = "cpu", *, needed_by: str = "the torch backend") -> None:
    """Checks that torch can be used; to be called before a module that imports torch.

    `needed_by` is the noun with which the sentence about a missing package begins. Raises
    `MissingPackageError` if torch is not installed, and `SettingsError` if torch has no such device
    here.
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
    """Checks that torch can be used to load the model `source`, a folder or hub name.

    Raises `ModelError` before torch is imported, which takes seconds, if there can be no such
    model: the sentence calls the model a `kind` and ends with `following`, the next step. Raises
    `MissingPackageError` and `SettingsError` as `prepare_torch` does.
    """
    with loading(kind, source, following):
        check_may_be_on_hub(source)
    require("torch", needed_by)
    with loading(kind, source, following):
        check_there(source)
    prepare_torch(device, needed_by=needed_by)
