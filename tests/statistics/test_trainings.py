"""Intervals over trainings: scipy's where there is one, and that they hold the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from diffusers_macdm.statistics.trainings import (
    interval_over_trainings,
    jackknife_interval,
    t_interval,
    welch_interval,
)


def test_t_interval_is_scipys():
    values = [0.31, 0.4, 0.36, 0.29]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx(list(expected))
    assert t_interval([0.3]) is None and t_interval([0.3, 0.4], least=3) is None


def test_welch_interval():
    one, other = [0.3, 0.5, 0.45], [0.1, 0.2, 0.15, 0.3]
    variances = [np.var(values, ddof=1) / len(values) for values in (one, other)]
    degrees = sum(variances) ** 2 / sum(v**2 / (len(values) - 1) for v, values in zip(variances, (one, other), strict=True))
    half = stats.t.ppf(0.975, degrees) * np.sqrt(sum(variances))
    difference = np.mean(one) - np.mean(other)
    assert welch_interval(one, other) == pytest.approx([difference - half, difference + half])
    assert welch_interval([0.3], other) is None and welch_interval(one, []) is None


def test_the_jackknife_of_a_mean_is_the_t_interval():
    values = np.random.default_rng(0).normal(size=12)
    left_out = np.array([np.delete(values, i).mean() for i in range(12)])
    assert jackknife_interval(values.mean(), [left_out]) == pytest.approx(t_interval(values))
    assert jackknife_interval(1.0, [np.ones(5)]) is None  # does not vary
    assert jackknife_interval(1.0, [np.array([1.0])]) is None
    assert jackknife_interval(1.0, [np.array([1.0, np.nan])]) is None


def test_interval_over_trainings_holds_both_sources_of_chance():
    values, intervals = [0.2, 0.3, 0.4], [[0.1, 0.3], [0.2, 0.4], [0.3, 0.5]]
    low, high = interval_over_trainings(values, intervals)
    over_runs = t_interval(values)
    assert (low + high) / 2 == pytest.approx(0.3)
    assert ((high - low) / 2) ** 2 == pytest.approx(0.1**2 + ((over_runs[1] - over_runs[0]) / 2) ** 2)
    assert interval_over_trainings([0.2], intervals[:1]) is None and interval_over_trainings(values, []) is None
