"""Where networks run."""

from __future__ import annotations

import torch


def available_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; "cuda" where there is one, else "cpu", when None.

    Raises:
        ValueError: when there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name; a CUDA device where there is none
        raise ValueError(f"device={str(device)!r} is not available: {str(error).splitlines()[0]}") from error
    return torch.device(device)
