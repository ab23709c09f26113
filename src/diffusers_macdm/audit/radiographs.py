"""Radiographs at the audit's size: the one place where films of a set are read for comparison.

Ranges: radiograph file -> [0, 1] -> uint8 `[N, 64, 64]`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from ..data.dataset import PairDataset
from ..data.loading import case_names, load_pairs, radiograph_digest
from ..macdm.image_processor import radiograph_array
from ..provenance.records import digests_of_training
from .images import to_audit_size


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
        images, digests = _read(_decoded(dataset.pairs.select_columns(["image"]), names), size)
        return cls(images, names, names, digests, dataset.labels, dataset.patient_ids, rows, size)


def load_radiographs(data: str | Path, split: str, size: int | None = None, columns: Sequence[str] = ()) -> Radiographs:
    """Read the radiographs of a split, one after the other, so that no more than one stands in memory at full size.

    Args:
        data: data set, see `data.loading.load_pairs`.
        split: name of the split.
        size: see `images.to_audit_size`; the side of the smallest image of this split when None.
        columns: further columns to keep.

    Raises:
        ValueError: when the split cannot be read, is empty, or a radiograph cannot be decoded (it is named).
    """
    import datasets

    pairs = load_pairs(data, split)
    if not len(pairs):
        raise ValueError(f"{data}, split {split!r}: there are no images.")
    names, where = case_names(pairs), f"{data}, split {split!r}, "
    images = pairs.select_columns(["image"])
    stored = [row["image"] for row in images.cast_column("image", datasets.Image(decode=False))]
    files = [_file_name(Path(data) / split, file["path"], name) for file, name in zip(stored, names, strict=True)]
    side = min(_sides(stored, names, where)) if size is None else size
    resized, digests = _read(_decoded(images, names, where), side)
    kept = [column for column in columns if column in pairs.column_names]
    values = {column: list(pairs[column]) for column in kept}
    rows = [{column: values[column][i] for column in kept} for i in range(len(pairs))]
    patients = list(pairs["patient_id"]) if "patient_id" in pairs.column_names else [None] * len(pairs)
    return Radiographs(resized, files, names, digests, list(pairs["label"]), patients, rows, side)


def _sides(stored: Sequence[dict], names: Sequence[str], where: str) -> Iterator[int]:
    """Yield the longer side of each image, from its header alone."""
    for file, name in zip(stored, names, strict=True):
        try:
            with PIL.Image.open(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"])) as image:
                yield max(image.size)
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}{name}: {error}") from error


def _decoded(images, names: Sequence[str], where: str = "") -> Iterator[np.ndarray]:
    for index, name in enumerate(names):
        try:
            yield radiograph_array(images[index]["image"])
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}{name}: {error}") from error


def _read(radiographs: Iterable[np.ndarray], size: int) -> tuple[torch.Tensor, list[str]]:
    """Bring radiographs to the audit's size and take the digest of each on the way."""
    digests = []

    def passing():
        for radiograph in radiographs:
            digests.append(radiograph_digest(radiograph))
            yield radiograph

    return to_audit_size(passing(), size), digests


def _file_name(folder: Path, path: str | None, name: str) -> str:
    if path is None:
        return name
    try:
        return Path(path).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:  # of a Hub data set: the path in its archive, or in the cache
        return Path(path).name


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
