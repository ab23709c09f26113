"""Faults of single cases: of their three images, and of the label beside the lesion mask."""

from __future__ import annotations

import io
import posixpath
from pathlib import Path

import numpy as np
from PIL import Image

from ..macdm.image_processor import mask_array, radiograph_array
from ..macdm.joint_sample import NORMAL_LABEL
from .faults import Report
from .layout import IMAGE_COLUMNS, METADATA
from .loading import radiograph_digest


# What stands in metadata.jsonl: `datasets` makes the column `image` out of `image_file_name`, and so on.
FILE_NAME_COLUMNS = {column: f"{column}_file_name" for column in IMAGE_COLUMNS}
CONTRADICTION = "label contradicts the lesion mask"  # a kind of fault


class CaseInspection:
    """Checks of one case after the other; of each radiograph the digest is kept, for the next ones.

    Args:
        data_dir: folder of the set.
        report: gets the faults and notes.
    """

    def __init__(self, data_dir: Path, report: Report):
        self.data_dir = data_dir
        self.report = report
        self.first_with_content: dict[str, dict[str, str]] = {}  # digest of the decoded radiograph -> split -> file

    def check(self, split: str, line: int, row: dict) -> None:
        """Check the files and the label of one row of `metadata.jsonl`."""
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
                self.report.fault(file, "size mismatch", reason)
            try:
                masks[column] = mask_array(image)
            except ValueError as error:
                self.report.fault(file, "not grayscale", str(error))
        label_is_valid = self._check_label(row_at, row)
        if "lesion_mask" in masks:
            if label_is_valid and row["label"] is not None:
                self._check_label_against_lesion(images["lesion_mask"][0], row["label"], masks["lesion_mask"])
            if "anatomy_mask" in masks:
                self._check_lesion_in_anatomy(images, masks["anatomy_mask"], masks["lesion_mask"])

    def _read_image(self, split: str, row_at: str, column: str, name) -> tuple[str, Image.Image] | None:
        """Return the decoded image and its path; None, and a fault, when there is none."""
        inside = path_inside(name)
        if inside is None:
            reason = f"{column} is {name!r}; a relative path inside the folder {split} is needed."
            self.report.fault(row_at, "path outside the folder" if isinstance(name, str) and name else "missing file", reason)
            return None
        file = f"{split}/{inside}"
        try:
            content = (self.data_dir / file).read_bytes()
        except FileNotFoundError:
            reason = f"{column} in line {row_at.rpartition(':')[2]} names it, but it is not there."
            self.report.fault(file, "missing file", reason)
            return None
        except OSError as error:
            self.report.fault(file, "unreadable image", f"cannot be read ({error.strerror}).")
            return None
        try:
            Image.open(io.BytesIO(content)).verify()  # checksums, which decoding passes over
            image = Image.open(io.BytesIO(content))
            image.load()  # opening reads the header alone: a truncated file shows here
        except Exception as error:  # Pillow's decoders raise many classes (OSError, SyntaxError, struct.error, ...)
            what = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__
            self.report.fault(file, "unreadable image", f"cannot be decoded ({what}).")
            return None
        return file, image

    def _check_radiograph(self, file: str, image: Image.Image) -> None:
        try:
            values = radiograph_array(image)
        except ValueError as error:
            self.report.fault(file, "not grayscale", str(error))
            return
        if values.min() == values.max():
            self.report.fault(file, "blank radiograph", f"every pixel has the same value ({values.flat[0]:g} of 1).")
            return
        split = file.split("/")[0]
        first_by_split = self.first_with_content.setdefault(radiograph_digest(values), {})
        elsewhere = [first for other, first in first_by_split.items() if other != split]
        first = first_by_split.setdefault(split, file)
        if elsewhere:  # one patient in two splits, whatever the patient_id says
            reason = f"has the same content, pixel by pixel, as {elsewhere[0]} in another split."
            self.report.fault(file, "duplicate radiograph", reason)
        elif first != file:  # one file named by two rows is reported as that
            reason = f"has the same content, pixel by pixel, as {first}."
            self.report.note(file, "duplicate radiograph", reason)

    def _check_label(self, row_at: str, row: dict) -> bool:
        if "label" not in row:
            return False
        label = row["label"]
        if label is None or (json_type(label) == "integer" and label >= 0):
            return True
        reason = f"label is {label!r}; 0 (normal), 1, 2, ... or null (unlabeled) is allowed."
        self.report.fault(row_at, "invalid label", reason)
        return False

    def _check_label_against_lesion(self, lesion_file: str, label: int, lesion_mask: np.ndarray) -> None:
        pixels = int(lesion_mask.sum())
        if label == NORMAL_LABEL and pixels:
            reason = f"label {label} means no lesion, but the lesion mask has {pixels} pixels."
        elif label != NORMAL_LABEL and not pixels:
            reason = f"label {label} means a lesion, but the lesion mask is empty."
        else:
            return
        self.report.fault(lesion_file, CONTRADICTION, reason)

    def _check_lesion_in_anatomy(self, images: dict, anatomy_mask: np.ndarray, lesion_mask: np.ndarray) -> None:
        if anatomy_mask.shape != lesion_mask.shape:
            return  # a size mismatch, told already
        outside = int((lesion_mask & ~anatomy_mask).sum())
        if outside:
            reason = f"{outside} of {int(lesion_mask.sum())} lesion pixels are outside the anatomy mask."
            self.report.fault(images["lesion_mask"][0], "lesion outside the anatomy", reason)
        elif not anatomy_mask.any():
            self.report.note(images["anatomy_mask"][0], "empty anatomy mask", "the anatomy mask is empty.")


def path_inside(name) -> str | None:
    """Return the normalised path, or None where it is no relative path that stays inside its folder."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name or name.startswith("/"):
        return None
    name = posixpath.normpath(name)
    return None if name == "." or name.split("/")[0] == ".." else name


def json_type(value) -> str:
    """Return the name that JSON has for the type of a value."""
    names = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
