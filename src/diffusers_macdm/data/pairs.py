"""The cases of one split, wherever they come from: what everything that takes pairs reads them by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ..macdm.joint_sample import MASKS
from .decoding import Case, Decoded, decode, decode_radiograph
from .layout import IMAGE_COLUMNS


class MissingSplit(ValueError):
    """Raised where a data set can be read and has no split of the name that was asked for."""


def missing_split(data: str | Path, split: str, splits: Iterable[str]) -> MissingSplit:
    return MissingSplit(f"{data}: there is no split {split!r}; there is {', '.join(map(repr, splits))}.")


class Pairs:
    """Radiographs with their masks, decoded when they are asked for.

    `len(pairs)`; `pairs["label"]` is a column, `pairs[3]` the columns of one case without its images.

    Args:
        cases: the cases.
        split: name of the split.
        columns: columns that the set has besides the images.
        split_sizes: number of cases of each split of the set.
        class_names: where the set has names for its labels, that of each number.
        masks: those of `MASKS` that the set has.

    Attributes:
        names: name of each case: its image's file name without the suffix, or `split-index` in a set that has kept no file
            names or has one of them twice.
        files: name of each radiograph's file, relative to the split's folder; that of the case where there is none.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        split: str,
        columns: Collection[str],
        split_sizes: Mapping[str, int],
        class_names: Sequence[str] | None = None,
        masks: Sequence[str] = MASKS,
    ):
        self.cases, self.split, self.columns = list(cases), split, list(columns)
        self.split_sizes, self.class_names, self.masks = dict(split_sizes), class_names, tuple(masks)
        files = [case.files[IMAGE_COLUMNS[0]].file_name for case in self.cases]
        names = [PurePosixPath(file).stem if file else "" for file in files]
        if "" in names or len(set(names)) < len(names):
            names = [f"{split}-{index:06d}" for index in range(len(files))]
        self.names: list[str] = names
        self.files: list[str] = [file or name for file, name in zip(files, names, strict=True)]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: str | int):
        if isinstance(key, str):
            return [case.values.get(key) for case in self.cases]
        return dict(self.cases[key].values)

    @property
    def column_names(self) -> list[str]:
        """Names of all columns, the images first."""
        return [IMAGE_COLUMNS[0], *self.masks, *self.columns]

    def select(self, indices: Iterable[int]) -> Pairs:
        """Return the cases with these numbers, in this order."""
        chosen = [self.cases[int(index)] for index in indices]
        return Pairs(chosen, self.split, self.columns, self.split_sizes, self.class_names, self.masks)

    def decode(self, index: int) -> Decoded:
        """Decode the files of a case; what is wrong with them stands in the result."""
        return decode(self.cases[index])

    def arrays(self, index: int, decoded: Decoded | None = None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Decode a case: radiograph float32 `[H, W]` in [0, 1], anatomy and lesion mask bool `[H, W]`, None for a mask that the
        set does not have.

        Args:
            index: number of the case.
            decoded: what `decode` has given, where that was called already.

        Raises:
            ValueError: when it cannot be decoded; case and file are named.
        """
        try:
            return (decoded or self.decode(index)).arrays
        except ValueError as error:
            raise ValueError(f"{self.names[index]}: {error}") from error

    def radiograph(self, index: int) -> np.ndarray:
        """Decode the radiograph of a case alone, float32 `[H, W]` in [0, 1].

        Raises:
            ValueError: when it cannot be decoded; case and file are named.
        """
        try:
            return decode_radiograph(self.cases[index].files[IMAGE_COLUMNS[0]])
        except ValueError as error:
            raise ValueError(f"{self.names[index]}: {error}") from error

    def size(self, index: int) -> tuple[int, int]:
        """Return width and height of a radiograph, by its header alone.

        Raises:
            ValueError: when it has none; case and file are named.
        """
        file = self.cases[index].files[IMAGE_COLUMNS[0]]
        try:
            return file.size()
        except ValueError as error:
            raise ValueError(f"{self.names[index]}: {file.name}: {error}") from error
