"""How good are the pairs: films, masks and lesions of a synthetic set, each number beside what real cases give."""

from __future__ import annotations


def measure(real, synthetic, *, judge=None, seed: int = 0) -> dict:
    """Measure synthetic pairs beside real ones; see `measures.measure`, whose arguments these are."""
    from .measures import measure

    return measure(real, synthetic, judge=judge, seed=seed)
