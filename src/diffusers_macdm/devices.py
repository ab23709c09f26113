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
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError) as error:  # an unknown name; a device that is not here, or holds no numbers
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ValueError(f"device={str(device)!r} is not available: {' and '.join(there)} can be used here.") from error
    return torch.device(device)
