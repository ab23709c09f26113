"""Divisions of the cases: who trains, who chooses, who is tested, and what must never be tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.cases import UNKNOWN_PATIENT, Cases, load_cases, of_each_class
from ..data.labels import gap
from ..data.layout import HELD_OUT_SPLITS
from ..data.loading import load_pairs
from ..data.pairs import MissingSplit
from ..data.splits import check_patients, split_by_patient
from ..provenance.guard import MOST_NAMED, refuse_contaminated


@dataclass(frozen=True)
class Division:
    """One division of the cases into those that train, those that choose and those that are tested.

    Attributes:
        name: name of its folder, "split", "fold-2" or "site-NAME".
        train: real cases that train.
        validation: real cases that choose the state of a network and its threshold.
        test: real cases that are tested, and have no other part in it.
        synthetic: pairs that may train.
    """

    name: str
    train: Cases
    validation: Cases
    test: Cases
    synthetic: Cases


def load_real(
    data: str | Path, size: int, samples_per_class: Sequence[int] | None = None, pooled: bool = False
) -> tuple[dict[str, Cases], list[str]]:
    """Return the splits that a real set has, `train` first, and notes on held-out cases that were left out.

    Args:
        data: folder or Hub data set.
        size: side in pixels that all cases are resampled to.
        samples_per_class: this many training cases of label 0, 1, ... alone (see `cases.of_each_class`).
        pooled: the splits will be divided anew, so that no film may stand twice in train either.

    Raises:
        FileNotFoundError, ValueError: when it cannot be read, has no train split, has no normal or no other training case, a
            patient is in two splits, or there are fewer cases of a class than asked for.
    """
    splits = {"train": load_cases(data, "train", size)}
    for split in HELD_OUT_SPLITS:
        try:
            splits[split] = load_cases(data, split, size)
        except MissingSplit:
            continue
    # An id that stands for a case without one says nothing about another split.
    check_patients(
        {
            name: [None if patient.startswith(UNKNOWN_PATIENT) else patient for patient in cases.patient_ids]
            for name, cases in splits.items()
        }
    )
    missing = gap(splits["train"].class_labels.tolist())
    if missing is not None:
        raise ValueError(f"{data}, split 'train': {missing}.")
    lesion = splits["train"].has_lesion
    if lesion.all() or not lesion.any():
        raise ValueError(
            f"{data}: no training case {'is normal (label 0)' if lesion.all() else 'has a lesion (label 1 or more)'}; both are "
            "needed."
        )
    if samples_per_class is not None:
        splits["train"] = of_each_class(splits["train"], samples_per_class)
        missing = gap(splits["train"].class_labels.tolist())
        if missing is not None:
            raise ValueError(f"samples_per_class {list(samples_per_class)} is not allowed: {missing}.")
    return leave_out_duplicates(splits, pooled)


def leave_out_duplicates(splits: Mapping[str, Cases], pooled: bool = False) -> tuple[dict[str, Cases], list[str]]:
    """Leave out held-out cases whose film stands in an earlier split, or before in their own, pixel by pixel.

    Of one film under two names a network would be tested on what has trained or chosen it.

    Args:
        splits: cases by split, in the order in which they are looked through.
        pooled: whether to leave out films that stand twice within the train split, too.

    Returns:
        The splits, and a note for each that has lost cases.
    """
    first_of: dict[bytes, str] = {}
    kept, notes = {}, []
    for split, cases in splits.items():
        chosen, known = [], []
        for index, (film, name) in enumerate(zip(cases.radiographs, cases.names, strict=True)):
            pixels = film.numpy().tobytes()
            if pixels in first_of and (split != "train" or pooled):
                known.append(f"{name} ({first_of[pixels]})")
            else:
                first_of.setdefault(pixels, f"{name} in {split}")
                chosen.append(index)
        kept[split] = cases.select(chosen) if known else cases
        if known:
            more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
            notes.append(
                f"{len(known)} {split} {'case was' if len(known) == 1 else 'cases were'} left out, having the same pixels as "
                f"another one: {', '.join(known[:MOST_NAMED])}{more}."
            )
    return kept, notes


def load_synthetic(folder: str | Path, size: int, real_train: Cases) -> Cases:
    """Return the pairs of a synthetic set.

    Their site is that of the real training case that each was made from, None where there is none.

    Raises:
        FileNotFoundError, ValueError: when it cannot be read or has a label that no real training case has.
    """
    synthetic = load_cases(folder, "train", size, synthetic=True)
    strange = set(synthetic.class_labels.tolist()) - set(real_train.class_labels.tolist())
    if strange:
        raise ValueError(f"{folder}: label {', '.join(map(str, sorted(strange)))} is not among the real training cases.")
    pairs = load_pairs(folder, "train")
    site_of = dict(zip(real_train.names, real_train.sites, strict=True))
    sources = dict.fromkeys(synthetic.names)
    for column in ("source", "masks_from"):
        if column in pairs.column_names:
            behind = zip(pairs.names, pairs[column], strict=True)
            sources |= {pair: source for pair, source in behind if source is not None}
    return replace(synthetic, sites=tuple(site_of.get(sources[name]) for name in synthetic.names))


def refuse_leaks(
    real: str | Path, splits: dict[str, Cases], synthetic_folder: str | Path, synthetic: Cases, allow_unrecorded: bool
) -> None:
    """Refuse held-out cases that trained the model behind the synthetic set, and pairs that are made from one or are one.

    Raises:
        ValueError: with the names of the cases.
    """
    held_out = [split for split in HELD_OUT_SPLITS if split in splits]
    for split in held_out:
        _refuse_identical(real, split, splits[split], synthetic_folder, synthetic)
        refuse_contaminated(
            real, split, synthetic=synthetic_folder, allow_unrecorded=allow_unrecorded, measured=splits[split].names
        )


def _refuse_identical(real, split: str, held_out: Cases, folder, synthetic: Cases) -> None:
    pairs = {image.numpy().tobytes(): name for image, name in zip(synthetic.radiographs, synthetic.names, strict=True)}
    identical = [
        f"case {name!r} is synthetic pair {pairs[image.numpy().tobytes()]!r}"
        for image, name in zip(held_out.radiographs, held_out.names, strict=True)
        if image.numpy().tobytes() in pairs
    ]
    if identical:
        more = f"; and {len(identical) - MOST_NAMED} more" if len(identical) > MOST_NAMED else ""
        raise ValueError(
            f"The {split} split of {real} must not be measured on, {len(identical)} of its radiographs are in {folder}, "
            f"pixel by pixel: {'; '.join(identical[:MOST_NAMED])}{more}."
        )


def folds_by_patient(cases: Cases, folds: int, seed: int) -> list[list[int]]:
    """Return the numbers of the cases of each fold; all cases of a patient are in the same one.

    Raises:
        ValueError: when there are more folds than patients, or a fold would be empty.
    """
    shares = {str(fold): 1 / folds for fold in range(folds)}
    try:
        return [*split_by_patient(cases.patient_ids, cases.class_labels.tolist(), shares, seed).values()]
    except ValueError as error:
        raise ValueError(
            f"folds={folds} is not allowed: the {len(cases)} cases of {len(set(cases.patient_ids))} patients are too few."
        ) from error


def divide(splits: dict[str, Cases], synthetic: Cases, folds: int | None, seed: int = 0) -> list[Division]:
    """Return the division that the splits are, or one for each fold.

    The folds divide the held-out cases (validation and test together) by patient: fold k is the test, fold k + 1 the
    validation, the others join the training cases. So every held-out case is tested once, and no generator has seen it.

    Raises:
        ValueError: when there are not the splits that are needed, or too few patients for the folds.
    """
    held_out = [splits[split] for split in HELD_OUT_SPLITS if split in splits]
    if folds is None:
        if len(held_out) < 2:
            missing = next(split for split in HELD_OUT_SPLITS if split not in splits)
            raise ValueError(
                f"There is no {missing} split: use --folds K, which tests the held-out cases in turn, by patient"
                + ("." if held_out else ", or set cases apart first: there are none.")
            )
        return [Division("split", splits["train"], splits["validation"], splits["test"], synthetic)]
    if folds < 2:
        raise ValueError(f"folds={folds} is not allowed: at least 2 are needed, one to test and one to choose by.")
    if not held_out:
        raise ValueError("There is neither a validation nor a test split: no case is held out that could be tested.")
    pool = Cases.concatenate(held_out)
    members = folds_by_patient(pool, folds, seed)
    divisions = []
    for fold in range(folds):
        choosing = (fold + 1) % folds
        others = [index for number in range(folds) if number not in (fold, choosing) for index in members[number]]
        train = Cases.concatenate([splits["train"], pool.select(others)])
        validation, test = pool.select(members[choosing]), pool.select(members[fold])
        divisions.append(Division(f"fold-{fold}", train, validation, test, synthetic))
    return divisions


def divide_by_site(splits: dict[str, Cases], synthetic: Cases) -> tuple[list[Division], list[str]]:
    """Return a division for each site: its held-out cases are tested.

    Nothing of the site, nor of a patient who is tested, trains or chooses. The other sites' validation cases choose (or,
    without that split, their test cases). Synthetic pairs that were made from a case of the site are left out.

    Returns:
        The divisions, and a note for each site that cannot be tested.

    Raises:
        ValueError: when there is no held-out case with a site.
    """
    held_out = [splits[split] for split in HELD_OUT_SPLITS if split in splits]
    pool = Cases.concatenate(held_out) if held_out else None
    sites = sorted({site for site in (pool.sites if pool is not None else ()) if site is not None})
    if len(sites) < 2:
        raise ValueError(f"leave_one_site_out needs held-out cases of at least 2 sites; there are {sites or 'none'}.")
    divisions, notes = [], []
    for site in sites:
        test = pool.select([index for index, value in enumerate(pool.sites) if value == site])
        patients = set(test.patient_ids)
        train, validation = (
            cases.select(
                [
                    index
                    for index, (other, patient) in enumerate(zip(cases.sites, cases.patient_ids, strict=True))
                    if other != site and patient not in patients
                ]
            )
            for cases in (splits["train"], held_out[0])
        )
        pairs = synthetic.select([index for index, other in enumerate(synthetic.sites) if other != site])
        division = Division(f"site-{site}", train, validation, test, pairs)
        reason = _why_not(division, len(set(splits["train"].class_labels.tolist())))
        if reason is None:
            divisions.append(division)
        else:
            notes.append(f"Site {site!r} was not left out: {reason}.")
    return divisions, notes


def _why_not(division: Division, num_labels: int) -> str | None:
    if len(set(division.train.class_labels.tolist())) < num_labels:
        return "the training cases of the other sites do not have every label"
    if len(set(division.validation.has_lesion.tolist())) < 2:
        return "the validation cases of the other sites do not have both classes"
    return None
