"""How networks are optimised outside the training scripts: AdamW, one step at a time, and two learning-rate schedules.

The downstream networks, the copy detector's embedding and the generative models of the comparison are trained with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel


LRScheduler = torch.optim.lr_scheduler.LRScheduler
Schedule = Callable[[torch.optim.Optimizer], LRScheduler]


def warm_start_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the learning rate at a step from 0 on: a linear warm-up, then a cosine that would be 0 at `steps`.

    Unlike diffusers' schedule, whose first step has the learning rate 0 and is lost, it begins with `1 / warmup`: the trainings
    of the evaluation may be a few dozen steps long.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup)) if steps > warmup else 0.0


def warm_start_cosine(steps: int, warmup: int) -> Schedule:
    """Return the schedule of `warm_start_factor`."""
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_start_factor(step, steps, warmup))


def cosine(steps: int, warmup: int) -> Schedule:
    """Return diffusers' cosine schedule with warm-up, that of its training scripts."""
    return lambda optimizer: get_cosine_schedule_with_warmup(optimizer, warmup, steps)


def one_cycle(steps: int, learning_rate: float) -> Schedule:
    """Return torch's one-cycle schedule (Smith and Topin, arXiv 1708.07120), which moves the momentum against the rate."""
    return lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 1))


class Optimiser:
    """AdamW with a learning-rate schedule and, where asked for, clipped gradients and a moving average of the weights.

    Args:
        parameters: parameters that are trained; a loss may pass through others, which get no gradient.
        learning_rate: learning rate at the schedule's factor 1.
        schedule: makes the schedule of an optimizer.
        weight_decay: decoupled weight decay.
        betas: decay of the running means of gradient and squared gradient.
        max_grad_norm: norm that the gradient of all parameters together is clipped to; None clips nothing.
        ema_max_decay: largest decay of the moving average of the weights; None keeps none.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        learning_rate: float,
        schedule: Schedule,
        *,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        max_grad_norm: float | None = None,
        ema_max_decay: float | None = None,
    ):
        self.parameters = list(parameters)
        self.max_grad_norm = max_grad_norm
        self._optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, foreach=True
        )
        self._schedule = schedule(self._optimizer)
        self._average = None
        if ema_max_decay is not None:
            self._average = EMAModel(
                self.parameters, decay=ema_max_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True
            )

    def step(self, loss: torch.Tensor) -> None:
        """Take one optimisation step down the gradient of a scalar loss."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        if self._average is not None:
            self._average.step(self.parameters)

    def average(self) -> None:
        """Put the averaged weights in the place of the trained ones.

        Raises:
            ValueError: when no average was asked for.
        """
        if self._average is None:
            raise ValueError("No moving average was kept: ema_max_decay is None.")
        self._average.copy_to(self.parameters)
