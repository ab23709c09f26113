"""The one training loop of the comparison: the same draws, optimiser, schedule and averaging for every model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..data.augmentation import AUGMENTATION_DIM, PairAugmentation
from ..data.cases import Cases
from ..data.sampler import StepBatchSampler
from ..optimisation import Optimiser, cosine
from ..progress import Progress
from ..seeds import derived_seed
from .settings import TrainingBudget


MAX_GRAD_NORM = 1.0
WEIGHT_DECAY = 0.01
NUM_LAST_STEPS = 50  # the last loss is their mean
CLASSIFIER_SHARE = 0.1  # of the steps, of the models that are guided by a classifier


class _AugmentedCases(torch.utils.data.Dataset):
    """`(index, augmentation seed)` -> one augmented case."""

    def __init__(self, cases: Cases, augmentation: PairAugmentation | None):
        self.cases, self.augmentation = cases, augmentation

    def __getitem__(self, drawn: tuple[int, int]) -> dict[str, torch.Tensor]:
        index, augmentation_seed = drawn
        joint_sample, labels = self.cases.joint_samples[index], torch.zeros(AUGMENTATION_DIM)
        if self.augmentation is not None:
            joint_sample, labels = self.augmentation(joint_sample, augmentation_seed)
        return {"joint_sample": joint_sample, "class_label": self.cases.class_labels[index], "augmentation_labels": labels}


def count_classes(cases: Cases) -> int:
    """Number of class labels, from 0 to the largest one.

    Raises:
        ValueError: when there are fewer than two different ones.
    """
    labels = cases.class_labels.unique().tolist()
    if len(labels) < 2:
        raise ValueError(f"The cases to train on have the class labels {labels}; at least two are needed.")
    return labels[-1] + 1


def batches(
    cases: Cases,
    budget: TrainingBudget,
    *,
    steps: int,
    seed: int,
    device: torch.device | str,
    augmentation: PairAugmentation | None,
    progress: str | None = None,
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of a training, classes drawn equally often, a function of the seed alone.

    torch's global generator, on the CPU and on the device, is seeded for each step.

    Args:
        progress: what is trained, for the bar or the line of a log; None keeps quiet.

    Yields:
        `joint_sample` `[B, 3, H, W]`, `class_label` `[B]` and `augmentation_labels` `[B, AUGMENTATION_DIM]`.
    """
    loader = torch.utils.data.DataLoader(
        _AugmentedCases(cases, augmentation),
        batch_sampler=StepBatchSampler(cases.class_labels.tolist(), budget.batch_size, steps, seed),
        num_workers=budget.num_workers,
    )
    with Progress(steps, progress or "", show=progress is not None) as shown:
        for step, batch in enumerate(loader):
            torch.manual_seed(derived_seed(seed, step))
            yield {name: value.to(device) for name, value in batch.items()}
            shown.update()


def optimiser_for(
    parameters: Iterable[torch.nn.Parameter],
    budget: TrainingBudget,
    steps: int,
    *,
    learning_rate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.99),
) -> Optimiser:
    """Return the optimiser that every model gets: warm-up, cosine, clipped gradients, moving average of the weights.

    Args:
        parameters: parameters that are trained.
        budget: what its numbers come from.
        steps: optimisation steps; the warm-up takes no more than a tenth of them.
        learning_rate: that of the budget when None.
        betas: of AdamW.
    """
    return Optimiser(
        parameters,
        budget.learning_rate if learning_rate is None else learning_rate,
        cosine(steps, warmup=min(budget.num_warmup_steps, steps // 10)),
        weight_decay=WEIGHT_DECAY,
        betas=betas,
        max_grad_norm=MAX_GRAD_NORM,
        ema_max_decay=budget.ema_max_decay,
    )


def train(
    network: torch.nn.Module,
    cases: Cases,
    budget: TrainingBudget,
    loss_of: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    *,
    steps: int,
    seed: int,
    device: torch.device | str,
    progress: str | None = None,
) -> dict[str, Any]:
    """Train a network in place; it ends with the averaged weights, frozen, in evaluation mode.

    Args:
        loss_of: batch (see `batches`) -> scalar loss.

    Returns:
        Facts: `steps`, `seconds`, `last_loss`.

    Raises:
        ValueError: when the loss is not finite at the end.
    """
    network.to(device).train()
    optimiser = optimiser_for(network.parameters(), budget, steps)
    losses = LastLosses()
    start = time.monotonic()
    drawn = batches(cases, budget, steps=steps, seed=seed, device=device, augmentation=PairAugmentation(), progress=progress)
    for batch in drawn:
        loss = loss_of(batch)
        optimiser.step(loss)
        losses.add(loss)
    optimiser.average()
    freeze(network)
    return {"steps": steps, "seconds": time.monotonic() - start, "last_loss": losses.mean(type(network).__name__)}


def freeze(network: torch.nn.Module) -> None:
    network.requires_grad_(False).eval()


class LastLosses:
    """The latest losses; they stay on the device, so that adding one does not wait for it."""

    def __init__(self):
        self._losses: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor) -> None:
        self._losses = [*self._losses[1 - NUM_LAST_STEPS :], loss.detach()]

    def mean(self, name: str) -> float:
        mean = torch.stack(self._losses).mean().item()
        if not np.isfinite(mean):
            raise ValueError(f"The loss of {name} is not finite at the end of its training ({mean}): lower the learning rate.")
        return mean


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device | str):
    """torch's global generators start from `seed` inside, and are outside as if nothing had been drawn."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def total_facts(parts: dict[str, dict[str, Any]], networks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    """The facts of a model from those of its trainings, by network."""
    return {
        "steps": sum(part["steps"] for part in parts.values()),
        "seconds": sum(part["seconds"] for part in parts.values()),
        "last_loss": {name: part["last_loss"] for name, part in parts.items()},
        "num_parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
    }
