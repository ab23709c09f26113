import numpy as np
import pytest
from scipy.stats import binomtest

from diffusers_macdm.statistics.proportions import proportion, wilson_interval


@pytest.mark.parametrize("total", [1, 2, 3, 7, 30, 200])
def test_the_digits_are_scipys(total):
    for count in range(0, total + 1, max(1, total // 10)):
        expected = binomtest(count, total).proportion_ci(confidence_level=0.95, method="wilson")
        assert wilson_interval(count, total) == (expected.low, expected.high)


@pytest.mark.parametrize("count, total", [(0, 32), (32, 32), (3, 7), (1, 1), (500, 1000)])
def test_wilson_interval_is_that_of_scipy(count, total):
    expected = binomtest(count, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ends_of_the_range():
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5) and wilson_interval(0, 20)[0] == 0
    assert wilson_interval(20, 20)[1] == 1


def test_proportion():
    result = proportion(np.arange(100) < 10)
    assert result == {"value": 0.1, "interval": list(wilson_interval(10, 100)), "count": 10, "total": 100}
    assert proportion([True, False]) == proportion(np.array([1, 0]))
    assert proportion([]) == {"value": None, "interval": None, "count": 0, "total": 0}
