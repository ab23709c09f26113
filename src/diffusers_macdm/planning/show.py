"""What a training sees, to look at: `macdm show`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.augmentation import PairAugmentation
from ..data.dataset import UNLABELED, PairDataset
from ..data.loading import load_pairs
from ..files import refuse_existing
from ..macdm.joint_sample import MASKS
from ..macdm.joint_sample import split as split_channels
from ..report.contact_sheet import contact_sheet, save
from .settings import ShowSettings


COLUMNS = 4  # of cases, each shown plain and outlined
ALWAYS = 1.0  # probability of each parameter: an augmented case is to be seen to be one


def shown_cases(
    data: str | Path, resolution: int, num_per_class: int = 8, augmented: int = 4, split: str = "train", seed: int = 0
) -> tuple[list[torch.Tensor], list[str], tuple[str, ...]]:
    """Return cases of each class as a training sees them, and what stands below each.

    The cases are drawn by `seed`, as many of each class; unlabeled ones stand last. The first of those with a lesion (of all,
    where none has one) come augmented as well, every parameter drawn, which in training happens to one in eight.

    Args:
        data: data set, see `data.loading.load_pairs`.
        resolution: side of the joint samples in pixels.

    Returns:
        Joint samples `[3, S, S]` in [-1, 1], captions ("label 1: lesion 23 px"), and the masks that the set has.

    Raises:
        FileNotFoundError, ValueError: when the data cannot be read, or a case cannot be decoded.
    """
    pairs = load_pairs(data, split)
    if not len(pairs):
        raise ValueError(f"{data}, split {split!r}: there are no cases.")
    chosen = _drawn(pairs["label"], num_per_class, seed)
    cases = PairDataset(pairs.select(chosen), resolution, PairAugmentation(probability=ALWAYS), null_label=UNLABELED)
    samples = [(cases[index]["joint_sample"], _name(cases.labels[index])) for index in range(len(cases))]
    lesions = [index for index in range(len(cases)) if _area(samples[index][0])] or list(range(len(cases)))
    for index in lesions[:augmented]:
        samples.append((cases[index, seed + index]["joint_sample"], f"{_name(cases.labels[index])}, augmented"))
    captions = [name for _, name in samples]
    if MASKS[1] in pairs.masks:
        captions = [f"{name}: lesion {_pixels(_area(sample))}" for sample, name in samples]
    return [sample for sample, _ in samples], captions, tuple(pairs.masks)


def show_sheet(data: str | Path, resolution: int, split: str = "train", **drawn) -> Image.Image:
    """Lay out the cases of `shown_cases`, each plain and with its outlines, above its caption; `drawn` are its arguments."""
    samples, captions, known = shown_cases(data, resolution, split=split, **drawn)
    triples = [[channel.numpy() for channel in split_channels(sample)] for sample in samples]
    radiographs, *masks = (np.stack(channel) for channel in zip(*triples, strict=True))
    return contact_sheet(
        radiographs,
        *(mask > 0.5 if name in known else None for name, mask in zip(MASKS, masks, strict=True)),
        captions=captions,
        columns=COLUMNS,
        title=f"{Path(data).name}, {split}: what a training at {resolution} px sees",
        side_by_side=True,
    )


def _drawn(labels: list[int | None], num_per_class: int, seed: int) -> list[int]:
    """Numbers of the cases that are shown, class by class."""
    chosen: list[int] = []
    for label in sorted({label for label in labels if label is not None}) + [None]:
        members = np.array([index for index, other in enumerate(labels) if other == label], dtype=int)
        generator = np.random.default_rng([seed, -1 % 2**32 if label is None else label])
        chosen += sorted(generator.permutation(members)[:num_per_class].tolist())
    return chosen


def _name(label: int) -> str:
    return "no label" if label == UNLABELED else f"label {label}"


def _area(sample) -> int:
    """Pixels of the lesion in a joint sample `[3, S, S]`."""
    return int((split_channels(sample)[2] > 0.5).sum())


def _pixels(area: int) -> str:
    return f"{area} px" if area else "none"


def run(settings: ShowSettings) -> Path:
    """Write the contact sheet; return its path.

    Raises:
        FileExistsError: when the file is there already.
        FileNotFoundError, ValueError: when the data cannot be read.
    """
    out = settings.out
    if out is None:
        out = Path(f"{Path(settings.data).resolve().name}_{settings.resolution}px.png")
    refuse_existing(out)
    drawn = {"num_per_class": settings.num_per_class, "augmented": settings.augmented, "seed": settings.seed}
    sheet = show_sheet(settings.data, settings.resolution, settings.split, **drawn)
    save(sheet, out)
    return out
