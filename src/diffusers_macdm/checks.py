"""Refusals that every room says in the same words."""

from __future__ import annotations

import operator
from typing import Any


def check_at_least(settings, **least: float) -> None:
    """Raise `ValueError` for a number of `settings` that is smaller than the one given here by its name; None is allowed."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{name}={value} is not allowed: at least {smallest} is needed.")


def check_noise_level(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is a noise level Z / T in (0, 1]; 1 is pure noise."""
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value} is not allowed: it is the noise level Z / T, in (0, 1].")


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an int, or raise `ValueError` unless it is a whole number from `low` to `high`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f"{name} is {value!r}; an integer from {low} to {high} is allowed")
    return number
