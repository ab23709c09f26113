"""The two sets that are compared: as arrays, with the same shares of labels, and in halves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.cases import Cases
from ..data.splits import split_by_patient


NUM_MIXTURES = 51  # of the labels' shares that `matched` tries, between those of one set and those of the other


def cases_of_arrays(
    films: np.ndarray,
    anatomy_masks: np.ndarray,
    lesion_masks: np.ndarray,
    class_labels: Sequence[int],
    patient_ids: Sequence[str | None] | None = None,
) -> Cases:
    """Make cases of what a model has sampled. (Folders in the project's layout are read by `data.cases.load_cases`.)

    Args:
        films: uint8 `[N, S, S]`.
        anatomy_masks, lesion_masks: bool `[N, S, S]`; to measure what the model makes, as sampled and not refined.
        class_labels: `[N]`.
        patient_ids: `[N]`; each case is a patient of its own when not given.

    Raises:
        ValueError: for other shapes or another dtype of the films.
    """
    films = np.asarray(films)
    masks = [np.asarray(mask) for mask in (anatomy_masks, lesion_masks)]
    if films.dtype != np.uint8 or films.ndim != 3 or any(mask.shape != films.shape for mask in masks):
        shapes = f"{films.dtype} {films.shape}, masks {masks[0].shape} and {masks[1].shape}"
        raise ValueError(f"Films {shapes} are not allowed: uint8 [N, S, S] and masks of the same shape are needed.")
    channels = [films.astype(np.float32) / 127.5 - 1, *((mask != 0).astype(np.float32) * 2 - 1 for mask in masks)]
    return Cases.of(torch.from_numpy(np.stack(channels, axis=1)), class_labels, patient_ids=patient_ids)


def films_of(cases: Cases) -> np.ndarray:
    """Radiographs as 8-bit gray, uint8 `[N, S, S]`: real ones too, whose resampling leaves values between the gray levels."""
    return ((cases.radiographs[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def masks_of(cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """Anatomy and lesion masks, bool `[N, S, S]` each."""
    masks = cases.masks.numpy()
    return masks[:, 0], masks[:, 1]


def matched(one: Cases, two: Cases, seed: int = 0) -> tuple[Cases, Cases]:
    """Leave out cases so that both sets have the same shares of each label: otherwise all that a lesion brings along would
    tell them apart, however good they are.

    Of the shares between those of one set and those of the other, the ones that leave the largest sets are taken (largest
    harmonic mean of their sizes). Which cases stay is drawn by the seed.

    Raises:
        ValueError: when the sets have no label in common.
    """
    labels = sorted(set(one.class_labels.tolist()) & set(two.class_labels.tolist()))
    if not labels:
        raise ValueError("The two sets have no label in common: there is nothing to compare.")
    counts = [np.array([(cases.class_labels == label).sum() for label in labels], float) for cases in (one, two)]
    best = None
    for weight in np.linspace(0, 1, NUM_MIXTURES):
        shares = sum(part * count / count.sum() for part, count in zip((1 - weight, weight), counts, strict=True))
        sizes = [(count / shares).min() for count in counts]
        score = 1 / sum(1 / size for size in sizes)
        if best is None or score > best[0] + 1e-9:
            best = score, shares, sizes
    _, shares, sizes = best
    return tuple(
        _first_of_each(cases, labels, np.floor(shares * size + 1e-6).astype(int), seed)
        for cases, size in zip((one, two), sizes, strict=True)
    )


def _first_of_each(cases: Cases, labels: Sequence[int], counts: Sequence[int], seed: int) -> Cases:
    chosen = []
    for label, count in zip(labels, counts, strict=True):
        members = np.flatnonzero(cases.class_labels.numpy() == label)
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[: max(1, count)])
    return cases.select(np.sort(np.concatenate(chosen)))


def halves(cases: Cases, seed: int = 0) -> tuple[Cases, Cases]:
    """Divide cases by patient into two halves, stratified by label.

    Raises:
        ValueError: when there are fewer than two patients.
    """
    parts = split_by_patient(cases.patient_ids, cases.class_labels.tolist(), {"one": 0.5, "two": 0.5}, seed)
    return cases.select(parts["one"]), cases.select(parts["two"])
