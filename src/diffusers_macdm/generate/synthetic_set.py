"""A synthetic set on disk: written batch by batch, read row by row, continued where it was interrupted.

    OUT/generation.json              every setting, the versions, the digests of the weights, and which cases trained them
                                     (`provenance`); written first
    OUT/train/metadata.jsonl         one row for each pair, with what is needed to make that pair again
    OUT/train/{images,anatomy,lesion}/NAME.png      (a mask that the model does not make has neither a folder nor a column)
    OUT/contact_sheet.png, OUT/summary.json       written last

A batch counts as done when its rows stand in `metadata.jsonl`, which are written after its images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..data.layout import FOLDERS, GENERATION_FILE, METADATA, SUMMARY_FILE
from ..files import LOCK_FILE, TEMPORARY_SUFFIX, new_file, read_json, write_bytes, write_json
from ..macdm.joint_sample import MASKS
from ..report.contact_sheet import contact_sheet, save
from ..seeds import pair_seed
from .pairs import Pair


SETTINGS_FILE, CONTACT_SHEET_FILE = GENERATION_FILE, "contact_sheet.png"
SPLIT = "train"  # the only one: synthetic pairs are for training, never for measuring
CONTACT_SHEET_PAIRS = 48
# What is measured of each pair, and the masks that it needs.
MEASURED_COLUMNS = {
    "lesion_pixels_unrefined": ("lesion_mask",),
    "lesion_inside_anatomy_unrefined": ("anatomy_mask", "lesion_mask"),
}


def columns_of(row: Mapping) -> list[str]:
    """Return the image columns that a row of the set has."""
    return [column for column in FOLDERS if f"{column}_file_name" in row]


def image_name(index: int) -> str:
    """Return the file name of pair `index`, the same in all three folders."""
    return f"synthetic_{index:06d}.png"


class SyntheticSet:
    """The folder of a synthetic set, complete, interrupted or not begun yet.

    Args:
        folder: where it lies or is to lie.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.metadata = self.folder / SPLIT / METADATA

    def begun(self) -> dict | None:
        """Return `settings`, `versions` and `provenance` that the set was begun with; None where there is nothing yet.

        Raises:
            FileExistsError: for a folder that holds something else, or a file.
            ValueError: when `generation.json` is damaged.
        """
        if not self.folder.exists() and not self.folder.is_symlink():
            return None
        if not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} exists and is not a folder.")
        path = self.folder / SETTINGS_FILE
        if path.is_file():
            try:
                begun = json.loads(path.read_text(encoding="utf-8"))
                return {**{name: dict(begun[name]) for name in ("settings", "versions")}, "provenance": begun.get("provenance")}
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"{path} cannot be read as the settings of a generated set: {error!r}") from error
        # A call that was killed before anything else may have left its temporary file; a lock is there while one runs.
        if any(
            other.name != LOCK_FILE and not (other.name.startswith(f".{SETTINGS_FILE}.") and other.suffix == TEMPORARY_SUFFIX)
            for other in self.folder.iterdir()
        ):
            raise FileExistsError(
                f"{self.folder} is not empty and no generated set ({SETTINGS_FILE} is missing): nothing is overwritten."
            )
        return None

    def refuse_other(self, what: str, before: Mapping, now: Mapping) -> None:
        """Raise `ValueError` that names the first value that differs from what the set was begun with.

        JSON values are compared: `(0, 1)` and `[0, 1]` are the same.
        """
        before, now = _flat(before), _flat(json.loads(json.dumps(now)))
        for name in dict.fromkeys((*now, *before)):
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"{self.folder} was begun with {name}={before.get(name)!r} and this call has {name}={now.get(name)!r}: use "
                    f"the same {what}, or another folder."
                )

    def rows(self) -> list[dict]:
        """Return the rows of the pairs that are written, in the order of their numbers.

        Raises:
            ValueError: when `metadata.jsonl` is damaged.
        """
        if not self.metadata.exists():
            return []
        try:
            return [json.loads(line) for line in self.metadata.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{self.metadata} is not valid JSON, line by line: {error}") from error

    def checked_rows(self, planned: Sequence[Mapping], batch_size: int, seed: int) -> list[dict]:
        """Return the rows of the complete batches, which must be what the settings make, with their files.

        Args:
            planned: the rows of all pairs as far as they are known before sampling.
            batch_size, seed: the set's.

        Raises:
            ValueError: for a row that the settings do not make.
            FileNotFoundError: for an image that is gone.
        """
        done = self.rows()
        if len(done) > len(planned) or (len(done) < len(planned) and len(done) % batch_size):
            raise ValueError(
                f"{self.metadata} has {len(done)} rows, which is no whole number of batches: it was changed since."
            )
        for index, (row, expected) in enumerate(zip(done, planned, strict=False)):
            if isinstance(row, dict) and row.get("rejected_copies"):
                expected = {**expected, "seed": pair_seed(seed, index, row["rejected_copies"])}
            if not isinstance(row, dict) or any(row.get(column) != value for column, value in expected.items()):
                raise ValueError(
                    f"{self.metadata}, line {index + 1}: not the pair that the settings make here; the data was changed since."
                )
            for path in self._paths(expected).values():
                if not path.is_file():
                    raise FileNotFoundError(
                        f"{path} is gone, although {self.metadata.name} lists it: start again in another folder."
                    )
        return done

    def begin(self, content: Mapping[str, Any]) -> None:
        """Make the folder with `generation.json`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / SETTINGS_FILE, content, indent=2)

    def write_batch(self, rows: Sequence[Mapping], pairs: Sequence[Pair]) -> list[dict]:
        """Write the images of a batch and then its rows; returns the rows with what was measured of the pairs."""
        columns = columns_of(rows[0])
        measured = [name for name, masks in MEASURED_COLUMNS.items() if {*masks} <= {*columns}]
        for column in columns:
            (self.folder / SPLIT / FOLDERS[column]).mkdir(parents=True, exist_ok=True)
        written = []
        for row, pair in zip(rows, pairs, strict=True):
            images = {"image": pair.radiograph}
            for column in columns[1:]:
                images[column] = PIL.Image.fromarray(getattr(pair, column).astype(np.uint8) * 255)
            for column, path in self._paths(row).items():
                with new_file(path) as temporary:
                    images[column].save(temporary, format="PNG")
            written.append({**row, **{name: getattr(pair, name) for name in measured}})
        before = self.metadata.read_bytes() if self.metadata.exists() else b""
        write_bytes(self.metadata, before + "".join(json.dumps(row) + "\n" for row in written).encode())
        return written

    def read(self, row: Mapping) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read radiograph (uint8) and masks (bool), `[H, W]` each, of the pair of a row; None for a mask that it has not.

        Raises:
            ValueError: when a file cannot be decoded any more; it is named.
        """
        images = {}
        for column, path in self._paths(row).items():
            try:
                with PIL.Image.open(path) as image:
                    images[column] = np.asarray(image)
            except Exception as error:  # of many classes
                raise ValueError(f"{path} cannot be decoded ({error}): start again in another folder.") from error
        return images["image"], *(images[mask] != 0 if mask in images else None for mask in MASKS)

    def finish(self, rows: Sequence[Mapping]) -> dict:
        """Write contact sheet and summary, unless they are there, from the files of the set; returns the summary."""
        summary_file = self.folder / SUMMARY_FILE
        if summary_file.is_file():
            return read_json(summary_file, "delete it, and it is made again")
        self.remove_temporaries()
        self._write_contact_sheet(rows)
        labels = dict.fromkeys(row["label"] for row in rows)
        summary = {
            "num_pairs": len(rows),
            "labels": {str(label): self._summary([row for row in rows if row["label"] == label]) for label in labels},
        }
        if rows and "rejected_copies" in rows[0]:
            summary["rejected_copies"] = sum(row["rejected_copies"] for row in rows)
        write_json(summary_file, summary, indent=2)
        return summary

    def remove_temporaries(self) -> None:
        """Remove what a killed call was about to write."""
        for path in self.folder.rglob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink()

    def _summary(self, rows: Sequence[Mapping]) -> dict:
        if "lesion_pixels_unrefined" not in rows[0]:  # nothing is known of lesions where none are drawn
            unknown = ("with_lesion_unrefined", "with_lesion", "lesion_inside_anatomy_unrefined")
            return {"num_pairs": len(rows), **dict.fromkeys(unknown)}
        pixels = [row["lesion_pixels_unrefined"] for row in rows]
        shares = [row.get("lesion_inside_anatomy_unrefined") or 0 for row in rows]
        inside = [count * share for count, share in zip(pixels, shares, strict=True)]
        has_anatomy = "lesion_inside_anatomy_unrefined" in rows[0]
        return {
            "num_pairs": len(rows),
            "with_lesion_unrefined": sum(count > 0 for count in pixels) / len(rows),
            "with_lesion": int(sum(self.read(row)[2].any() for row in rows)) / len(rows),
            "lesion_inside_anatomy_unrefined": sum(inside) / sum(pixels) if any(pixels) and has_anatomy else None,
        }

    def _write_contact_sheet(self, rows: Sequence[Mapping]) -> None:
        chosen = sorted(rows[:CONTACT_SHEET_PAIRS], key=lambda row: row["label"] or 0)
        kinds = zip(*(self.read(row) for row in chosen), strict=True)
        images = [None if kind[0] is None else kind for kind in kinds]
        captions = [f"label {row['label']}, {Path(row['image_file_name']).stem}" for row in chosen]
        title = f"{len(chosen)} of {len(rows)} synthetic pairs"
        sheet = contact_sheet(*images, captions=captions, columns=6, title=title, side_by_side=True)
        save(sheet, self.folder / CONTACT_SHEET_FILE)

    def _paths(self, row: Mapping) -> dict[str, Path]:
        return {column: self.folder / SPLIT / row[f"{column}_file_name"] for column in columns_of(row)}


def _flat(settings: Mapping, prefix: str = "") -> dict:
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
