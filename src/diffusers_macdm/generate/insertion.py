"""Where a lesion is painted into a normal film: the shape of a real lesion, at the same place of another patient's anatomy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..macdm.joint_sample import ANATOMY_MASK, LESION_MASK


INSIDE = 0.5  # least share of the moved lesion that must lie in the anatomy of the film
SIDES = (0.2, 0.5)  # of the region, as shares of the film's side: those that training practises (`insertion_regions`)
MOVES = 20  # that are tried of one lesion


@dataclass(frozen=True)
class Placement:
    """What is painted into a film.

    Attributes:
        lesion: bool `[H, W]`, the lesion's outline in the film.
        region: bool `[H, W]`, the ellipse that is painted anew, with the lesion inside.
    """

    lesion: torch.Tensor
    region: torch.Tensor


def place(film: torch.Tensor, lesion_case: torch.Tensor, seed: int) -> Placement | None:
    """Move the lesion of a real case to the same place of a film's anatomy.

    The bounding boxes of the two anatomies are laid on each other (each axis by itself); then the lesion is turned by up to 15
    degrees, scaled by up to 15 % and moved by up to 3 % of the film's side. What would lie outside of the anatomy is left out.

    Args:
        film: joint sample `[3, H, W]` in [-1, 1] of a normal case.
        lesion_case: joint sample `[3, H, W]` in [-1, 1] of a case with a lesion.
        seed: everything random follows from it.

    Returns:
        The placement; None when the lesion does not fit: none of its moved copies has half of itself in the anatomy.
    """
    anatomy = film[ANATOMY_MASK].numpy() > 0
    lesion = lesion_case[LESION_MASK].numpy() > 0
    boxes = [_box(mask) for mask in (lesion_case[ANATOMY_MASK].numpy() > 0, anatomy)]
    if not lesion.any() or None in boxes:
        return None
    (top, bottom, left, right), (to_top, to_bottom, to_left, to_right) = boxes
    rows, columns = np.nonzero(lesion)
    y, x = rows.mean(), columns.mean()
    generator = np.random.default_rng(seed)
    height, width = lesion.shape
    for _ in range(MOVES):
        angle, scale = math.radians(generator.uniform(-15, 15)), math.exp(generator.uniform(-1, 1) * math.log(1.15))
        to_y = to_top + (y - top) * (to_bottom - to_top) / max(bottom - top, 1) + generator.uniform(-0.03, 0.03) * height
        to_x = to_left + (x - left) * (to_right - to_left) / max(right - left, 1) + generator.uniform(-0.03, 0.03) * width
        moved = _moved(lesion, (y, x), (to_y, to_x), angle, scale)
        kept = moved & anatomy
        if kept.any() and kept.sum() >= INSIDE * max(moved.sum(), 1):
            return Placement(torch.from_numpy(kept), torch.from_numpy(_ellipse_around(kept, generator)))
    return None


def first_that_fits(film: torch.Tensor, candidates: Iterable[tuple[int, torch.Tensor]], seed: int) -> int | None:
    """Return the number of the first case whose lesion fits into the film (see `place`), None when none does."""
    return next((number for number, case in candidates if place(film, case, seed) is not None), None)


def _box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """First and last row, first and last column; None for an empty mask."""
    if not mask.any():
        return None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


def _moved(mask: np.ndarray, centre, to_centre, angle: float, scale: float) -> np.ndarray:
    """Turn, scale and move a mask: each pixel is looked up where it comes from, in the nearest pixel."""
    rows, columns = np.indices(mask.shape)
    dy, dx = (rows - to_centre[0]) / scale, (columns - to_centre[1]) / scale
    source_y = np.rint(centre[0] + math.cos(angle) * dy + math.sin(angle) * dx).astype(int)
    source_x = np.rint(centre[1] - math.sin(angle) * dy + math.cos(angle) * dx).astype(int)
    inside = (source_y >= 0) & (source_y < mask.shape[0]) & (source_x >= 0) & (source_x < mask.shape[1])
    return inside & mask[source_y.clip(0, mask.shape[0] - 1), source_x.clip(0, mask.shape[1] - 1)]


def _ellipse_around(lesion: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An ellipse with all of the lesion inside and sides as training has them."""
    first_row, last_row, first_column, last_column = _box(lesion)
    offsets = []
    for first, last, size in ((first_row, last_row, lesion.shape[0]), (first_column, last_column, lesion.shape[1])):
        needed = ((last - first) / 2 + 1.5) * math.sqrt(2)
        half = max(needed, generator.uniform(*SIDES) * size / 2)
        offsets.append((np.arange(size) - (first + last) / 2) / half)
    return offsets[0][:, None] ** 2 + offsets[1][None] ** 2 <= 1
