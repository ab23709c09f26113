"""Square regions of cases around their lesions, to compare what was painted into a film and not the film around it."""

from __future__ import annotations

import numpy as np
import torch

from ..data.cases import Cases


SIDE = 3 / 8  # of a region, as a share of the film's side: most inserted regions lie inside


def lesion_centres(cases: Cases) -> np.ndarray:
    """Middle row and column of each case's lesion, float64 `[N, 2]`; NaN where there is none."""
    return np.stack([_middle(mask) for mask in cases.masks[:, 1].numpy()])


def centres_like_lesions(cases: Cases, lesion_cases: Cases, seed: int = 0) -> np.ndarray:
    """Draw a place for each case where lesions are: that of a real lesion, taken over from the box around one anatomy to the
    box around the other. Float64 `[N, 2]`; the middle of the film where a case has no anatomy.

    Raises:
        ValueError: when no case of `lesion_cases` has both masks.
    """
    centres, boxes = lesion_centres(lesion_cases), _boxes(lesion_cases)
    relative = (centres - boxes[:, 0]) / np.maximum(boxes[:, 1] - boxes[:, 0], 1)  # [M, 2]
    relative = relative[~np.isnan(relative).any(axis=1)]
    if not len(relative):
        raise ValueError("No case has a lesion and an anatomy: there is no place to take over.")
    drawn = relative[np.random.default_rng(seed).integers(len(relative), size=len(cases))]  # [N, 2]
    first, last = _boxes(cases).transpose(1, 0, 2)
    return np.where(np.isnan(first), (cases.size - 1) / 2, first + drawn * (last - first))


def regions(cases: Cases, centres: np.ndarray) -> Cases:
    """Cut a square of `SIDE` out of each case, moved inwards where it would leave the film; cases `[N, 3, s, s]`.

    Args:
        centres: `[N, 2]`, row and column; none may be NaN.
    """
    side = max(2, round(SIDE * cases.size))
    starts = np.clip(np.rint(centres - (side - 1) / 2), 0, cases.size - side).astype(int)
    cut = [sample[:, y : y + side, x : x + side] for sample, (y, x) in zip(cases.joint_samples, starts, strict=True)]
    return Cases.of(torch.stack(cut), cases.class_labels, cases.names, cases.patient_ids)


def _boxes(cases: Cases) -> np.ndarray:
    """First and last row and column of each anatomy, `[N, 2, 2]`; NaN where there is none."""
    boxes = np.full((len(cases), 2, 2), np.nan)
    for box, mask in zip(boxes, cases.masks[:, 0].numpy(), strict=True):
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box[:] = [[rows[0], columns[0]], [rows[-1], columns[-1]]]
    return boxes


def _middle(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return np.full(2, np.nan)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([(rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2])
