"""What every generative model of the comparison is: it learns from cases and draws new ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ..data.cases import Cases
from ..data.sampler import in_cycles
from ..macdm.joint_sample import MASK_CHANNELS, RADIOGRAPH, join, split
from ..macdm.refinement import refine_masks
from ..seeds import pair_seed
from .settings import TrainingBudget


MASK_SOURCES = ("generated", "given", "none")


class GenerativeModel(ABC):
    """A generative model: `fit` once, then `sample`.

    Attributes:
        name: as the command line calls it.
        title: as the report calls it.
        description: one line with the source, for the report.
        makes_masks: "generated" (with the radiograph), "given" (real masks go in and are kept) or "none".
        num_classes: class labels that it knows, after `fit`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    makes_masks: ClassVar[str]
    num_classes: int

    @classmethod
    def check_size(cls, size: int, budget: TrainingBudget) -> None:
        """Raise `ValueError` unless networks of this budget take joint samples of this side, in pixels."""
        budget.check_size(size)

    @abstractmethod
    def fit(
        self, cases: Cases, budget: TrainingBudget, *, seed: int, device: torch.device | str = "cpu", progress: bool = False
    ) -> dict[str, Any]:
        """Train on `cases` alone; everything random follows from `seed`.

        Returns:
            Facts: `steps`, `seconds`, `num_parameters` (of what samples) and `last_loss`, by network where there are several.

        Raises:
            ValueError: when the cases have fewer than two class labels, their size does not fit, or a loss is not finite.
        """

    @abstractmethod
    def draw(
        self, class_labels: torch.Tensor, generators: Sequence[torch.Generator], masks: torch.Tensor | None
    ) -> torch.Tensor:
        """One batch of raw samples.

        Args:
            class_labels: int64 `[B]`, on the CPU.
            generators: one on the CPU for each sample, the only source of randomness: a sample is the same in any batch.
            masks: `[B, 2, H, W]` in {-1, 1}, for a model with `makes_masks` "given" alone.

        Returns:
            `[B, 3, H, W]`, or `[B, 1, H, W]` from a model that generates no masks; in [-1, 1], not clipped.
        """

    def sample(
        self, class_labels: Sequence[int] | torch.Tensor, *, seed: int, batch_size: int = 64, given: Cases | None = None
    ) -> Cases:
        """Draw one pair for each label: radiographs with the 256 values of a file, masks thresholded and refined.

        Args:
            given: real cases whose masks go into a model with `makes_masks` "given": of each label's cases in shuffled cycles.

        Returns:
            Cases, each a patient of its own. The masks of a model that makes none are NaN.

        Raises:
            ValueError: for a label that the model does not know, or where masks are needed and not given.
        """
        labels = torch.as_tensor(class_labels, dtype=torch.int64)
        unknown = sorted(set(labels.tolist()) - set(range(self.num_classes)))
        if unknown:
            raise ValueError(f"class_labels {unknown} are not known to {self.name}: 0 to {self.num_classes - 1} are.")
        masks = None
        if self.makes_masks == "given":
            if given is None:
                raise ValueError(f"{self.name} makes radiographs for given masks: give cases that have them.")
            masks = given.joint_samples[masks_for(labels, given.class_labels, seed), MASK_CHANNELS]  # [N, 2, H, W]
        batches = []
        for begin in range(0, len(labels), batch_size):
            chosen = slice(begin, begin + batch_size)
            generators = [
                torch.Generator().manual_seed(pair_seed(seed, index))
                for index in range(begin, min(begin + batch_size, len(labels)))
            ]
            raw = self.draw(labels[chosen], generators, None if masks is None else masks[chosen])
            batches.append(raw.float().cpu())
        raw = torch.cat(batches)  # [N, 1 or 3, H, W]
        if self.makes_masks == "given":
            samples = torch.cat([eight_bits(raw[:, :1]), masks], dim=1)
        elif self.makes_masks == "none":
            samples = torch.cat([eight_bits(raw), torch.full_like(raw, torch.nan).expand(-1, 2, -1, -1)], dim=1)
        else:
            samples = finished(raw, labels)
        return Cases.of(samples, labels, names=[f"{self.name}-{index:06d}" for index in range(len(labels))])


def eight_bits(radiographs: torch.Tensor) -> torch.Tensor:
    """Clip to [-1, 1] and round to the 256 values that an 8-bit file has."""
    return (((radiographs.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1).float()


def finished(raw: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
    """What follows the sampling of pairs, alike for all models: `[N, 3, H, W]` -> the same with 8-bit radiographs and masks
    in {-1, 1}, thresholded and refined (`refinement`)."""
    _, anatomy_masks, lesion_masks = split(raw)  # [N, H, W] each
    refined = [
        refine_masks(anatomy.numpy(), lesion.numpy(), label)
        for anatomy, lesion, label in zip(anatomy_masks >= 0.5, lesion_masks >= 0.5, class_labels.tolist(), strict=True)
    ]
    anatomy_masks, lesion_masks = (torch.from_numpy(np.stack(masks)) for masks in zip(*refined, strict=True))
    joint_samples = join(torch.zeros_like(raw[:, RADIOGRAPH]), anatomy_masks, lesion_masks)  # [N, 3, H, W]
    joint_samples[:, RADIOGRAPH] = eight_bits(raw[:, RADIOGRAPH])
    return joint_samples


def masks_for(class_labels: torch.Tensor, given_labels: torch.Tensor, seed: int) -> torch.Tensor:
    """For each label the number of a given case that has it, in shuffled cycles: none is used twice before all are used once.

    Raises:
        ValueError: when no given case has a label that is asked for.
    """
    chosen = torch.empty_like(class_labels)
    for label in class_labels.unique().tolist():
        members = (given_labels == label).nonzero()[:, 0].numpy()
        if not len(members):
            raise ValueError(f"None of the given cases has the label {label}, so there are no masks for it.")
        places = (class_labels == label).nonzero()[:, 0]
        chosen[places] = torch.from_numpy(in_cycles(members, len(places), [seed, label]))
    return chosen
