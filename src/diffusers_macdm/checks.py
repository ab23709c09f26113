"""Refusals that every room says in the same words."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch


MOST = 1_000_000  # of anything that is counted: with more, memory or days are gone before anything is seen of it


def check_at_least(settings, **least: float) -> None:
    """Raise `ValueError` for a number of `settings` that is smaller than the one given here by its name, or larger than `MOST`
    (a seed counts nothing); None is allowed."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{name}={value} is not allowed: at least {smallest} is needed.")
        if value is not None and value > MOST and name != "seed":
            raise ValueError(f"{name}={value} is not allowed: at most {MOST:,}.")


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


def not_finite(named_tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor that holds a NaN or an infinity, or None."""
    return next((name for name, tensor in named_tensors if not tensor.isfinite().all()), None)


def check_weights(what: str, network: torch.nn.Module) -> None:
    """Raise `ValueError` when a weight of `network` is not finite; `what` says whose it is."""
    broken = not_finite(network.state_dict().items())
    if broken is not None:
        kind = type(network).__name__
        raise ValueError(f"{what}: the weights of its {kind} are not finite ({broken}); they are of no use.")
