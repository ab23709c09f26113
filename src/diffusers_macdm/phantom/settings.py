"""The options of `macdm phantom`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Settings:
    """Write a data set of procedural distal tibias with and without metaphyseal lesions.

    The defaults are the size of the paper's set.

    Attributes:
        out: New folder.
        num_normal: Cases without a lesion in train; validation and test get a quarter each.
        num_lesion: Cases with a lesion in train; validation and test get a quarter each.
        size: Side of the images in pixels.
        seed: Everything random follows from it.
    """

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    num_normal: int = 177
    num_lesion: int = 73
    size: int = 64
    seed: int = 0
