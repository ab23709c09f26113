"""Who trains the generative models, who chooses the state of the downstream networks, who is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.splits import split_by_patient
from ..evaluation.arms import draw_pairs
from ..evaluation.cases import Cases


@dataclass(frozen=True)
class Part:
    """One fold at one training size.

    Attributes:
        fold: "split", or "fold-K".
        size: that was asked for, or None for all training cases.
        train: what generative models and downstream networks are trained on.
        validation, test: the same for all sizes of the fold.
    """

    fold: str
    size: int | None
    train: Cases
    validation: Cases
    test: Cases

    @property
    def folder(self) -> str:
        return f"{self.fold}/size-{'all' if self.size is None else self.size}"

    @property
    def held_out(self) -> Cases:
        return Cases.concatenate([self.validation, self.test])


def make_parts(
    splits: Mapping[str, Cases],
    folds: int | None,
    train_sizes: Sequence[int] | None = None,
    samples_per_class: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Part]:
    """Every fold at every training size.

    Args:
        splits: of the set, by name.
        folds: None takes the set's own splits. Else *all* cases are divided by patient: fold k is the test, fold k + 1 the
            validation, the others train. The generative models are trained inside the fold, so no case that trained one is
            tested.
        train_sizes: numbers of training cases, the labels in the set's proportions; a smaller one is part of a larger one.
        samples_per_class: restricts the training cases of each fold to this many of label 0, 1, ... beforehand.

    Raises:
        ValueError: when the splits that are needed are not there, or there are too few patients or cases.
    """
    if folds is None:
        missing = [split for split in ("train", "validation", "test") if split not in splits]
        if missing:
            raise ValueError(
                f"There is no {' and no '.join(missing)} split: use --folds K, which divides all cases by patient."
            )
        divided = {"split": (splits["train"], splits["validation"], splits["test"])}
    else:
        if folds < 3:
            raise ValueError(f"folds={folds} is not allowed: at least 3 are needed, to train, to choose and to test.")
        pool = Cases.concatenate(list(splits.values()))
        shares = {str(fold): 1 / folds for fold in range(folds)}
        members = list(split_by_patient(pool.patient_ids, pool.class_labels.tolist(), shares, seed).values())
        divided = {}
        for fold in range(folds):
            chooses = (fold + 1) % folds
            trains = sorted(set(range(len(pool))) - set(members[fold]) - set(members[chooses]))
            divided[f"fold-{fold}"] = tuple(pool.select(chosen) for chosen in (trains, members[chooses], members[fold]))
    parts = []
    for fold, (train, validation, test) in divided.items():
        if samples_per_class is not None:
            train = of_each_class(train, samples_per_class, seed, fold)
        for size in train_sizes or [None]:
            if size is not None and not 2 <= size <= len(train):
                raise ValueError(f"train size {size} is not allowed: {fold} has {len(train)} training cases.")
            chosen = train if size is None else train.select(draw_pairs(train.class_labels, size, seed))
            parts.append(Part(fold, size, chosen, validation, test))
    return parts


def of_each_class(cases: Cases, counts: Sequence[int], seed: int, fold: str) -> Cases:
    """This many cases of label 0, 1, ..., in their order.

    Raises:
        ValueError: when there are fewer.
    """
    labels, chosen = cases.class_labels.numpy(), []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        if not 0 <= count <= len(members):
            raise ValueError(
                f"samples_per_class {count} of label {label} is not allowed: {fold} has {len(members)} training cases of it."
            )
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:count])
    return cases.select(np.sort(np.concatenate(chosen)))


def labels_for(train: Cases, count: int, seed: int) -> np.ndarray:
    """Labels of `count` pairs in the proportions of the training cases; for as many as there are these, just theirs."""
    labels = train.class_labels.numpy()
    rounds, rest = divmod(count, len(labels))
    return np.concatenate([np.tile(labels, rounds), labels[draw_pairs(labels, rest, seed)]])
