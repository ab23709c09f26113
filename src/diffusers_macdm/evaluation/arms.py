"""The arms of the evaluation: which cases the downstream networks are trained with, and when.

Augmentation is judged against three controls that add no synthetic pair: real cases alone, classical augmentation, and real
cases that stand twice (as many cases as ratio 1 has, with nothing new in them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.cases import Cases
from .downstream import Stage


REAL_ONLY, CLASSICAL_AUGMENTATION, DUPLICATED_REAL = "real_only", "classical_augmentation", "duplicated_real"
CONTROLS = (REAL_ONLY, CLASSICAL_AUGMENTATION, DUPLICATED_REAL)
SYNTHETIC_PRETRAINING, SYNTHETIC_ONLY = "synthetic_pretraining", "synthetic_only"
REAL_PLUS_SYNTHETIC = "real_plus_synthetic"
RATIOS = (0.25, 0.5, 1.0, 2.0, 5.0)  # synthetic pairs for each real training case
ALL = "all"


@dataclass(frozen=True)
class Pool:
    """What a part of a training draws from.

    Attributes:
        share: share of the optimisation steps.
        real_copies: how often each real training case stands in it.
        ratio: synthetic pairs for each real training case, or "all" there are.
    """

    share: float = 1.0
    real_copies: int = 1
    ratio: float | str = 0.0


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        augmented: with classical augmentation.
        ratio: of the arms that real + synthetic are compared by, else None.
        filter: which synthetic pairs are taken (`filters.py`); a filtered arm takes what is left where that is less than asked.
    """

    name: str
    description: str
    pools: tuple[Pool, ...] = (Pool(),)
    augmented: bool = False
    ratio: float | None = None
    filter: str = "none"

    @property
    def uses_synthetic(self) -> bool:
        return any(pool.ratio != 0 for pool in self.pools)


def ratio_name(ratio: float) -> str:
    return f"{REAL_PLUS_SYNTHETIC}_{ratio:g}"


def filter_name(name: str) -> str:
    """Return the name of the arm of ratio 1 with filtered pairs."""
    return f"{ratio_name(1)}_filter_{name}"


def build_arms(ratios: Sequence[float] = RATIOS, filters: Sequence[str] = ()) -> dict[str, Arm]:
    """Return all arms by name, the controls first.

    Raises:
        ValueError: when a ratio is not positive and finite.
    """
    for ratio in ratios:
        if not 0 < ratio < math.inf:
            raise ValueError(f"ratio {ratio} is not allowed: synthetic pairs for each real case, greater than 0 and finite.")
    augmented = f"{ratio_name(1)}_augmented"
    arms = [
        Arm(REAL_ONLY, "the real training cases"),
        Arm(CLASSICAL_AUGMENTATION, "the real training cases, with classical augmentation", augmented=True),
        Arm(DUPLICATED_REAL, "each real training case twice", (Pool(real_copies=2),)),
        *(
            Arm(ratio_name(ratio), f"real cases and {ratio:g} synthetic pairs for each", (Pool(ratio=ratio),), ratio=ratio)
            for ratio in sorted(set(ratios))
        ),
        Arm(
            augmented,
            "real cases and 1 synthetic pair for each, with classical augmentation",
            (Pool(ratio=1),),
            augmented=True,
        ),
        Arm(
            SYNTHETIC_PRETRAINING,
            "half of the steps on all synthetic pairs, then half on the real cases",
            (Pool(0.5, real_copies=0, ratio=ALL), Pool(0.5)),
        ),
        Arm(SYNTHETIC_ONLY, "all synthetic pairs and no real case", (Pool(real_copies=0, ratio=ALL),)),
        *(
            Arm(filter_name(name), f"real cases and 1 synthetic pair for each, filter {name}", (Pool(ratio=1),), filter=name)
            for name in filters
        ),
    ]
    return {arm.name: arm for arm in arms}


def count_of(pool: Pool, arm: Arm, num_real: int, num_synthetic: int) -> int:
    """Return the number of synthetic pairs that a pool asks for."""
    if pool.ratio == ALL:
        return num_synthetic
    wanted = round(pool.ratio * num_real)
    return wanted if arm.filter == "none" else min(wanted, num_synthetic)


def why_not(arm: Arm, real: Cases, synthetic: Cases) -> str | None:
    """Return a sentence that says why an arm cannot be trained with these cases; None when it can."""
    labels = set(real.class_labels.tolist())
    for pool in arm.pools:
        count = count_of(pool, arm, len(real), len(synthetic))
        if count > len(synthetic):
            return f"{arm.name} was left out: it needs {count} synthetic pairs and the set has {len(synthetic)}."
        if pool.ratio != 0 and count == 0:
            return f"{arm.name} was left out: no synthetic pair is there for it."
        missing = labels - set(synthetic.class_labels.tolist())
        if pool.real_copies == 0 and missing:
            return f"{arm.name} was left out: the synthetic set has no pair of label {', '.join(map(str, sorted(missing)))}."
    return None


def stages_of(arm: Arm, real: Cases, synthetic: Cases, seed: int) -> list[Stage]:
    """Return the stages of an arm's training.

    Args:
        real: training cases.
        synthetic: the set, filtered where the arm says so.
        seed: chooses the synthetic pairs where not all are needed: the same for each arm, so that a larger ratio has the pairs
            of a smaller one.

    Raises:
        ValueError: what `why_not` says.
    """
    reason = why_not(arm, real, synthetic)
    if reason is not None:
        raise ValueError(reason)
    stages = []
    for pool in arm.pools:
        parts = [real] * pool.real_copies
        if pool.ratio != 0:
            count = count_of(pool, arm, len(real), len(synthetic))
            parts.append(synthetic.select(draw_pairs(synthetic.class_labels, count, seed)))
        stages.append(Stage(parts[0] if len(parts) == 1 else Cases.concatenate(parts), pool.share))
    return stages


def draw_pairs(class_labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """Draw `count` of the pairs without repetition, the labels in the set's own proportions, sorted by number.

    The pairs of each label stand in a random order, at the shares (i + 1/2) / n of the set, and the first `count` are taken:
    a smaller draw is part of a larger one, and no label is off its proportion by more than one pair.
    """
    labels = np.asarray(class_labels)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.argsort(place, kind="stable")[:count])
