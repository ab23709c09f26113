"""Check of a data folder, file by file: `macdm check`.

It is the reader and the decoder that everything else reads by, and what they find: a folder without a fault is read as it is,
and what a training refuses is a fault here.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from ..files import refuse_existing, write_json
from ..progress import Progress
from .beside import note_what_stands_beside
from .check_cases import CaseInspection
from .decoding import Case, decode
from .faults import Fault, Report, shown
from .labels import gap, listed
from .layout import METADATA, OPTIONAL_COLUMNS, PROVENANCE_COLUMNS, REGION_COLUMNS, SPACING_COLUMN, SPLITS, without_words
from .reader import FILE_NAME_COLUMNS, Folder, read_folder
from .settings import CheckSettings
from .splits import shared_patients


KNOWN_COLUMNS = ("label", *OPTIONAL_COLUMNS, *PROVENANCE_COLUMNS, SPACING_COLUMN, *REGION_COLUMNS)


def check_dataset(data_dir: str | Path) -> list[Fault]:
    """List every fault of the data set in `data_dir`, split by split and row by row; an empty list when there is none.

    Looked for: no train split; splits without metadata or without rows; invalid JSON; missing columns; labels that are none, or
    leave out a number; paths that leave the split folder; files that are missing, no ordinary files, unreadable, too large, not
    grayscale, of several images, named twice; blank radiographs, and sets that are dark or of several depths; the same
    radiograph in two splits (within a split it is a note); masks with more than two values, of another size or turned
    otherwise than the radiograph; lesions outside the anatomy; labels that contradict the lesion mask; patients in two splits.

    Raises:
        FileNotFoundError, NotADirectoryError: when `data_dir` is no folder.
    """
    return inspect_dataset(data_dir).faults


def inspect_dataset(data_dir: str | Path, show_progress: bool = False) -> Report:
    """Do what `check_dataset` does, with notes and counts, and with a progress bar on stderr if asked for."""
    folder, report = read_folder(data_dir), Report()
    _check_splits(folder, report)
    report.faults += [*folder.refusals, *folder.faults]
    report.num_cases = dict(folder.num_lines)
    inspection = CaseInspection(report)
    total = sum(map(len, folder.cases.values()))
    with Progress(total, "check", "case", show=show_progress) as progress:
        for split, cases in folder.cases.items():
            for case in cases:
                inspection.check(split, case, decode(case))
                progress.update()
    inspection.compare_all()
    check_labels(folder, report)
    _check_patients(folder, report)
    _note_absent_mask(folder, report)
    _note_columns(folder, report)
    note_what_stands_beside(folder, report)
    return report


def faults_of_lines(data_dir: str | Path) -> list[Fault]:
    """List the faults of a data set that show without a look at its images.

    Raises:
        FileNotFoundError, NotADirectoryError: when `data_dir` is no folder.
    """
    folder, report = read_folder(data_dir), Report()
    _check_splits(folder, report)
    report.faults += [*folder.refusals, *folder.faults]
    check_labels(folder, report)
    _check_patients(folder, report)
    return report.faults


def _check_splits(folder: Folder, report: Report) -> None:
    if "train" in folder.cases:
        return
    reason = f"there is no folder train with a {METADATA}; it is required."
    if (folder.path / METADATA).exists():
        reason += f" {METADATA} stands in the folder itself: give the folder above, where this one is called train."
    report.fault("train", "no train split", reason)


def check_labels(folder: Folder, report: Report) -> None:
    """Find class numbers that no case has, and those that no training case has; synthetic sets may have some of them alone."""
    real = {
        split: {case.values["label"] for case in cases if not _is_synthetic(case)} - {None}
        for split, cases in folder.cases.items()
    }
    known = real.get("train", set())
    missing = gap(known)
    if missing is not None:
        report.fault(f"train/{METADATA}", "gap in the labels", f"{missing}.")
    for split, labels in real.items():
        strange = sorted(labels - known)
        if strange and known:
            reason = f"label {listed(strange)} is that of no training case."
            report.fault(f"{split}/{METADATA}", "label without training case", reason)


def _is_synthetic(case: Case) -> bool:
    return case.values.get("model") is not None and case.values.get("seed") is not None


def _check_patients(folder: Folder, report: Report) -> None:
    patients = {
        split: [None if case.values["patient_id"] is None else str(case.values["patient_id"]) for case in cases]
        for split, cases in folder.cases.items()
    }
    for patient, splits in shared_patients(patients).items():
        reason = f"patient {shown(repr(patient))} is in {' and '.join(splits)}; a patient may be in one split only."
        report.fault(f"{splits[-1]}/{METADATA}", "patient in two splits", reason)
    alike: dict[str, dict[str, str]] = {}  # without case and blanks -> id as written -> split
    for split, of_split in patients.items():
        for patient in filter(None, of_split):
            key = "".join(unicodedata.normalize("NFKC", patient).split()).casefold()
            alike.setdefault(key, {}).setdefault(patient, split)
    for written in alike.values():
        if len(written) > 1:
            reason = f"patients {listed(written)} differ in case or blanks alone, and count as different ones."
            report.note(f"{list(written.values())[-1]}/{METADATA}", "patients that are alike", shown(reason))


def _note_absent_mask(folder: Folder, report: Report) -> None:
    """Say of a set with one mask that it is read as such: a column with another name would go unnoticed."""
    words = without_words(folder.masks)
    if words is not None:
        column = next(name for mask, name in FILE_NAME_COLUMNS.items() if mask != "image" and mask not in folder.masks)
        reason = (
            f"the set has {words}: no line of any split names a file in {column}. Models of it know none, and nothing is "
            "measured on them."
        )
        report.note(f"{next(iter(folder.cases), SPLITS[0])}/{METADATA}", "one mask", reason)


def _note_columns(folder: Folder, report: Report) -> None:
    columns = dict.fromkeys(column for of_split in folder.columns.values() for column in of_split)
    others = [column for column in columns if column not in KNOWN_COLUMNS]
    if others:
        split = next(split for split, of_split in folder.columns.items() if others[0] in of_split)
        reason = f"column {listed(others)} is not used; {', '.join(KNOWN_COLUMNS[: 1 + len(OPTIONAL_COLUMNS)])} are."
        report.note(f"{split}/{METADATA}", "other columns", shown(reason))
    if folder.class_names:
        numbers = ", ".join(f"{number} is {name!r}" for number, name in enumerate(folder.class_names))
        report.note(f"{next(iter(folder.cases), SPLITS[0])}/{METADATA}", "names as labels", shown(f"class {numbers}."))


def run(settings: CheckSettings, *, show_progress: bool = True) -> Report:
    """Inspect the data set, and write the report to `settings.json` where one is asked for.

    Raises:
        FileExistsError, FileNotFoundError: when that file is there already, or its folder is not.
    """
    refuse_existing(settings.json)
    report = inspect_dataset(settings.data, show_progress=show_progress)
    if settings.json is not None:
        refuse_existing(settings.json)
        write_json(settings.json, {"data": settings.data, **report.to_dict()}, indent=2)
    return report
