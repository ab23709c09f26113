"""The options of `macdm show` and `macdm plan`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..checks import check_at_least


UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
Preset = Literal["quick", "default", "best"]


def seconds_of_budget(text: str, name: str = "time_budget") -> float:
    """Return the seconds of a time as it is typed: "6h", "10m", "90s", "1h30m".

    Raises:
        ValueError: for every other text, and for no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not parts or "".join(map("".join, parts)) != text or not seconds > 0:
        raise ValueError(f"{name}={text} is not allowed: a time as 6h, 1h30m or 10m is needed.")
    return seconds


@dataclass(frozen=True)
class ShowSettings:
    """Write a contact sheet of what a training sees: cases resampled and outlined, some of them augmented, with the lesion's
    area in pixels.

    Attributes:
        data: Folder in the project's layout.
        out: New PNG file; DATA_RESOLUTIONpx.png in the current folder when not given.
        resolution: Side of the joint sample in pixels, as in the trainings.
        num_per_class: Cases of each class, drawn by --seed.
        augmented: How many of them are shown augmented as well.
        split: Split of the data.
        seed: Everything random follows from it.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    resolution: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = 64
    num_per_class: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    augmented: Annotated[int, tyro.conf.arg(metavar="N")] = 4
    split: str = "train"
    seed: int = 0

    def __post_init__(self):
        check_at_least(self, resolution=8, num_per_class=1, augmented=0, seed=0)
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise ValueError(f"out={self.out} is not allowed: a file that ends in .png is needed.")


@dataclass(frozen=True)
class PlanSettings:
    """Find the settings of the trainings: check the data, measure the device, write OUT/plan.json and a page about it.

    The plan can be edited; `macdm train DATA OUT` takes it from there.

    Attributes:
        data: Folder in the project's layout.
        out: Folder of the model that is planned; it may be new.
        time_budget: How long `macdm train` may take, as 6h or 10m; 10m, 1h, 6h for the presets when not given.
        preset: The narrow network of the demo, that of the reference model, or the same with more pixels where there is time.
        with_classifier: Train a guidance classifier, too. Pairs are sampled by classifier-free guidance, which needs none.
        seed: Everything random follows from it.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    time_budget: Annotated[str | None, tyro.conf.arg(metavar="TIME")] = None
    preset: Preset = "default"
    with_classifier: bool = False
    seed: int = 0

    def __post_init__(self):
        check_at_least(self, seed=0)
        if self.time_budget is not None:
            seconds_of_budget(self.time_budget)
