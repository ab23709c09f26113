"""What is wrong with a data folder: `macdm check`.

The folder is read here without the `datasets` library, file by file, so that one faulty file hides no other.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import refuse_existing, write_json
from ..macdm.image_processor import mask_array, radiograph_array
from ..macdm.joint_sample import NORMAL_LABEL
from ..progress import Progress
from .layout import IMAGE_COLUMNS, METADATA, OPTIONAL_COLUMNS, PROVENANCE_COLUMNS, REQUIRED_COLUMNS, SPLITS
from .loading import radiograph_digest
from .settings import CheckSettings
from .splits import shared_patients


# What stands in metadata.jsonl: `datasets` makes the column `image` out of `image_file_name`, and so on.
FILE_NAME_COLUMNS = {column: f"{column}_file_name" for column in IMAGE_COLUMNS}
REQUIRED_METADATA = tuple(FILE_NAME_COLUMNS.get(column, column) for column in REQUIRED_COLUMNS)
ALLOWED_METADATA = (*REQUIRED_METADATA, *OPTIONAL_COLUMNS, *PROVENANCE_COLUMNS)

CONTRADICTION = "label contradicts the lesion mask"  # a kind of fault
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".jp2")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: path relative to the data folder, with `/`; `:LINE` follows where a row of `metadata.jsonl` is at fault.
        reason: one sentence: what is there, and what is allowed.
        kind: which check failed, in a few fixed words (`missing file`, `size mismatch`, ...).
    """

    file: str
    reason: str
    kind: str


