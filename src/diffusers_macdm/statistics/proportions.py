"""Shares: how many of n, and where the true share lies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


Z = 1.959963984540054  # 97.5 % of a normal distribution lie below it


# Wilson, JASA 22, 1927, in the form of Newcombe, Statistics in Medicine 17, 1998, method 3
def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of `count` out of `total` (at least 1), within [0, 1].

    The digits are those of `scipy.stats.binomtest(count, total).proportion_ci(method="wilson")`, without scipy, which the card
    of a data set would otherwise need.
    """
    share, scale = count / total, 2 * (total + Z**2)
    center = (2 * total * share + Z**2) / scale
    half = Z / scale * math.sqrt(4 * total * share * (1 - share) + Z**2)
    return (0.0 if count == 0 else center - half), (1.0 if count == total else center + half)


def proportion(hits: Sequence[bool] | np.ndarray) -> dict:
    """Return a share with its 95 % Wilson interval, JSON-ready.

    Args:
        hits: bool `[N]`.

    Returns:
        `value`, `interval` (both None where N is 0), `count` and `total`.
    """
    count, total = int(np.sum(hits)), len(hits)
    if not total:
        return {"value": None, "interval": None, "count": 0, "total": 0}
    return {"value": count / total, "interval": list(wilson_interval(count, total)), "count": count, "total": total}
