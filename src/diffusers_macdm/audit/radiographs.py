"""Radiographs at the audit's size: the one place where films of a set are read for comparison.

Ranges: radiograph file -> [0, 1] -> uint8 `[N, 64, 64]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.dataset import PairDataset
from ..data.loading import load_pairs, radiograph_digest
from ..data.pairs import Pairs
from ..provenance.records import digests_of_training
from .images import to_audit_size
from .regions import SIDE, LesionPlaces, cut


@dataclass
class Radiographs:
    """Radiographs of one split at the audit's size, with what the set says about them.

    Attributes:
        images: uint8 `[N, 64, 64]`.
        files: path of each, relative to the split's folder; its case name where the set keeps no file names.
        names: case names.
        digests: `data.loading.radiograph_digest` of each.
        labels: None for unlabeled ones.
        patients: None where not given.
        rows: the remaining columns of each (provenance).
        side: of the smallest image as it was loaded.
    """

    images: torch.Tensor
    files: list[str]
    names: list[str]
    digests: list[str]
    labels: list
    patients: list
    rows: list[dict]
    side: int

    def __len__(self) -> int:
        return len(self.files)

    def select(self, chosen: Sequence[int]) -> Radiographs:
        """Return the radiographs with these numbers."""
        pick = lambda values: [values[i] for i in chosen]  # noqa: E731
        lists = (pick(values) for values in (self.files, self.names, self.digests, self.labels, self.patients, self.rows))
        return Radiographs(self.images[list(chosen)], *lists, self.side)

    @classmethod
    def from_dataset(cls, dataset: PairDataset, size: int) -> Radiographs:
        """Read the radiographs of a `PairDataset`; `size` as in `images.to_audit_size`.

        Raises:
            ValueError: when a radiograph cannot be decoded (it is named).
        """
        names, rows = dataset.names, [{} for _ in dataset.names]
        images, digests = _read(_decoded(dataset.pairs), size)
        return cls(images, names, names, digests, dataset.labels, dataset.patient_ids, rows, size)


def load_radiographs(
    data: str | Path,
    split: str,
    size: int | None = None,
    columns: Sequence[str] = (),
    places: LesionPlaces | None = None,
) -> Radiographs:
    """Read the radiographs of a split, one after the other, so that no more than one stands in memory at full size.

    Args:
        data: data set, see `data.loading.load_pairs`.
        split: name of the split.
        size: see `images.to_audit_size`; the side of the smallest image of this split when None.
        columns: further columns to keep.
        places: read the region around each lesion, or around such a place, in place of the film; digests and `side` are those
            of the film.

    Raises:
        ValueError: when the split cannot be read, is empty, or a radiograph cannot be decoded (it is named).
    """
    pairs = load_pairs(data, split)
    if not len(pairs):
        raise ValueError(f"{data}, split {split!r}: there are no images.")
    where = f"{data}, split {split!r}, "
    side = size
    if side is None:
        try:
            side = min(max(pairs.size(i)) for i in range(len(pairs)))
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
    resized, digests = _read(_decoded(pairs, where), side) if places is None else _read_regions(pairs, where, side, places)
    kept = [column for column in columns if column in pairs.column_names]
    rows = [{column: pairs[i][column] for column in kept} for i in range(len(pairs))]
    return Radiographs(resized, pairs.files, pairs.names, digests, pairs["label"], pairs["patient_id"], rows, side)


def _decoded(pairs: Pairs, where: str = "") -> Iterator[np.ndarray]:
    for index in range(len(pairs)):
        try:
            yield pairs.radiograph(index)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error


def _read(radiographs: Iterable[np.ndarray], size: int) -> tuple[torch.Tensor, list[str]]:
    """Bring radiographs to the audit's size and take the digest of each on the way."""
    digests = []

    def passing():
        for radiograph in radiographs:
            digests.append(radiograph_digest(radiograph))
            yield radiograph

    return to_audit_size(passing(), size), digests


def _read_regions(pairs: Pairs, where: str, size: int, places: LesionPlaces) -> tuple[torch.Tensor, list[str]]:
    """Bring the region of each case to the audit's size; films are of `size` before they are cut, so that none is sharper."""
    images, digests = [], []
    for index in range(len(pairs)):
        try:
            radiograph, anatomy, lesion = pairs.arrays(index)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
        digests.append(radiograph_digest(radiograph))
        region = cut(radiograph, places.centre(anatomy, lesion, seed=index))
        images.append(to_audit_size([region], max(2, round(SIDE * size))))
    return torch.cat(images), digests


def trained_on(
    training: Radiographs, real: str | Path, *, model: str | Path | None = None, synthetic: str | Path | None = None
) -> tuple[Radiographs, list[str]]:
    """Return the images that trained the model, by its record or that of the synthetic set, and notes; all where none tells.

    Raises:
        ValueError: when none of the recorded images is among `training`.
    """
    known, values = digests_of_training(model=model, synthetic=synthetic), training.digests
    if known is None and model is not None:
        known, values = _trained_names(Path(model)), training.names  # of a record that has no digests yet
    if not known:
        return training, ["Nothing records which cases trained the model: compared with the whole train split."]
    chosen = [i for i, value in enumerate(values) if value in known]
    if not chosen:
        raise ValueError(f"{real}: none of the {len(known)} images that trained the model is in its train split.")
    missing = len(known) - len({values[i] for i in chosen})
    notes = (
        [f"{missing} of the {len(known)} images that trained the model are not in the train split of {real}."]
        if missing
        else []
    )
    return training.select(chosen), notes


def _trained_names(model: Path) -> set[str]:
    record = model / "training_config.json"
    return set(json.loads(record.read_text(encoding="utf-8")).get("data", {}).get("cases") or ()) if record.is_file() else set()
