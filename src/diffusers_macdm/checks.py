"""Refusals that every room says in the same words."""

from __future__ import annotations


def check_at_least(settings, **least: float) -> None:
    """Raise `ValueError` for a number of `settings` that is smaller than the one given here by its name; None is allowed."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{name}={value} is not allowed: at least {smallest} is needed.")
