"""What counts as a copy: closer to a training image than 95 % of validation images are.

Each image has three measures of closeness: the distance to its nearest training image after alignment, the ratio of that to
the distance of the nearest training image of another patient, and the distance in pixel space as the images lie. Each may give
a copy away: the ratio sees through noise, which moves an image away from everybody alike; the aligned distance finds the copy
of a training image that stands in the set under two patients; the pixels find a copy that has the pose and the outlines of its
original but not its detail, which alignment makes as like to others. All are put on the scale of the validation images,

    z = (log d - median) / (median - 5th percentile)   (of log d over the validation images, so -1 is their 5th percentile)

and the smallest one is the image's `closeness`. Its 5th percentile over the validation images is the threshold: one of twenty
images that copy nobody falls below it.

An image can also be farther from every training image than real films are: static, black, a blur. That it is no copy says
nothing about what the model would do if its samples were films, so such images are counted (`is_far`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..statistics.proportions import proportion
from .neighbours import Comparison, Gallery


MEASURES = ("aligned_distance", "nearest_ratio", "pixel_distance")  # of a `Comparison`
NOMINAL_RATE = 0.05  # of false alarms
_FLOOR = 1e-4  # distances and ratios below it are the same image


@dataclass(frozen=True)
class Scale:
    """Median and 5th percentile of `log d` over the validation images."""

    median: float
    low: float

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        logs = np.log(np.maximum(values, _FLOOR))
        return cls(float(np.median(logs)), float(np.quantile(logs, NOMINAL_RATE)))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (np.log(np.maximum(values, _FLOOR)) - self.median) / max(self.median - self.low, 1e-3)


class CopyDetector:
    """Tells copies of the training images from images that are merely alike.

    Args:
        gallery: the training images.
        null: the comparison of validation images with them.

    Raises:
        ValueError: when there are fewer than 2 validation images.
    """

    def __init__(self, gallery: Gallery, null: Comparison):
        if len(null) < 2:
            raise ValueError(f"{len(null)} validation images to compare with: at least 2 are needed, 100 for a firm threshold.")
        self.gallery, self.null = gallery, null
        self.scales = {name: Scale.of(getattr(null, name)) for name in MEASURES}
        # Of rank 0.05 (n + 1): one of twenty new images falls below it on average, however few the validation images are.
        self.threshold = float(np.quantile(self.closeness(null), NOMINAL_RATE, method="weibull"))
        self.reach = float(np.quantile(null.aligned_distance, 1 - NOMINAL_RATE, method="weibull"))

    @property
    def nominal_rate(self) -> float:
        """Share of images that copy nobody and are called copies nonetheless: 5 %, or the 1 / (n + 1) that are closer than all
        of n < 19 validation images (a little more, since the scales are theirs: of nine images 15 % instead of 10 %)."""
        return max(NOMINAL_RATE, 1 / (len(self.null) + 1))

    def closeness(self, comparison: Comparison) -> np.ndarray:
        """`[N]`; 0 is the median validation image, smaller is closer."""
        return np.min([scale(getattr(comparison, name)) for name, scale in self.scales.items()], axis=0)

    def is_copy(self, comparison: Comparison) -> np.ndarray:
        """`[N]` bool: closer to a training image than 95 % of the validation images."""
        return self.closeness(comparison) < self.threshold

    def is_far(self, comparison: Comparison) -> np.ndarray:
        """`[N]` bool: farther from every training image, after the best alignment, than 95 % of the validation images, and no
        copy by another measure."""
        return (comparison.aligned_distance > self.reach) & ~self.is_copy(comparison)

    def is_authentic(self, comparison: Comparison) -> np.ndarray:
        """`[N]` bool: farther from its nearest training image, in the embedding, than that one is from its own nearest
        neighbour (authenticity, Alaa et al., arXiv 2102.08921, sec. 3.3)."""
        return comparison.embedding_distance > self.gallery.own_distance[comparison.embedding_nearest]

    def shares(self, comparison: Comparison) -> dict[str, dict]:
        """`copies` and `far`: the `proportion` of each, JSON-ready, with the `nominal_rate` that real films of others give."""
        found = {"copies": self.is_copy(comparison), "far": self.is_far(comparison)}
        return {name: {**proportion(hits), "nominal_rate": self.nominal_rate} for name, hits in found.items()}

    def find(self, images: torch.Tensor) -> np.ndarray:
        """`is_copy` of uint8 images `[N, 64, 64]`."""
        return self.is_copy(self.gallery.compare(images))


def false_alarm_interval(num_null: int, level: float = 0.95) -> tuple[float, float]:
    """Where the true false alarm rate lies for a threshold at the 5th percentile of `num_null` validation images.

    The share of the population below the k-th smallest of n draws is Beta(k, n + 1 - k), whatever the distribution."""
    from scipy.stats import beta

    rank = max(1, NOMINAL_RATE * (num_null + 1))  # where the threshold lies among the sorted values, counted from 1
    tail = (1 - level) / 2
    low, high = beta.ppf([tail, 1 - tail], rank, num_null + 1 - rank)
    return float(low), float(high)


def copies_too_often(result: dict) -> bool:
    """Whether the copy rate of an audit is beyond what the threshold's own uncertainty can explain."""
    return result["copy_rate"]["interval"][0] > result["nominal_false_alarm_rate"]["interval"][1]
