"""Copies of training images among synthetic pairs: made again where that is asked for, warned of where they are certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..audit.detector import build_detector
from ..audit.images import to_audit_size
from ..audit.radiographs import load_radiographs, trained_on
from ..audit.settings import EMBEDDING_STEPS
from ..files import read_json
from ..macdm import MaCDMPipeline
from ..macdm.image_processor import radiograph_array
from ..seeds import pair_seed
from .pairs import Pair, PairRequest, Sampling, make_pairs
from .synthetic_set import image_name


MAX_REJECTIONS = 20
# The strength Z / T from which on variations could not be traced to the case they were made from: docs/results/copy_audit.md.
COPY_FREE_STRENGTH = 0.7


def strength_warning(model: str | Path, strength: float) -> str | None:
    """Return what is to be said of variations at this strength: None where they are no copies of their cases.

    An audit with `--strengths` that was written into the model's folder `audit` says from which strength on that is so; without
    one, what was measured on FracAtlas does (docs/results/copy_audit.md).
    """
    level, known = COPY_FREE_STRENGTH, "on FracAtlas, docs/results/copy_audit.md; for this model, macdm audit --strengths tells"
    record = Path(model) / "audit" / "audit.json"
    if record.is_file():
        audit = read_json(record, None)
        found = audit.get("strength_level")
        if audit.get("strength_curve") and (found is None or isinstance(found, (int, float))):
            level, known = math.inf if found is None else found, f"{record}"
    if strength >= level:
        return None
    limit = "at no strength that was measured" if level == math.inf else f"only from strength {level} on"
    return (
        f"strength {strength}: variations are copies of the cases that they are made from, or can be traced to them; {limit} "
        f"can they not ({known}). Treat this set as you treat the real films."
    )


def copy_test(real, model, size: int, seed: int, device, progress: bool) -> Callable[[Sequence[Pair]], np.ndarray]:
    """Return a function that tells which of some pairs are copies of training images: `[N]` bool.

    Args:
        real: the real set whose images trained the model, with its validation split for the threshold.
        model: the model, for its record of which ones.
        size: side of the model's samples in pixels.
        seed: seed of the embedding's training.
    """
    training, _ = trained_on(load_radiographs(real, "train", size), real, model=model)
    validation = load_radiographs(real, "validation", size)
    detector, _ = build_detector(
        training, validation, embedding_steps=EMBEDDING_STEPS, seed=seed, device=device, progress=progress
    )
    return lambda pairs: detector.find(to_audit_size([radiograph_array(pair.radiograph) for pair in pairs], size))


def replace_copies(
    pipe: MaCDMPipeline,
    requests: Sequence[PairRequest],
    pairs: list[Pair],
    sampling: Sampling,
    is_copy: Callable[[Sequence[Pair]], np.ndarray],
    *,
    seed: int,
    first: int,
) -> list[tuple[int, int]]:
    """Make the copies in a batch again from other seeds, in place in `pairs`, until none is left.

    Args:
        pipe, requests, sampling: what the pairs were sampled with.
        pairs: the batch.
        is_copy: `copy_test`.
        seed: seed of the set.
        first: number of the batch's first pair in the set.

    Returns:
        For each pair the seed that it was made from at last, and how many times it was rejected.

    Raises:
        ValueError: when a pair is a copy more than `MAX_REJECTIONS` times.
    """
    results = [(request.seed, 0) for request in requests]
    waiting = list(range(len(pairs)))
    for rejected in range(1, MAX_REJECTIONS + 2):
        waiting = [i for i, copy in zip(waiting, is_copy([pairs[i] for i in waiting]), strict=True) if copy]
        if not waiting:
            return results
        if rejected > MAX_REJECTIONS:
            break
        for i in waiting:
            results[i] = (pair_seed(seed, first + i, rejected), rejected)
        again = [replace(requests[i], seed=results[i][0]) for i in waiting]
        for i, pair in zip(waiting, make_pairs(pipe, again, sampling), strict=True):
            pairs[i] = pair
    raise ValueError(
        f"{Path(image_name(first + waiting[0])).stem} was a copy of a training image {MAX_REJECTIONS + 1} times over: this "
        "model copies its training images. Train it for fewer steps or on more cases (or, for variations, take a larger "
        "strength)."
    )
