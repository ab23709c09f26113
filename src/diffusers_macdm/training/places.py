"""What is random in a training step, as a function of (seed, place in the stream of cases) alone.

All processes share one stream of cases (`StepBatchSampler`); noise, timesteps, label dropout and dropout of the case at a place
come from a generator that is seeded by this place. So one, two and four processes with the same global batch train the same
weights up to rounding, a resumed training goes on exactly, by whatever number of processes, and a checkpoint needs no random
state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..macdm.draws import SampleDraws
from ..seeds import derived_seed
from .settings import TrainingSettings


NOISE = 1  # what the seed is for: the augmentation of the same case has that of (seed, place) alone


def draws_at(settings: TrainingSettings, micro_step: int, rank: int, num_processes: int, device: torch.device) -> SampleDraws:
    """Return the random numbers of the batch that a process takes in a micro-step."""
    first = (micro_step * num_processes + rank) * settings.train_batch_size
    places = range(first, first + settings.train_batch_size)
    return SampleDraws([derived_seed(settings.seed, place, NOISE) for place in places], device)


class SampleDropout(torch.nn.Dropout):
    """Dropout of which each sample of the batch has its own random numbers, for as long as there are `draws`."""

    draws: SampleDraws | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:  # [B, ...]
        if not self.training or self.draws is None:
            return super().forward(hidden)
        kept = self.draws.uniform_like(hidden) >= self.p
        return hidden * kept.to(hidden.dtype) / (1 - self.p)


def put_sample_dropout(model: torch.nn.Module) -> list[SampleDropout]:
    """Put a `SampleDropout` into the place of each dropout layer that drops anything; return them."""
    layers = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Dropout and child.p > 0:
                layers.append(SampleDropout(child.p).train(child.training))
                setattr(module, name, layers[-1])
    return layers


@contextmanager
def drawing(layers: list[SampleDropout], draws: SampleDraws) -> Iterator[None]:
    """Let the dropout layers draw from `draws`."""
    for layer in layers:
        layer.draws = draws
    try:
        yield
    finally:
        for layer in layers:
            layer.draws = None
