"""One split of a data set of pairs, from a folder or from the Hub, and the names of its cases."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ..hub.names import refuse_no_repository
from .layout import REQUIRED_COLUMNS, unfinished


if TYPE_CHECKING:
    import datasets


class MissingSplit(ValueError):
    """Raised where a data set can be read and has no split of the name that was asked for."""


def load_pairs(
    data: str | Path, split: str = "train", config_name: str | None = None, cache_dir: str | None = None
) -> datasets.Dataset:
    """Open one split of a data set of pairs with the `datasets` library.

    Args:
        data: folder in the project's layout (read as an `imagefolder`), or the name of a Hub data set, `owner/name`.
        split: `train`, `validation` or `test`.
        config_name: configuration of a Hub data set.
        cache_dir: where `datasets` keeps its tables; its default when None.

    Returns:
        Rows with `image`, `anatomy_mask`, `lesion_mask` (PIL images) and `label` (int, or None for an unlabeled
        image), and whatever else the set has (`patient_id`, `site`, provenance).

    Raises:
        FileNotFoundError: when there is no such folder.
        MissingSplit: when the set has no such split.
        ValueError: when it cannot be read or lacks one of the four columns, and for a generated set that is not finished.
    """
    import datasets

    is_folder = Path(data).is_dir()
    if not is_folder:
        refuse_no_repository(data, "data set")
    if is_folder and (reason := unfinished(data)) is not None:
        raise ValueError(f"{data}: {reason}")
    try:
        if is_folder:
            splits = datasets.load_dataset("imagefolder", data_dir=str(data), cache_dir=cache_dir)
        else:
            splits = datasets.load_dataset(str(data), config_name, cache_dir=cache_dir)
    except Exception as error:  # of many classes; datasets wraps the one that says what is wrong
        empty = [path for path in sorted(Path(data).glob("*/metadata.jsonl")) if not path.stat().st_size] if is_folder else []
        if empty:
            raise ValueError(f"{empty[0]} is empty: one line for each case is needed.") from error
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        hint = " (`macdm check` lists every fault)" if is_folder else ""
        what = "data folder" if is_folder else "Hub data set (and there is no such folder)"
        raise ValueError(f"{data}: cannot be read as a {what}: {reason}{hint}") from error
    if split not in splits:
        raise MissingSplit(f"{data}: there is no split {split!r}; there is {', '.join(map(repr, splits))}.")
    pairs = splits[split]
    missing = [column for column in REQUIRED_COLUMNS if column not in pairs.column_names]
    if missing:
        raise ValueError(
            f"{data}, split {split!r}: column {', '.join(missing)} is missing; there are "
            f"{', '.join(pairs.column_names)}, and {', '.join(REQUIRED_COLUMNS)} are needed."
        )
    return pairs


def case_names(pairs: datasets.Dataset) -> list[str]:
    """Return the name of each case: its image's file name without the suffix, or `split-index` in a set that has kept no file
    names or has one of them twice."""
    import datasets

    undecoded = pairs.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    paths = [row["image"]["path"] for row in undecoded]
    names = [PurePosixPath(str(path).replace("\\", "/")).stem if path else None for path in paths]
    if None in names or len(set(names)) < len(names):
        return [f"{pairs.split or 'case'}-{index:06d}" for index in range(len(pairs))]
    return names


def radiograph_digest(radiograph: np.ndarray) -> str:
    """SHA-256 (64 hex digits) of a radiograph's shape and gray values, as `radiograph_array` decodes them.

    It is the same whatever the file's name, format, compression and embedded texts, and for 8-bit values `v` stored as 16-bit
    `257 v`: both are the same share of the full scale. Every other change of a pixel gives another digest (`256 v`, windowing,
    lossy compression, a crop): `macdm audit` looks for images that are merely similar.
    """
    values = np.ascontiguousarray(radiograph, dtype="<f4")  # [H, W]
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()
