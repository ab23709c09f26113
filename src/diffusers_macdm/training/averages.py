"""Means of what a training logs, over steps and processes."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator


class Averages:
    """Running means by name of values that may be NaN ("does not apply"), over all processes, until they are read.

    The sums stay on the device: adding does not wait for it."""

    def __init__(self):
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            sum_and_count = torch.stack([value.nansum(), (~value.isnan()).sum().float()])  # [2]
            self._sums[name] = self._sums[name] + sum_and_count if name in self._sums else sum_and_count

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        names = sorted(self._sums)
        sums = accelerator.reduce(torch.stack([self._sums[name] for name in names]), reduction="sum")  # [N, 2]
        self._sums.clear()
        return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True) if count}


def by_quartile(name: str, values: torch.Tensor, timesteps: torch.Tensor, num_timesteps: int) -> dict[str, torch.Tensor]:
    """Split `values` by the quartile of their timestep: `name/q0` (nearly clean) to `name/q3` (nearly noise)."""
    quartile = timesteps * 4 // num_timesteps
    return {f"{name}/q{q}": values.masked_fill(quartile != q, math.nan) for q in range(4)}
