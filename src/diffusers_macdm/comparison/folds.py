"""Who trains the generative models, who chooses the state of the downstream networks, who is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.cases import Cases, of_each_class
from ..data.layout import HELD_OUT_SPLITS
from ..evaluation.arms import draw_pairs
from ..evaluation.divisions import folds_by_patient


@dataclass(frozen=True)
class Fold:
    """One fold at one training size.

    Attributes:
        name: "split", "fold-K", or "held-out-K".
        trained: name of the generative models' training, which folds of the held-out cases share; else that of the fold.
        size: that was asked for, or None for all training cases.
        train: what generative models and downstream networks are trained on.
        validation, test: the same for all sizes of the fold.
    """

    name: str
    trained: str
    size: int | None
    train: Cases
    validation: Cases
    test: Cases

    @property
    def folder(self) -> str:
        return self._of_size(self.name)

    @property
    def trained_folder(self) -> str:
        """Where the generative models are, and what is measured on their pairs."""
        return self._of_size(self.trained)

    def _of_size(self, name: str) -> str:
        return f"{name}/size-{'all' if self.size is None else self.size}"

    @property
    def held_out(self) -> Cases:
        return Cases.concatenate([self.validation, self.test])


def make_folds(
    splits: Mapping[str, Cases],
    folds: int | None,
    train_sizes: Sequence[int] | None = None,
    samples_per_class: Sequence[int] | None = None,
    held_out_folds: int | None = None,
    seed: int = 0,
) -> list[Fold]:
    """Return every fold at every training size.

    Args:
        splits: of the set, by name.
        folds: None takes the set's own splits. Else *all* cases are divided by patient: fold k is the test, fold k + 1 the
            validation, the others train. The generative models are trained inside the fold, so no case that trained one is
            tested.
        train_sizes: numbers of training cases, the labels in the set's proportions; a smaller one is part of a larger one.
        samples_per_class: restricts the training cases of each fold to this many of label 0, 1, ... beforehand.
        held_out_folds: instead of `folds`, divide the *held-out* cases (validation and test) by patient: each fold is the test
            once while the others choose the state. The training split trains, once for all folds.

    Raises:
        ValueError: when the splits that are needed are not there, or there are too few patients or cases.
    """
    if folds is not None and held_out_folds is not None:
        raise ValueError(f"folds={folds} and held_out_folds={held_out_folds} cannot be given together: one divides all cases.")
    trained = {}
    if held_out_folds is not None:
        if held_out_folds < 2:
            raise ValueError(
                f"held_out_folds={held_out_folds} is not allowed: at least 2 are needed, one to test and one to choose by."
            )
        held_out = [splits[split] for split in HELD_OUT_SPLITS if split in splits]
        if "train" not in splits or not held_out:
            raise ValueError("held_out_folds need a train split, and a validation or a test split.")
        pool = Cases.concatenate(held_out)
        members = folds_by_patient(pool, held_out_folds, seed)
        divided = {}
        for fold, tested in enumerate(members):
            chooses = sorted(set(range(len(pool))) - set(tested))
            divided[f"held-out-{fold}"] = (splits["train"], pool.select(chooses), pool.select(tested))
            trained[f"held-out-{fold}"] = "held-out"
    elif folds is None:
        missing = [split for split in ("train", "validation", "test") if split not in splits]
        if missing:
            raise ValueError(
                f"There is no {' and no '.join(missing)} split: use --folds K, which divides all cases by patient, or "
                "--held-out-folds K, which divides the validation and test cases."
            )
        divided = {"split": (splits["train"], splits["validation"], splits["test"])}
    else:
        if folds < 3:
            raise ValueError(f"folds={folds} is not allowed: at least 3 are needed, to train, to choose and to test.")
        pool = Cases.concatenate(list(splits.values()))
        members = folds_by_patient(pool, folds, seed)
        divided = {}
        for fold in range(folds):
            chooses = (fold + 1) % folds
            trains = sorted(set(range(len(pool))) - set(members[fold]) - set(members[chooses]))
            divided[f"fold-{fold}"] = tuple(pool.select(chosen) for chosen in (trains, members[chooses], members[fold]))
    at_sizes = []
    for name, (train, validation, test) in divided.items():
        if samples_per_class is not None:
            train = of_each_class(train, samples_per_class, seed, trained.get(name, name))
        for size in train_sizes or [None]:
            if size is not None and not 2 <= size <= len(train):
                raise ValueError(f"train size {size} is not allowed: from 2 to the {len(train)} training cases of {name}.")
            chosen = train if size is None else train.select(draw_pairs(train.class_labels, size, seed))
            at_sizes.append(Fold(name, trained.get(name, name), size, chosen, validation, test))
    return at_sizes


def labels_for(train: Cases, count: int, seed: int) -> np.ndarray:
    """Labels of `count` pairs in the proportions of the training cases; for as many as there are these, just theirs."""
    labels = train.class_labels.numpy()
    rounds, rest = divmod(count, len(labels))
    return np.concatenate([np.tile(labels, rounds), labels[draw_pairs(labels, rest, seed)]])
