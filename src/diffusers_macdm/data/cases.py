"""The pairs of one split, at one size, in memory: what every measurement and every generative model of the comparison takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from ..macdm.joint_sample import ANATOMY_MASK, CHANNELS, LESION_MASK, MASKS, RADIOGRAPH
from .dataset import PairDataset
from .loading import load_pairs


UNKNOWN_PATIENT = "\0"  # before the name of a case whose patient is not given; no id of a set begins so


@dataclass(frozen=True)
class Cases:
    """N pairs.

    Attributes:
        joint_samples: float32 `[N, 3, H, W]` in [-1, 1]: radiograph, anatomy mask, lesion mask. NaN where a set or a model has
            no such mask (see `known_masks`), so that it cannot be taken for an empty one.
        class_labels: int64 `[N]`; 0 is normal, every other label has a lesion.
        names: case names.
        patient_ids: a case without one is a patient of its own (`UNKNOWN_PATIENT` and its name).
        sites: None where not given.
    """

    joint_samples: torch.Tensor
    class_labels: torch.Tensor
    names: tuple[str, ...]
    patient_ids: tuple[str, ...]
    sites: tuple[str | None, ...]

    def __post_init__(self):
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Cases of different numbers: {lengths}.")

    @classmethod
    def of(
        cls,
        joint_samples: torch.Tensor,
        class_labels: Sequence[int] | torch.Tensor,
        names: Sequence[str] | None = None,
        patient_ids: Sequence[str | None] | None = None,
        sites: Sequence[str | None] | None = None,
    ) -> Cases:
        """Fill in what is not given: names by number, each case a patient of its own, no sites."""
        count = len(joint_samples)
        names = tuple(f"case-{index:06d}" for index in range(count)) if names is None else tuple(names)
        patients = [None] * count if patient_ids is None else patient_ids
        return cls(
            joint_samples,
            torch.as_tensor(class_labels, dtype=torch.int64),
            names,
            tuple(
                f"{UNKNOWN_PATIENT}{name}" if patient in (None, "") else str(patient)
                for patient, name in zip(patients, names, strict=True)
            ),
            (None,) * count if sites is None else tuple(sites),
        )

    def __len__(self) -> int:
        return len(self.joint_samples)

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.joint_samples.shape[-1]

    @property
    def radiographs(self) -> torch.Tensor:
        """float32 `[N, 1, H, W]` in [-1, 1]."""
        return self.joint_samples[:, RADIOGRAPH : RADIOGRAPH + 1]

    @property
    def masks(self) -> torch.Tensor:
        """bool `[N, 2, H, W]`: anatomy and lesion; False throughout for a mask that is not there (see `known_masks`)."""
        return self.joint_samples[:, [ANATOMY_MASK, LESION_MASK]] > 0

    @property
    def known_masks(self) -> tuple[str, ...]:
        """Those of `MASKS` that the cases have."""
        return tuple(mask for mask in MASKS if not self.joint_samples[:, CHANNELS.index(mask)].isnan().any())

    @property
    def has_masks(self) -> bool:
        """Whether the cases have both masks."""
        return self.known_masks == MASKS

    def with_masks(self, masks: Sequence[str]) -> Cases:
        """Return the cases without any other mask than these."""
        others = [CHANNELS.index(mask) for mask in self.known_masks if mask not in masks]
        if not others:
            return self
        joint_samples = self.joint_samples.clone()
        joint_samples[:, others] = torch.nan
        return replace(self, joint_samples=joint_samples)

    @property
    def has_lesion(self) -> torch.Tensor:
        """bool `[N]`, by the label."""
        return self.class_labels > 0

    def digest(self) -> str:
        """SHA-256 of what networks see, and of who it is."""
        known = hashlib.sha256(np.ascontiguousarray(self.joint_samples.numpy(), dtype="<f4").tobytes())
        known.update(json.dumps([self.class_labels.tolist(), self.names, self.patient_ids, self.sites]).encode())
        return known.hexdigest()

    def select(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> Cases:
        """Return the cases with these numbers, in this order, also more than once."""
        chosen = [int(index) for index in indices]
        pick = lambda values: tuple(values[index] for index in chosen)  # noqa: E731
        return Cases(
            self.joint_samples[chosen], self.class_labels[chosen], pick(self.names), pick(self.patient_ids), pick(self.sites)
        )

    @staticmethod
    def concatenate(parts: Sequence[Cases]) -> Cases:
        return Cases(
            torch.cat([part.joint_samples for part in parts]),
            torch.cat([part.class_labels for part in parts]),
            *(sum((getattr(part, name) for part in parts), ()) for name in ("names", "patient_ids", "sites")),
        )


def of_each_class(cases: Cases, counts: Sequence[int], seed: int = 0, where: str = "the train split") -> Cases:
    """This many cases of label 0, 1, ..., in their order; with seed 0 those that the training scripts draw with the same
    `--samples_per_class` and `--seed 0`. Cases of labels beyond the last count are left out.

    Args:
        where: what holds these cases, for the sentence of an error.

    Raises:
        ValueError: when there are fewer of a label, or fewer than two labels would be left.
    """
    labels, chosen = cases.class_labels.numpy(), []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        if not 0 <= count <= len(members):
            raise ValueError(
                f"samples_per_class {count} of label {label} is not allowed: {where} has {len(members)} training cases of it."
            )
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:count])
    if sum(count > 0 for count in counts) < 2:
        raise ValueError(f"samples_per_class {list(counts)} is not allowed: cases of at least two labels must be left.")
    return cases.select(np.sort(np.concatenate(chosen)))


def load_cases(data: str | Path, split: str, size: int, *, synthetic: bool = False) -> Cases:
    """Load the labeled cases of one split, resampled to `size` (unlabeled ones are left out).

    Args:
        data: folder or Hub data set in the project's layout (see `data.loading.load_pairs`).
        synthetic: its pairs are patients of their own, whatever patient they were made from.

    Raises:
        FileNotFoundError, ValueError: when the split cannot be read, has no labeled case, or has one that cannot be decoded.
    """
    pairs = load_pairs(data, split)
    labeled = [index for index, label in enumerate(pairs["label"]) if label is not None]
    if not labeled:
        raise ValueError(f"{data}, split {split!r}: there is no case with a label.")
    dataset = PairDataset(pairs.select(labeled), size)
    try:
        joint_samples = torch.stack([dataset[index]["joint_sample"] for index in range(len(dataset))])  # [N, 3, size, size]
    except ValueError as error:
        raise ValueError(f"{data}, split {split!r}, {error}") from error
    patients = None if synthetic else dataset.patient_ids
    cases = Cases.of(joint_samples, dataset.labels, dataset.names, patients, dataset.pairs["site"])
    return cases.with_masks(dataset.masks)
