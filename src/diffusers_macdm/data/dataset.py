"""The cases of a split as joint samples, decoded and resampled once, augmented by seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ..macdm.image_processor import mask_array, radiograph_array, resize_case
from ..macdm.joint_sample import join
from .augmentation import AUGMENTATION_DIM, PairAugmentation
from .layout import IMAGE_COLUMNS
from .loading import case_names, radiograph_digest


if TYPE_CHECKING:
    import datasets


UNLABELED = -1  # a `null_label` that is no class label of any network


class PairDataset(torch.utils.data.Dataset):
    """Cases of `load_pairs` as joint samples; each is decoded and resampled once and then kept in memory.

    Args:
        pairs: rows with `image`, `anatomy_mask`, `lesion_mask`, `label` (see `load_pairs`).
        size: side of the joint samples in pixels.
        augmentation: applied to the items that are asked for with an augmentation seed.
        null_label: class label given to unlabeled images; "num_classes" stands for the one after those of the set, None
            refuses them.

    `dataset[index]` is the case as it is and `dataset[index, augmentation_seed]` the augmented one, each a dict of

    - `joint_sample`: float32 `[3, size, size]` in [-1, 1];
    - `class_label`: int;
    - `augmentation_labels`: float32 `[AUGMENTATION_DIM]`, zeros without augmentation;
    - `index`: int.

    Attributes:
        labels: class label of each case.
        num_classes: 1 + the largest label of a labeled case.
        names: name of each case (see `case_names`).
        patient_ids: patient of each case, or None.

    Raises:
        ValueError: when a label is not an integer (or is missing and there is no `null_label`), or, on access, when a
            case cannot be decoded. The case is named.
    """

    def __init__(
        self,
        pairs: datasets.Dataset,
        size: int,
        augmentation: PairAugmentation | None = None,
        null_label: int | Literal["num_classes"] | None = None,
    ):
        self.pairs = pairs
        self.size = size
        self.augmentation = augmentation
        self.names: list[str] = case_names(pairs)
        labels = [_class_label(label, name) for label, name in zip(pairs["label"], self.names, strict=True)]
        if null_label is None and None in labels:
            name = self.names[labels.index(None)]
            raise ValueError(f"{name}: the image has no label, and no null label is set for unlabeled images.")
        self.num_classes: int = 1 + max((label for label in labels if label is not None), default=-1)
        null = self.num_classes if null_label == "num_classes" else null_label
        self.labels: list[int] = [null if label is None else label for label in labels]
        has_patients = "patient_id" in pairs.column_names
        self.patient_ids: list[str | None] = list(pairs["patient_id"]) if has_patients else [None] * len(pairs)
        self._cases: dict[int, list[torch.Tensor]] = {}
        self._sources: dict[int, torch.Tensor] = {}  # joint samples at twice the size, which the augmentation reads
        self._digests: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def image_sha256(self, index: int) -> str:
        """`radiograph_digest` of a case in its own size."""
        self._case(index)
        return self._digests[index]

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, augmentation_seed = key if isinstance(key, tuple) else (key, None)
        sample = join(*self._case(index))  # [3, size, size]
        augmentation_labels = torch.zeros(AUGMENTATION_DIM)
        if self.augmentation is not None and augmentation_seed is not None:
            sample, augmentation_labels = self.augmentation(sample, augmentation_seed, self._sources.get(index))
        return {
            "joint_sample": sample,
            "class_label": self.labels[index],
            "augmentation_labels": augmentation_labels,
            "index": index,
        }

    def _case(self, index: int) -> list[torch.Tensor]:
        if index not in self._cases:
            if not 0 <= index < len(self):
                raise IndexError(f"index {index} is outside the {len(self)} cases.")
            try:
                row = self.pairs[index]
                decoded = _decode_case(*(row[column] for column in IMAGE_COLUMNS))
            except (ValueError, OSError) as error:
                raise ValueError(f"{self.names[index]}: {error}") from error
            self._digests[index] = radiograph_digest(decoded[0])
            resized = resize_case(*decoded, self.size)
            self._cases[index] = [torch.from_numpy(np.ascontiguousarray(array)) for array in resized]
            side = max(decoded[0].shape)
            if self.augmentation is not None and side > self.size:
                source = resize_case(*decoded, min(side, 2 * self.size))
                self._sources[index] = join(*(torch.from_numpy(np.ascontiguousarray(array)) for array in source))
        return self._cases[index]


def _decode_case(radiograph_image, anatomy_image, lesion_image):
    for name, mask_image in (("anatomy_mask", anatomy_image), ("lesion_mask", lesion_image)):
        if mask_image.size != radiograph_image.size:
            raise ValueError(
                f"{name} is {mask_image.width} x {mask_image.height} pixels and the radiograph "
                f"{radiograph_image.width} x {radiograph_image.height}; they must have the same size."
            )
    return radiograph_array(radiograph_image), mask_array(anatomy_image), mask_array(lesion_image)


def _class_label(label, name: str) -> int | None:
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return None
    if isinstance(label, bool) or not isinstance(label, (int, float)) or label != int(label) or label < 0:
        raise ValueError(f"{name}: label {label!r} is not a class label; 0, 1, 2, ... or null are allowed.")
    return int(label)
