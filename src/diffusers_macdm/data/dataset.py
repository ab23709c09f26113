"""The cases of a split as joint samples, decoded and resampled once, augmented by seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch

from ..macdm.image_processor import resize_case
from ..macdm.joint_sample import join
from .augmentation import AUGMENTATION_DIM, PairAugmentation
from .check_cases import CaseInspection
from .loading import radiograph_digest
from .pairs import Pairs


UNLABELED = -1  # a `null_label` that is no class label of any network


class PairDataset(torch.utils.data.Dataset):
    """Cases of `load_pairs` as joint samples; each is decoded and resampled once and then kept in memory.

    Args:
        pairs: the cases (see `load_pairs`).
        size: side of the joint samples in pixels.
        augmentation: applied to the items that are asked for with an augmentation seed.
        null_label: class label given to unlabeled images; "num_classes" stands for the one after those of the set, None
            refuses them.
        inspection: looks at each case when it is decoded.

    `dataset[index]` is the case as it is and `dataset[index, augmentation_seed]` the augmented one, each a dict of

    - `joint_sample`: float32 `[3, size, size]` in [-1, 1];
    - `class_label`: int;
    - `augmentation_labels`: float32 `[AUGMENTATION_DIM]`, zeros without augmentation;
    - `index`: int.

    Attributes:
        labels: class label of each case.
        num_classes: 1 + the largest label of a labeled case.
        names: name of each case.
        patient_ids: patient of each case, or None.
        masks: those that the set has; the channel of another one is background (-1) in every joint sample.

    Raises:
        ValueError: when a label is missing and there is no `null_label`, or, on access, when a case cannot be decoded. The case
            is named.
    """

    def __init__(
        self,
        pairs: Pairs,
        size: int,
        augmentation: PairAugmentation | None = None,
        null_label: int | Literal["num_classes"] | None = None,
        inspection: CaseInspection | None = None,
    ):
        self.pairs = pairs
        self.size = size
        self.augmentation, self.inspection = augmentation, inspection
        self.names: list[str] = pairs.names
        self.masks: tuple[str, ...] = pairs.masks
        labels = pairs["label"]
        if null_label is None and None in labels:
            name = self.names[labels.index(None)]
            raise ValueError(f"{name}: the image has no label, and no null label is set for unlabeled images.")
        self.num_classes: int = 1 + max((label for label in labels if label is not None), default=-1)
        null = self.num_classes if null_label == "num_classes" else null_label
        self.labels: list[int] = [null if label is None else label for label in labels]
        self.patient_ids: list[str | int | None] = pairs["patient_id"]
        self._cases: dict[int, list[torch.Tensor | None]] = {}
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

    def _case(self, index: int) -> list[torch.Tensor | None]:
        if index not in self._cases:
            if not 0 <= index < len(self):
                raise IndexError(f"index {index} is outside the {len(self)} cases.")
            found = self.pairs.decode(index)
            decoded = self.pairs.arrays(index, found)
            if self.inspection is not None:
                self.inspection.check(self.pairs.split, self.pairs.cases[index], found)
            self._digests[index] = radiograph_digest(decoded[0])
            resized = resize_case(*decoded, self.size)
            self._cases[index] = _tensors(resized)
            side = max(decoded[0].shape)
            if self.augmentation is not None and side > self.size:
                source = resize_case(*decoded, min(side, 2 * self.size))
                self._sources[index] = join(*_tensors(source))
        return self._cases[index]


def _tensors(arrays: Iterable[np.ndarray | None]) -> list[torch.Tensor | None]:
    return [None if array is None else torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
