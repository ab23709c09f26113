"""95 % intervals that do not come from a bootstrap: over a few trainings or folds, and the jackknife."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bootstrap import t_quantile


LEVEL = 0.95


def t_interval(values: Sequence[float], least: int = 2) -> list[float] | None:
    """Return Student's interval of the mean of independent values, `mean +- t s / sqrt(n)`; None with fewer than `least`."""
    values = np.asarray(values, dtype=float)
    if len(values) < least:
        return None
    half = t_quantile(LEVEL, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean() - half), float(values.mean() + half)]


def interval_over_trainings(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[float] | None:
    """Return the interval of the mean over trainings of values that have intervals of their own.

    It is `mean +- sqrt(h^2 + (t s / sqrt(n))^2)`: `h^2` is the mean square of half the intervals of the single trainings
    (patients and pairs), `s` the standard deviation over the n trainings. Both hold the chance of the pairs, so it is rather
    too wide.

    Args:
        values: value of each training.
        intervals: `[M, 2]`, those that there are.

    Returns:
        Both ends; None with fewer than two values or without an interval.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2 or not len(intervals):
        return None
    over_trainings = t_quantile(LEVEL, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    half = float(np.sqrt((np.diff(np.asarray(intervals, dtype=float)) ** 2 / 4).mean() + over_trainings**2))
    return [float(values.mean()) - half, float(values.mean()) + half]


def welch_interval(one: Sequence[float], other: Sequence[float]) -> list[float] | None:
    """Return Welch's interval of `mean(one) - mean(other)`, variances unequal; None with fewer than two values of either."""
    from scipy.stats import ttest_ind

    if min(len(one), len(other)) < 2:
        return None
    return [float(end) for end in ttest_ind(one, other, equal_var=False).confidence_interval(LEVEL)]


def jackknife_interval(value: float, leave_one_out: Sequence[np.ndarray]) -> list[float] | None:
    """Return `value +- t SE`, where SE^2 is the sum over independent samples of `(G - 1) / G sum_g (theta_g - mean)^2`.

    Args:
        value: statistic of all samples.
        leave_one_out: for each sample the statistic without its group g, `[G]`. The degrees of freedom of t are those of the
            sample with fewest groups.

    Returns:
        Both ends; None for fewer than two groups, a statistic that is not finite, or one that does not vary, which is no proof
        that it could not.
    """
    if min(len(values) for values in leave_one_out) < 2:
        return None
    if not all(np.isfinite(values).all() for values in leave_one_out):
        return None
    variance = sum((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum() for values in leave_one_out)
    if variance == 0:
        return None
    half = t_quantile(LEVEL, min(len(values) for values in leave_one_out) - 1) * variance**0.5
    return [float(value - half), float(value + half)]
