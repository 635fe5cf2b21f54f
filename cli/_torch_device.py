"""What a command does before it uses torch."""

from __future__ import annotations


def prepare_torch(device: str) -> None:
    """Refuses a device that torch does not have here; keeps transformers quiet."""
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from dipair_index.errors import SettingsError

    disable_progress_bar()
    set_verbosity_error()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it has CUDA
        raise SettingsError(f"there is no device {device!r} here: use cpu") from error
