"""Square regions around lesions: what the audit compares of films that a lesion was painted into, the rest of which is real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..data.pairs import Pairs


SIDE = 3 / 8  # of a region, as a share of the film's longer side: most regions that are painted anew fit into it


@dataclass(frozen=True)
class LesionPlaces:
    """Where in an anatomy the lesions of real cases are.

    A real film without a lesion has no region of its own; it gets one where a lesion could be, so that regions of normal
    films are compared as well.

    Attributes:
        relative: float64 `[M, 2]`: row and column of each lesion's middle, in the box around its anatomy (0 to 1 inside).
    """

    relative: np.ndarray

    @classmethod
    def of(cls, masks: Iterable[tuple[np.ndarray, np.ndarray]]) -> LesionPlaces:
        """Take the places from anatomy and lesion masks, bool `[H, W]` each; cases that lack one of them say nothing."""
        relative = []
        for anatomy, lesion in masks:
            if anatomy.any() and lesion.any():
                (top, left), (bottom, right) = _box(anatomy)
                relative.append((_middle(lesion) - (top, left)) / np.maximum((bottom - top, right - left), 1))
        return cls(np.array(relative).reshape(-1, 2))

    @classmethod
    def of_pairs(cls, pairs: Pairs) -> LesionPlaces:
        """Take the places from the cases of a split that have another label than normal."""
        numbers = [number for number, label in enumerate(pairs["label"]) if label]
        return cls.of(pairs.arrays(number)[1:] for number in numbers)

    def centre(self, anatomy: np.ndarray, lesion: np.ndarray, seed: int) -> np.ndarray:
        """Return row and column of the middle of a case's region: that of its lesion, else a place drawn by the seed."""
        if lesion.any():
            return _middle(lesion)
        if not (anatomy.any() and len(self.relative)):
            return (np.array(lesion.shape) - 1) / 2
        first, last = _box(anatomy)
        return first + self.relative[np.random.default_rng(seed).integers(len(self.relative))] * (last - first)


def cut(image: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Cut the square region around a place out of an image `[..., H, W]`, moved inwards where it would leave it."""
    height, width = image.shape[-2:]
    side = min(max(2, round(SIDE * max(height, width))), height, width)
    row, column = np.clip(np.rint(centre - (side - 1) / 2), 0, (height - side, width - side)).astype(int)
    return image[..., row : row + side, column : column + side]


def _box(mask: np.ndarray) -> np.ndarray:
    """First and last row and column of a mask that is not empty, `[[row, column], [row, column]]`."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([[rows[0], columns[0]], [rows[-1], columns[-1]]])


def _middle(mask: np.ndarray) -> np.ndarray:
    return _box(mask).mean(axis=0)
