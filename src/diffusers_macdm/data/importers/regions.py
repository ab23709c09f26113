"""Square regions of interest out of the films of a set: `macdm roi`.

A region is cut at the film's own resolution; `--size` resamples it as training does. In films with a lesion it lies around one,
in others at a place along the anatomy that is drawn like those of the lesions, both with the same random shift, so that where
something lies in a region tells nothing. Where in its film a region lies stands in its line (`layout.REGION_COLUMNS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...files import new_folder, refuse_filled, write_json, write_json_lines
from ...macdm.image_processor import resize_case
from ...macdm.joint_sample import MASKS, NORMAL_LABEL
from ...progress import Progress
from ...report.contact_sheet import contact_sheet
from ..decoding import Decoded
from ..layout import FOLDERS, METADATA, REGION_COLUMNS, SPACING_COLUMN, SPLITS, require_masks
from ..loading import load_pairs
from ..pairs import MissingSplit, Pairs
from ..reader import FILE_NAME_COLUMNS
from .films import DARKEST_OF_16, SCALES, film_values, write_film, write_mask
from .places import JITTER, Axis, anchor, corner, ground
from .settings import RegionSettings
from .write import RECORD_FILE, Imported


SHEET_FILE, MOST_ON_SHEET = "regions.png", 30
MOST_DRAWS = 20  # of a region that shows nothing
FILM = "image"  # its column


@dataclass
class Region:
    """A region of a film.

    Attributes:
        values: whole numbers of the film's file, `[S, S]` uint8 or uint16.
        masks: mask -> bool `[S, S]`.
        row: place in the film by the names of `REGION_COLUMNS`.
    """

    values: np.ndarray
    masks: dict[str, np.ndarray]
    row: dict[str, object]


def run(settings: RegionSettings, *, show_progress: bool = True) -> Imported:
    """Write the set of regions that the settings ask for, and a contact sheet of the first ones.

    Films that cannot be used are left out by name. A region stays in the split of its film; a film without a patient is one
    itself, so that its regions are kept together wherever patients are.

    Raises:
        FileExistsError: when `settings.out` is no new folder.
        ValueError: when the set cannot be read, or lacks lesion outlines or lesions in its train split.
    """
    refuse_filled(settings.out)
    splits = {}
    for split in SPLITS:
        try:
            splits[split] = load_pairs(settings.data, split)
        except MissingSplit:
            continue
    pairs = next(iter(splits.values()))
    require_masks(pairs.masks, ("lesion_mask",), f"{settings.data}", "tell where the regions of interest are")
    imported = Imported(Path(settings.out))
    with Progress(2 * sum(map(len, splits.values())), "roi", "film", show=show_progress) as progress:
        places = _places(splits, progress)
        with new_folder(imported.out) as folder:
            sheet: list[Region] = []
            for split, of_split in splits.items():
                cutter = _Cutter(settings, split, of_split, places, imported)
                imported.taken[split] = cutter.write(folder / split, progress)
                sheet += cutter.first
            if not imported.taken.get("train"):
                raise ValueError(f"{settings.data}: no region can be cut of any film in train: {_reason(imported)}")
            imported.taken = {split: number for split, number in imported.taken.items() if number}
            _sheet(sheet, pairs.masks).save(folder / SHEET_FILE)
            left_out = [vars(fault) for fault in imported.left_out]
            record = {"side": settings.side, "size": settings.size, "shift": settings.shift, "per_film": settings.per_film}
            record |= {"seed": settings.seed, "taken": imported.taken, "left_out": left_out}
            write_json(folder / RECORD_FILE, {"command": "roi"} | record)
    return imported


def _reason(imported: Imported) -> str:
    first = imported.left_out[0]
    return f"{first.file}: {first.reason}"


def _places(splits: dict[str, Pairs], progress: Progress) -> list[float]:
    """Return the places of the lesions of the train split along the anatomy; held-out films decide nothing."""
    places = []
    pairs = splits.get("train")
    for index in range(len(pairs or ())):
        progress.update()
        decoded = pairs.decode(index)
        if decoded.refusals or not decoded.lesion_mask.any():
            continue
        axis = Axis(ground(decoded.radiograph, decoded.anatomy_mask))
        places.append(axis.place(anchor(decoded.lesion_mask, np.random.default_rng([index]))))
    progress.update(sum(len(of_split) for split, of_split in splits.items() if split != "train"))
    if not places:
        raise ValueError("the train split has no film with a lesion: there are no places that regions could be drawn like.")
    return places


class _Cutter:
    """Cuts the regions of one split.

    Attributes:
        first: the first regions of the train split, for the contact sheet.
    """

    def __init__(self, settings: RegionSettings, split: str, pairs: Pairs, places: list[float], imported: Imported):
        self.settings, self.split, self.pairs, self.places, self.imported = settings, split, pairs, places, imported
        self.first: list[Region] = []

    def write(self, folder: Path, progress: Progress) -> int:
        """Write the regions of every film; return their number."""
        for column in (FILM, *self.pairs.masks):
            (folder / FOLDERS[column]).mkdir(parents=True)
        rows = []
        for index in range(len(self.pairs)):
            film = self.pairs.cases[index].files[FILM].name
            decoded = self.pairs.decode(index)
            if decoded.refusals:
                for fault in decoded.refusals:
                    self.imported.leave_out(film, fault.kind, f"{fault.file}: {fault.reason}")
            else:
                try:
                    regions = [self._cut(index, number, decoded) for number in range(self.settings.per_film)]
                except ValueError as error:
                    self.imported.leave_out(film, "no region", str(error))
                else:
                    rows += [self._write(folder, index, number, region) for number, region in enumerate(regions)]
                    self._show(regions)
            progress.update()
        if rows:
            write_json_lines(folder / METADATA, rows)
        else:
            for column in (FILM, *self.pairs.masks):
                (folder / FOLDERS[column]).rmdir()
            folder.rmdir()
        return len(rows)

    def _show(self, regions: list[Region]) -> None:
        """Keep the first regions of the train split for the contact sheet: half of them with a lesion, where there are some."""
        for region in regions if self.split == "train" else ():
            with_lesion = [bool(shown.masks["lesion_mask"].any()) for shown in self.first]
            if with_lesion.count(bool(region.masks["lesion_mask"].any())) < MOST_ON_SHEET // 2:
                self.first.append(region)

    def _cut(self, index: int, number: int, decoded: Decoded) -> Region:
        """Cut region `number` of a film.

        Raises:
            ValueError: when there is none, with the reason.
        """
        settings, shape = self.settings, decoded.radiograph.shape
        side = settings.size if settings.side is None else round(settings.side * max(shape))
        if side > min(shape):
            raise ValueError(f"{shape[1]} x {shape[0]} pixels; a region has {side} on each side, and lies in the film whole.")
        if side < 8:
            raise ValueError(f"a region would have {side} pixels on each side; at least 8 are needed.")
        label, lesion = self.pairs.cases[index].values["label"], decoded.lesion_mask
        if label not in (NORMAL_LABEL, None) and not lesion.any():
            raise ValueError(f"label {label} means a lesion, but the lesion mask is empty.")
        # Of the film, not of its number among those that could be used: one film more or less moves no other region.
        generator = np.random.default_rng([settings.seed, SPLITS.index(self.split), index, number])
        axis = None if lesion.any() else Axis(ground(decoded.radiograph, decoded.anatomy_mask))
        for _ in range(MOST_DRAWS):
            if axis is None:
                point = anchor(lesion, generator)
            else:
                place = generator.choice(self.places) + generator.normal(0, JITTER)
                point = axis.point(float(np.clip(place, 0, 1)), generator)
            top, left = corner(point, side, shape, settings.shift, generator)
            region = self._resampled(decoded, top, left, side)
            if np.ptp(region.values) and (decoded.depth != 16 or region.values.max() > DARKEST_OF_16):
                return region
        raise ValueError(f"{MOST_DRAWS} regions in turn are black or show a single gray.")

    def _resampled(self, decoded: Decoded, top: int, left: int, side: int) -> Region:
        square = slice(top, top + side), slice(left, left + side)
        values = film_values(decoded)[square]
        masks = {mask: getattr(decoded, mask)[square] for mask in self.pairs.masks}
        size = self.settings.size or side
        if size != side:
            given = decoded.radiograph[square], masks.get("anatomy_mask"), masks.get("lesion_mask")
            radiograph, anatomy, lesion = resize_case(*given, size)
            scale = SCALES[decoded.depth] if decoded.depth > 1 else 255
            values = np.rint(radiograph.astype(np.float64) * scale).astype(values.dtype)
            masks = {mask: {"anatomy_mask": anatomy, "lesion_mask": lesion}[mask] for mask in masks}
        height, width = decoded.radiograph.shape
        return Region(values, masks, dict(zip(REGION_COLUMNS[1:], (left, top, side, width, height), strict=True)))

    def _write(self, folder: Path, index: int, number: int, region: Region) -> dict:
        """Write a region; return its line: that of its film, its own files and its place."""
        case = self.pairs.cases[index]
        film = case.files[FILM].name
        name = self.pairs.names[index] + (f"_{number}" if self.settings.per_film > 1 else "")
        row = {FILE_NAME_COLUMNS[FILM]: f"{FOLDERS[FILM]}/{name}.png"}
        write_film(folder / row[FILE_NAME_COLUMNS[FILM]], region.values)
        label = case.values["label"]
        for mask, array in region.masks.items():
            row[FILE_NAME_COLUMNS[mask]] = None
            if mask != "lesion_mask" or array.any() or label != NORMAL_LABEL:
                row[FILE_NAME_COLUMNS[mask]] = f"{FOLDERS[mask]}/{name}.png"
                write_mask(folder / row[FILE_NAME_COLUMNS[mask]], array)
        values = {column: value for column, value in case.values.items() if value is not None or column == "label"}
        if label is not None and self.pairs.class_names:
            values["label"] = self.pairs.class_names[label]
        if isinstance(values.get(SPACING_COLUMN), list) and self.settings.size is not None:
            factor = region.row["region_side"] / self.settings.size
            values[SPACING_COLUMN] = [factor * spacing for spacing in values[SPACING_COLUMN]]
        values.setdefault("patient_id", f"film {self.pairs.names[index]}")
        return row | values | {REGION_COLUMNS[0]: film} | region.row


def _sheet(regions: list[Region], masks: Sequence[str]) -> Image.Image:
    """Lay out the first regions, each plain and outlined."""
    anatomy, lesion = ([region.masks[mask] for region in regions] if mask in masks else None for mask in MASKS)
    films = [_as_shown(region.values) for region in regions]
    return contact_sheet(films, anatomy, lesion, columns=5, tile=128, title="Regions of interest", side_by_side=True)


def _as_shown(values: np.ndarray) -> np.ndarray:
    """Bring values of 12 bits to 16, as the decoder reads them."""
    twelve_bits = values.dtype == np.uint16 and values.max() <= DARKEST_OF_16
    return (values.astype(np.uint32) * 65535 // DARKEST_OF_16).astype(np.uint16) if twelve_bits else values
