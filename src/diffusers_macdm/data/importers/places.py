"""Where lesions lie along the anatomy, and places in normal films that are drawn like them.

The axis of an anatomy is the direction in which its pixels spread most; a place on it is the share of the way from its upper
end (its left one, where it lies across) to the other. Where a set has no anatomy masks, what is bright in the film (Otsu 1979)
and brighter than its surroundings, bone that is, stands in for it: for the places alone, nothing of it is written.
"""

from __future__ import annotations

import numpy as np


BAND = 0.02  # half of the height, as a share of the axis, within which pixels count as at one place
ENDS = (1, 99)  # percentiles of the anatomy's pixels along its axis: a speck, or a scanner's bright edge, is no end of it
SURROUNDINGS = 1 / 20  # standard deviation of the weights of a pixel's surroundings, as a share of the film's long side
COARSE = 500  # pixels of the long side that this is found at
JITTER = 0.03  # standard deviation of a drawn place around that of a lesion, as a share of the axis: places in between, too


def ground(radiograph: np.ndarray, anatomy_mask: np.ndarray | None) -> np.ndarray:
    """Return the pixels along which places are counted, bool `[H, W]`: the anatomy mask, or else what is bright in
    the film and brighter than the bright part around it."""
    if anatomy_mask is not None and anatomy_mask.any():
        return anatomy_mask
    from skimage.filters import gaussian, threshold_otsu

    step = max(1, max(radiograph.shape) // COARSE)  # places need no more
    coarse = radiograph[::step, ::step]
    bright = (coarse > threshold_otsu(coarse)).astype(np.float32)
    sigma = SURROUNDINGS * max(coarse.shape)
    around = gaussian(coarse * bright, sigma) / np.maximum(gaussian(bright, sigma), 1e-6)
    found = (bright > 0) & (coarse >= around)
    if not found.any():  # a single gray
        found[:] = True
    rows, columns = (np.arange(length) // step for length in radiograph.shape)
    return found[rows][:, columns]


class Axis:
    """The axis of an anatomy.

    Args:
        mask: bool `[H, W]`, not empty.
    """

    def __init__(self, mask: np.ndarray):
        self._pixels = np.argwhere(mask)  # [N, 2], row and column
        middle = self._pixels.mean(axis=0)
        _, directions = np.linalg.eigh(np.cov((self._pixels - middle).T) if len(self._pixels) > 1 else np.eye(2))
        self._direction = directions[:, -1]
        if (abs(self._direction[0]), 1) < (abs(self._direction[1]), 0):
            self._direction = self._direction * np.sign(self._direction[1])  # lies across: from left to right
        else:
            self._direction = self._direction * (np.sign(self._direction[0]) or 1)
        along = self._pixels @ self._direction
        self._start, end = np.percentile(along, ENDS)
        self._length = max(end - self._start, 1)
        self._along = (along - self._start) / self._length  # [N]

    def place(self, point: tuple[int, int]) -> float:
        """Return the place of a point (row, column) along the axis, in [0, 1]."""
        return float(np.clip((np.asarray(point) @ self._direction - self._start) / self._length, 0, 1))

    def point(self, place: float, generator: np.random.Generator) -> tuple[int, int]:
        """Draw a pixel (row, column) of the anatomy that lies at this place."""
        distance = np.abs(self._along - place)
        near = np.flatnonzero(distance <= max(BAND, distance.min()))
        row, column = self._pixels[generator.choice(near)]
        return int(row), int(column)


def anchor(mask: np.ndarray, generator: np.random.Generator) -> tuple[int, int]:
    """Return a pixel (row, column) of a lesion, of one of them where there are several: the one nearest to its middle."""
    from skimage.measure import label

    components, number = label(mask, return_num=True)
    pixels = np.argwhere(components == generator.integers(1, number + 1))
    distances = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
    row, column = pixels[distances.argmin()]
    return int(row), int(column)


def corner(
    point: tuple[int, int], side: int, shape: tuple[int, int], shift: float, generator: np.random.Generator
) -> tuple[int, int]:
    """Draw the upper left corner (row, column) of a square of `side` pixels around a point of a film `[H, W]`, which lies in it
    whole.

    Args:
        point: row and column.
        side: side of the square, at most that of the film.
        shape: height and width of the film.
        shift: largest shift of the point from the square's middle, as a share of its side.
        generator: of the shift.
    """
    shifts = generator.uniform(-shift, shift, 2) * side
    first = np.rint(np.asarray(point) - (side - 1) / 2 + shifts).astype(int)
    row, column = np.clip(first, 0, np.asarray(shape) - side)
    return int(row), int(column)
