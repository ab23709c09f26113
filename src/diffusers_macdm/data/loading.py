"""One split of a data set of pairs, from a folder or from the Hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from ..hub.names import REPOSITORY
from .layout import SPLITS
from .pairs import Pairs, missing_split
from .reader import read_folder


HUB = "hf://datasets/"  # before the name of a data set of the Hub: what does not say so is a folder, and asked for nowhere


def load_pairs(data: str | Path, split: str = "train", config_name: str | None = None, cache_dir: str | None = None) -> Pairs:
    """Open one split of a data set of pairs.

    Args:
        data: folder in the project's layout, or `hf://datasets/owner/name` for a data set of the Hub. A folder is read by
            `data.reader`, file by file, and never looked for anywhere else.
        split: `train`, `validation` or `test`.
        config_name: configuration of a Hub data set.
        cache_dir: where `datasets` keeps the tables of a Hub data set; its default when None.

    Returns:
        The cases, whose images are decoded when they are asked for.

    Raises:
        FileNotFoundError, NotADirectoryError: when there is no such folder.
        MissingSplit: when the set has no such split.
        ValueError: when it cannot be read or lacks a column other than that of one mask, and for a generated set that is not
            finished.
    """
    if str(data).startswith(HUB):
        from .hub_pairs import load_hub_pairs

        return load_hub_pairs(str(data).removeprefix(HUB), split, config_name, cache_dir)
    if not Path(data).exists() and re.fullmatch(REPOSITORY, str(data)):
        raise FileNotFoundError(f"{data}: no such folder. A data set of the Hub is asked for as {HUB}{data}.")
    folder = read_folder(data)
    if folder.refusals:
        first, more = folder.refusals[0], len(folder.refusals) - 1
        others = f" and {more} more fault{'s' if more > 1 else ''}" if more else ""
        raise ValueError(
            f"{data}: cannot be read as a data folder: {first.file}: {first.reason.rstrip('.')}{others} (`macdm check` lists "
            "every fault)."
        )
    if not folder.cases:
        raise ValueError(
            f"{data}: cannot be read as a data folder: there is none of the folders {', '.join(SPLITS)} (`macdm check` lists "
            "every fault)."
        )
    if split not in folder.cases:
        raise missing_split(data, split, folder.cases)
    sizes = {name: len(cases) for name, cases in folder.cases.items()}
    return Pairs(folder.cases[split], split, folder.columns[split], sizes, folder.class_names, folder.masks)


def radiograph_digest(radiograph: np.ndarray) -> str:
    """SHA-256 (64 hex digits) of a radiograph's shape and gray values, as `radiograph_array` decodes them.

    It is the same whatever the file's name, format, compression and embedded texts, and for 8-bit values `v` stored as 16-bit
    `257 v`: both are the same share of the full scale. Every other change of a pixel gives another digest (`256 v`, windowing,
    lossy compression, a crop): `macdm audit` looks for images that are merely similar.
    """
    values = np.ascontiguousarray(radiograph, dtype="<f4")  # [H, W]
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()
