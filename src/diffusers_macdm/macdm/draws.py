"""Random numbers for the samples of a training batch: from one generator for all, or from one for each sample.

With one for each, what a sample is shown does not depend on the others of its batch, nor on how many processes share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Draws:
    """Random numbers of a batch of B samples, one after the other from a single generator.

    Args:
        batch_size: B.
        device: where the numbers are drawn.
        generator: None is torch's global one.
    """

    def __init__(self, batch_size: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None):
        self.batch_size, self.device, self.generator = batch_size, device, generator

    def uniform(self) -> torch.Tensor:
        """Return numbers in [0, 1), `[B]`."""
        return torch.rand(self.batch_size, device=self.device, generator=self.generator)

    def integer(self, high: int) -> torch.Tensor:
        """Return whole numbers from 0 to `high - 1`, int64 `[B]`."""
        return torch.randint(high, (self.batch_size,), device=self.device, generator=self.generator)

    def choice(self, weights: torch.Tensor) -> torch.Tensor:
        """Return whole numbers, int64 `[B]`, each as often as its weight; `weights` are `[K]`, or `[B, K]` for each sample."""
        if weights.ndim == 1:
            return torch.multinomial(weights, self.batch_size, replacement=True, generator=self.generator)
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        """Return standard normal numbers of the shape, dtype and device of `like`, `[B, ...]`."""
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=self.generator)


class SampleDraws(Draws):
    """Random numbers of a batch, those of each sample from a generator of its own.

    Args:
        seeds: one for each sample.
        device: where the numbers are drawn; their values are another device's as far as its generator is another.
    """

    AT_ONCE = 16  # uniform numbers of a sample: one call of its generator instead of many

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        super().__init__(len(seeds), device)
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._drawn: list[torch.Tensor] = []

    def uniform(self) -> torch.Tensor:
        if not self._drawn:
            drawn = [torch.rand(self.AT_ONCE, device=self.device, generator=generator) for generator in self.generators]
            self._drawn = list(torch.stack(drawn, dim=1).flip(0))  # [AT_ONCE] of [B], the first one last
        return self._drawn.pop()

    def uniform_like(self, like: torch.Tensor) -> torch.Tensor:
        """Return numbers in [0, 1), float32 of the shape of `like`, `[B, ...]`."""
        drawn = [torch.rand(like.shape[1:], device=like.device, generator=generator) for generator in self.generators]
        return torch.stack(drawn)

    def integer(self, high: int) -> torch.Tensor:
        return (self.uniform().double() * high).long()

    def choice(self, weights: torch.Tensor) -> torch.Tensor:
        cumulative = weights.double().cumsum(dim=-1).expand(self.batch_size, -1)  # [B, K]
        aimed = self.uniform().double()[:, None] * cumulative[:, -1:]  # [B, 1], below the sum
        return torch.searchsorted(cumulative.contiguous(), aimed, right=True)[:, 0]

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        drawn = [
            torch.randn(like.shape[1:], dtype=like.dtype, device=like.device, generator=generator)
            for generator in self.generators
        ]
        return torch.stack(drawn)
