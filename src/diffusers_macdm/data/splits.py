"""Splits by patient: two films of one person never stand on both sides of a comparison."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np


def split_by_patient(
    patient_ids: Sequence[Hashable | None],
    labels: Sequence[Hashable | None],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[int]]:
    """Divide cases into splits so that all cases of a patient share one, stratified by label as well as that allows.

    Patients are taken from the one with most cases to the one with fewest (in random order among equals), and each goes
    to the split where it brings the number of cases of each label nearest to `fraction * total`, in squared distance
    relative to the label's total.

    Args:
        patient_ids: patient of each case; a case with None is a patient of its own.
        labels: class label of each case (None for unlabeled ones, which are balanced as a class of their own).
        fractions: share of the cases for each split by name, positive, adding up to 1.
        seed: of the random order.

    Returns:
        The sorted indices of each split, in the order of `fractions`. Every index is in exactly one split.

    Raises:
        ValueError: when the lengths differ, the fractions are not as described, or there are too few patients to fill
            each split.
    """
    if len(patient_ids) != len(labels):
        raise ValueError(f"There are {len(patient_ids)} patient ids and {len(labels)} labels; one of each per case.")
    if not all(fraction > 0 for fraction in fractions.values()) or not math.isclose(sum(fractions.values()), 1):
        raise ValueError(f"fractions={dict(fractions)} is not allowed: positive shares that add up to 1 are needed.")

    cases_of = defaultdict(list)
    for index, patient in enumerate(patient_ids):
        cases_of[("case", index) if patient is None else ("patient", patient)].append(index)
    patients = list(cases_of.values())
    order = np.random.default_rng(seed).permutation(len(patients))
    patients = sorted((patients[place] for place in order), key=len, reverse=True)

    names = list(dict.fromkeys(labels))
    columns = {name: column for column, name in enumerate(names)}
    counts = np.zeros((len(patients), len(names)))  # cases by patient and label
    for row, cases in enumerate(patients):
        for index in cases:
            counts[row, columns[labels[index]]] += 1
    totals = counts.sum(axis=0)
    missing = np.outer(list(fractions.values()), totals)  # cases by split and label that are still to come

    indices = [[] for _ in fractions]
    for cases, count in zip(patients, counts, strict=True):
        # (missing - count)^2 - missing^2, the change of the squared distance if this split takes the patient
        change = ((count**2 - 2 * missing * count) / totals).sum(axis=1)
        chosen = int(np.argmin(change))
        missing[chosen] -= count
        indices[chosen] += cases
    splits = {split: sorted(chosen) for split, chosen in zip(fractions, indices, strict=True)}
    empty = [split for split, chosen in splits.items() if not chosen]
    if empty:
        raise ValueError(
            f"Split {', '.join(empty)} would be empty: {len(patients)} patients with {len(labels)} cases are too few for "
            f"fractions={dict(fractions)}."
        )
    return splits


def shared_patients(splits: Mapping[str, Sequence[Hashable | None]]) -> dict[Hashable, list[str]]:
    """Find the patients that are in more than one split, each with the names of those splits. None is no patient."""
    found = defaultdict(list)
    for split, patient_ids in splits.items():
        for patient in dict.fromkeys(patient_ids):
            if patient is not None:
                found[patient].append(split)
    return {patient: names for patient, names in found.items() if len(names) > 1}


def check_patients(splits: Mapping[str, Sequence[Hashable | None]]) -> None:
    """Raise `ValueError` when a patient is in two splits, naming each such patient and its splits.

    Args:
        splits: the patient of each case, by split; None stands for an unknown patient and is passed over.
    """
    shared = shared_patients(splits)
    if shared:
        listed = "; ".join(f"{patient!r} in {' and '.join(names)}" for patient, names in shared.items())
        raise ValueError(f"A patient may be in one split only, but these are in several: {listed}.")
