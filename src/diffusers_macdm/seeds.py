"""Seeds that are mixed from other numbers: no two pairs, folds or trainings share one by accident."""

from __future__ import annotations

import numpy as np


def derived_seed(*numbers: int) -> int:
    """Mix one seed below 2^63 from several whole numbers of at least 0 (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def pair_seed(seed: int, index: int, rejected: int = 0) -> int:
    """Return the seed of pair `index` of the set with `seed`, below 2^63; sets with neighbouring seeds have no pair in common.

    Args:
        seed: seed of the set.
        index: number of the pair in the set, from 0.
        rejected: how many times the pair was rejected before.
    """
    return derived_seed(seed, index, rejected) if rejected else derived_seed(seed, index)
