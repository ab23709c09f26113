"""Check of a data folder, file by file: `macdm check`.

The folder is read here without the `datasets` library, file by file, so that one faulty file hides no other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from ..files import refuse_existing, write_json
from ..progress import Progress
from .check_cases import FILE_NAME_COLUMNS, CaseInspection, json_type, path_inside
from .faults import Fault, Report
from .layout import GENERATION_FILE, METADATA, OPTIONAL_COLUMNS, PROVENANCE_COLUMNS, REQUIRED_COLUMNS, SPLITS, unfinished
from .settings import CheckSettings
from .splits import shared_patients


REQUIRED_METADATA = tuple(FILE_NAME_COLUMNS.get(column, column) for column in REQUIRED_COLUMNS)
ALLOWED_METADATA = (*REQUIRED_METADATA, *OPTIONAL_COLUMNS, *PROVENANCE_COLUMNS)

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".jp2")


def check_dataset(data_dir: str | Path) -> list[Fault]:
    """List every fault of the data set in `data_dir`, split by split and row by row; an empty list when there is none.

    Looked for: no train split; split folders of another name, without metadata or without rows; invalid JSON; unknown,
    missing and inconsistent columns; labels that are no class label; paths that leave the split folder; files that are
    missing, unreadable, not grayscale, named twice or named by no row; blank radiographs; the same radiograph in two
    splits (within a split it is a note); masks of another size than the radiograph; lesions outside the anatomy; labels
    that contradict the lesion mask; patients in two splits.

    Raises:
        FileNotFoundError, NotADirectoryError: when `data_dir` is no folder.
    """
    return inspect_dataset(data_dir).faults


def inspect_dataset(data_dir: str | Path, show_progress: bool = False) -> Report:
    """Do what `check_dataset` does, with notes and counts, and with a progress bar on stderr if asked for."""
    data_dir = Path(data_dir)
    if not data_dir.exists():
        raise FileNotFoundError(f"{data_dir}: no such folder.")
    if not data_dir.is_dir():
        raise NotADirectoryError(f"{data_dir} is a file; a folder with train/{METADATA} is needed.")
    return _Inspection(data_dir, show_progress).report


class _Inspection:
    """One pass over a data folder. What has to be compared across rows and splits is gathered on the way."""

    def __init__(self, data_dir: Path, show_progress: bool):
        self.data_dir = data_dir
        self.report = Report()
        self.columns: dict[str, dict[str, str]] = {}  # split -> column -> type
        self.patients: dict[str, list] = {}  # split -> patient of each row
        cases = CaseInspection(data_dir, self.report)

        reason = unfinished(data_dir)
        if reason is not None:
            self.report.fault(GENERATION_FILE, "unfinished set", reason)
        splits = self._find_splits()
        self.unread: set[str] = set()  # splits of which not every row could be read
        rows = {split: self._read_rows(split) for split in splits}
        self.report.num_cases = {split: len(rows_of_split) for split, rows_of_split in rows.items()}
        with Progress(sum(self.report.num_cases.values()), "check", "case", show=show_progress) as progress:
            for split in splits:
                self._check_columns(split, rows[split])
                named = self._name_files(split, rows[split])
                for line, row in rows[split]:
                    cases.check(split, line, row)
                    progress.update()
                if split not in self.unread:  # else a row that could not be read may name the file
                    self._check_unlisted(split, named)
        self._compare_columns()
        self._check_patients()

    def _find_splits(self) -> list[str]:
        present = [split for split in SPLITS if (self.data_dir / split).is_dir()]
        if "train" not in present:
            self.report.fault("train", "no train split", f"there is no folder train with a {METADATA}; it is required.")
        for folder in sorted(path for path in self.data_dir.iterdir() if path.is_dir()):
            if folder.name not in SPLITS and (folder / METADATA).exists():
                reason = f"{folder.name!r} is not the name of a split; allowed are {', '.join(SPLITS)}."
                self.report.fault(folder.name, "unknown split", reason)
        return present

    def _read_rows(self, split: str) -> list[tuple[int, dict]]:
        """Return the rows of a split that are JSON objects, each with its line number."""
        metadata = f"{split}/{METADATA}"
        try:
            lines = (self.data_dir / metadata).read_bytes().splitlines()
        except FileNotFoundError:
            self.report.fault(split, "empty split", f"the folder has no {METADATA}, so the split is empty.")
            self.unread.add(split)
            return []
        except OSError as error:
            self.report.fault(metadata, "unreadable file", f"cannot be read ({error.strerror}).")
            self.unread.add(split)
            return []
        rows = []
        for line, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
            except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
                self.report.fault(f"{metadata}:{line}", "invalid JSON", f"the line is not valid JSON ({error}).")
                self.unread.add(split)
                continue
            if not isinstance(row, dict):
                self.report.fault(f"{metadata}:{line}", "invalid JSON", 'the line is not a JSON object ({"column": value}).')
                self.unread.add(split)
                continue
            rows.append((line, row))
        if not any(text.strip() for text in lines):
            self.report.fault(metadata, "empty split", "there is no row, so the split is empty.")
        return rows

    def _check_columns(self, split: str, rows: list[tuple[int, dict]]) -> None:
        """Check names, presence and types of the columns, with one fault for each column rather than for each row."""
        metadata = f"{split}/{METADATA}"
        lines_of, types_of = defaultdict(list), defaultdict(set)
        for line, row in rows:
            for column, value in row.items():
                lines_of[column].append(line)
                types_of[column].add(json_type(value))
        for column, lines in lines_of.items():
            if column not in ALLOWED_METADATA:
                reason = f"unknown column {column!r} ({_in_lines(lines)}); allowed are {', '.join(ALLOWED_METADATA)}."
                self.report.fault(metadata, "unknown column", reason)
            types = types_of[column] - {"null"}
            if len(types) > 1 and types != {"integer", "number"}:
                reason = f"column {column!r} mixes {' and '.join(sorted(types))} values; one type is needed."
                self.report.fault(metadata, "mixed types", reason)
        for column in REQUIRED_METADATA:
            lines = [line for line, row in rows if column not in row]
            if lines:
                self.report.fault(metadata, "missing column", f"required column {column!r} is missing ({_in_lines(lines)}).")
        # As the reader of `datasets` sees them: a column without any value has no type.
        self.columns[split] = {}
        for column, types in types_of.items():
            types = types - {"null"}
            number = types == {"integer", "number"}
            self.columns[split][column] = "number" if number else "mixed" if len(types) > 1 else min(types, default="null")
        self.patients[split] = [
            patient for _, row in rows if isinstance(patient := row.get("patient_id"), (str, int)) and patient != ""
        ]

    def _compare_columns(self) -> None:
        """Compare the columns of the splits: `datasets` opens no folder whose splits differ in the columns or their types."""
        splits = [split for split in self.columns if self.report.num_cases[split]]
        for split in splits[1:]:
            first, other = self.columns[splits[0]], self.columns[split]
            for column in dict.fromkeys((*first, *other)):
                here, there = other.get(column, "absent"), first.get(column, "absent")
                told_already = "mixed" in (here, there) or (column in REQUIRED_METADATA and "absent" in (here, there))
                if here != there and not told_already:
                    reason = (
                        f"column {column!r} is {here} here and {there} in {splits[0]}; it must be the same in every "
                        "split, or the data set cannot be loaded."
                    )
                    self.report.fault(f"{split}/{METADATA}", "columns differ", reason)

    def _name_files(self, split: str, rows: list[tuple[int, dict]]) -> set[str]:
        """Return the files that the rows of a split name, relative to the split folder."""
        first_naming = {}
        for line, row in rows:
            for column in FILE_NAME_COLUMNS.values():
                name = path_inside(row.get(column))
                if name is None:
                    continue
                if name in first_naming:
                    reason = f"named by {column} in line {line} and already by {first_naming[name]}; once is allowed."
                    self.report.fault(f"{split}/{name}", "file named twice", reason)
                else:
                    first_naming[name] = f"{column} in line {line}"
        return set(first_naming)

    def _check_unlisted(self, split: str, named: set[str]) -> None:
        folder = self.data_dir / split
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and name not in named:
                if path.is_file():
                    self.report.fault(f"{split}/{name}", "unlisted file", f"no row of {METADATA} names this file.")

    def _check_patients(self) -> None:
        for patient, splits in shared_patients(self.patients).items():
            reason = f"patient {patient!r} is in {' and '.join(splits)}; a patient may be in one split only."
            self.report.fault(f"{splits[-1]}/{METADATA}", "patient in two splits", reason)


def _in_lines(lines: list[int]) -> str:
    return f"line {lines[0]}" if len(lines) == 1 else f"{len(lines)} rows, first in line {lines[0]}"


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


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