@dataclass
class Report:
    """What `inspect_dataset` found: faults, notes (worth a look, but allowed) and the number of rows by split."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)
    num_cases: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)


def check_dataset(data_dir: str | Path) -> list[Fault]:
    """Every fault of the data set in `data_dir`, split by split and row by row; an empty list when there is none.

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
    """`check_dataset` with notes and counts; a progress bar on stderr if asked for."""
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
        self.first_with_content: dict[str, dict[str, str]] = {}  # digest of the decoded radiograph -> split -> file

        splits = self._find_splits()
        self.unread: set[str] = set()  # splits of which not every row could be read
        rows = {split: self._read_rows(split) for split in splits}
        self.report.num_cases = {split: len(rows_of_split) for split, rows_of_split in rows.items()}
        with Progress(sum(self.report.num_cases.values()), "check", "case", show=show_progress) as progress:
            for split in splits:
                self._check_columns(split, rows[split])
                named = self._name_files(split, rows[split])
                for line, row in rows[split]:
                    self._check_case(split, line, row)
                    progress.update()
                if split not in self.unread:  # else a row that could not be read may name the file
                    self._check_unlisted(split, named)
        self._compare_columns()
        self._check_patients()

    def fault(self, file: str, kind: str, reason: str) -> None:
        self.report.faults.append(Fault(file, reason, kind))

    def _find_splits(self) -> list[str]:
        present = [split for split in SPLITS if (self.data_dir / split).is_dir()]
        if "train" not in present:
            self.fault("train", "no train split", f"there is no folder train with a {METADATA}; it is required.")
        for folder in sorted(path for path in self.data_dir.iterdir() if path.is_dir()):
            if folder.name not in SPLITS and (folder / METADATA).exists():
                reason = f"{folder.name!r} is not the name of a split; allowed are {', '.join(SPLITS)}."
                self.fault(folder.name, "unknown split", reason)
        return present

    def _read_rows(self, split: str) -> list[tuple[int, dict]]:
        """The rows of a split that are JSON objects, each with its line number."""
        metadata = f"{split}/{METADATA}"
        try:
            lines = (self.data_dir / metadata).read_bytes().splitlines()
        except FileNotFoundError:
            self.fault(split, "empty split", f"the folder has no {METADATA}, so the split is empty.")
            self.unread.add(split)
            return []
        except OSError as error:
            self.fault(metadata, "unreadable file", f"cannot be read ({error.strerror}).")
            self.unread.add(split)
            return []
        rows = []
        for line, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
            except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
                self.fault(f"{metadata}:{line}", "invalid JSON", f"the line is not valid JSON ({error}).")
                self.unread.add(split)
                continue
            if not isinstance(row, dict):
                self.fault(f"{metadata}:{line}", "invalid JSON", 'the line is not a JSON object ({"column": value}).')
                self.unread.add(split)
                continue
            rows.append((line, row))
        if not any(text.strip() for text in lines):
            self.fault(metadata, "empty split", "there is no row, so the split is empty.")
        return rows

    def _check_columns(self, split: str, rows: list[tuple[int, dict]]) -> None:
        """Names, presence and types of the columns, one fault for each column rather than for each row."""
        metadata = f"{split}/{METADATA}"
        lines_of, types_of = defaultdict(list), defaultdict(set)
        for line, row in rows:
            for column, value in row.items():
                lines_of[column].append(line)
                types_of[column].add(_json_type(value))
        for column, lines in lines_of.items():
            if column not in ALLOWED_METADATA:
                reason = f"unknown column {column!r} ({_in_lines(lines)}); allowed are {', '.join(ALLOWED_METADATA)}."
                self.fault(metadata, "unknown column", reason)
            types = types_of[column] - {"null"}
            if len(types) > 1 and types != {"integer", "number"}:
                reason = f"column {column!r} mixes {' and '.join(sorted(types))} values; one type is needed."
                self.fault(metadata, "mixed types", reason)
        for column in REQUIRED_METADATA:
            lines = [line for line, row in rows if column not in row]
            if lines:
                self.fault(metadata, "missing column", f"required column {column!r} is missing ({_in_lines(lines)}).")
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
        """`datasets` opens no folder whose splits differ in the columns or their types."""
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
                    self.fault(f"{split}/{METADATA}", "columns differ", reason)

    def _name_files(self, split: str, rows: list[tuple[int, dict]]) -> set[str]:
        """The files that the rows of a split name, relative to the split folder."""
        first_naming = {}
        for line, row in rows:
            for column in FILE_NAME_COLUMNS.values():
                name = _inside(row.get(column))
                if name is None:
                    continue
                if name in first_naming:
                    reason = f"named by {column} in line {line} and already by {first_naming[name]}; once is allowed."
                    self.fault(f"{split}/{name}", "file named twice", reason)
                else:
                    first_naming[name] = f"{column} in line {line}"
        return set(first_naming)

    def _check_unlisted(self, split: str, named: set[str]) -> None:
        folder = self.data_dir / split
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and name not in named:
                if path.is_file():
                    self.fault(f"{split}/{name}", "unlisted file", f"no row of {METADATA} names this file.")

    def _check_case(self, split: str, line: int, row: dict) -> None:
        row_at = f"{split}/{METADATA}:{line}"
        images = {
            column: self._read_image(split, row_at, name_column, row[name_column])
            for column, name_column in FILE_NAME_COLUMNS.items()
            if name_column in row
        }
        radiograph = images.get("image")
        if radiograph is not None:
            self._check_radiograph(*radiograph)
        masks = {}
        for column in ("anatomy_mask", "lesion_mask"):
            if images.get(column) is None:
                continue
            file, image = images[column]
            if radiograph is not None and image.size != radiograph[1].size:
                reason = f"{_size(image)} pixels, but its radiograph {radiograph[0]} has {_size(radiograph[1])}."
                self.fault(file, "size mismatch", reason)
            try:
                masks[column] = mask_array(image)
            except ValueError as error:
                self.fault(file, "not grayscale", str(error))
        label_is_valid = self._check_label(row_at, row)
        if "lesion_mask" in masks:
            if label_is_valid and row["label"] is not None:
                self._check_label_against_lesion(images["lesion_mask"][0], row["label"], masks["lesion_mask"])
            if "anatomy_mask" in masks:
                self._check_lesion_in_anatomy(images, masks["anatomy_mask"], masks["lesion_mask"])

    def _read_image(self, split: str, row_at: str, column: str, name) -> tuple[str, Image.Image] | None:
        """The decoded image and its path; None, and a fault, when there is none."""
        inside = _inside(name)
        if inside is None:
            reason = f"{column} is {name!r}; a relative path inside the folder {split} is needed."
            self.fault(row_at, "path outside the folder" if isinstance(name, str) and name else "missing file", reason)
            return None
        file = f"{split}/{inside}"
        try:
            content = (self.data_dir / file).read_bytes()
        except FileNotFoundError:
            self.fault(file, "missing file", f"{column} in line {row_at.rpartition(':')[2]} names it, but it is not there.")
            return None
        except OSError as error:
            self.fault(file, "unreadable image", f"cannot be read ({error.strerror}).")
            return None
        try:
            Image.open(io.BytesIO(content)).verify()  # checksums, which decoding passes over
            image = Image.open(io.BytesIO(content))
            image.load()  # opening reads the header alone: a truncated file shows here
        except Exception as error:  # Pillow's decoders raise many classes (OSError, SyntaxError, struct.error, ...)
            what = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__
            self.fault(file, "unreadable image", f"cannot be decoded ({what}).")
            return None
        return file, image

    def _check_radiograph(self, file: str, image: Image.Image) -> None:
        try:
            values = radiograph_array(image)
        except ValueError as error:
            self.fault(file, "not grayscale", str(error))
            return
        if values.min() == values.max():
            self.fault(file, "blank radiograph", f"every pixel has the same value ({values.flat[0]:g} of 1).")
            return
        split = file.split("/")[0]
        first_by_split = self.first_with_content.setdefault(radiograph_digest(values), {})
        elsewhere = [first for other, first in first_by_split.items() if other != split]
        first = first_by_split.setdefault(split, file)
        if elsewhere:  # one patient in two splits, whatever the patient_id says
            reason = f"has the same content, pixel by pixel, as {elsewhere[0]} in another split."
            self.fault(file, "duplicate radiograph", reason)
        elif first != file:  # one file named by two rows is reported as that
            reason = f"has the same content, pixel by pixel, as {first}."
            self.report.notes.append(Fault(file, reason, "duplicate radiograph"))

    def _check_label(self, row_at: str, row: dict) -> bool:
        if "label" not in row:
            return False
        label = row["label"]
        if label is None or (_json_type(label) == "integer" and label >= 0):
            return True
        reason = f"label is {label!r}; 0 (normal), 1, 2, ... or null (unlabeled) is allowed."
        self.fault(row_at, "invalid label", reason)
        return False

    def _check_label_against_lesion(self, lesion_file: str, label: int, lesion_mask: np.ndarray) -> None:
        pixels = int(lesion_mask.sum())
        if label == NORMAL_LABEL and pixels:
            reason = f"label {label} means no lesion, but the lesion mask has {pixels} pixels."
        elif label != NORMAL_LABEL and not pixels:
            reason = f"label {label} means a lesion, but the lesion mask is empty."
        else:
            return
        self.fault(lesion_file, CONTRADICTION, reason)

    def _check_lesion_in_anatomy(self, images: dict, anatomy_mask: np.ndarray, lesion_mask: np.ndarray) -> None:
        if anatomy_mask.shape != lesion_mask.shape:
            return  # a size mismatch, told already
        outside = int((lesion_mask & ~anatomy_mask).sum())
        if outside:
            reason = f"{outside} of {int(lesion_mask.sum())} lesion pixels are outside the anatomy mask."
            self.fault(images["lesion_mask"][0], "lesion outside the anatomy", reason)
        elif not anatomy_mask.any():
            note = Fault(images["anatomy_mask"][0], "the anatomy mask is empty.", "empty anatomy mask")
            self.report.notes.append(note)

    def _check_patients(self) -> None:
        for patient, splits in shared_patients(self.patients).items():
            reason = f"patient {patient!r} is in {' and '.join(splits)}; a patient may be in one split only."
            self.fault(f"{splits[-1]}/{METADATA}", "patient in two splits", reason)


def _inside(name) -> str | None:
    """The normalised path, or None where it is no relative path that stays inside its folder."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name or name.startswith("/"):
        return None
    name = posixpath.normpath(name)
    return None if name == "." or name.split("/")[0] == ".." else name


def _json_type(value) -> str:
    names = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _in_lines(lines: list[int]) -> str:
    return f"line {lines[0]}" if len(lines) == 1 else f"{len(lines)} rows, first in line {lines[0]}"


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


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
