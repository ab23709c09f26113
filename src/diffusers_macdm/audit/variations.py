"""Variations of training cases: from which strength on do they hide the case that they were made from?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.dataset import UNLABELED, PairDataset
from ..data.loading import load_pairs
from ..generate.pairs import PairRequest, Sampling, make_pairs
from ..macdm import MaCDMPipeline
from ..macdm.image_processor import radiograph_array
from ..seeds import pair_seed
from ..statistics.proportions import proportion
from .copies import NOMINAL_RATE, CopyDetector
from .images import to_audit_size
from .radiographs import Radiographs
from .verdict import named


# Share of variations whose source may be known, by any of the three distances, at a strength that is said to hide it. Chance is
# 3 in the number of training images.
MAX_TRACED = 0.1
NUM_INFERENCE_STEPS, BATCH_SIZE = 50, 16


def strength_curve(
    pipe: MaCDMPipeline,
    real: str | Path,
    training: Radiographs,
    detector: CopyDetector,
    strengths: Sequence[float],
    count: int,
    seed: int,
    progress: bool = False,
) -> list[dict]:
    """Make variations of training cases, and find those that are copies or can be traced to their source.

    The pairs are those that `macdm generate` makes with this seed: unguided, masks unrefined, 8-bit radiographs.

    Args:
        pipe: the model.
        real: data set with the training cases.
        training: radiographs of the cases that trained the model.
        detector: detector of copies of these.
        strengths: noise levels Z / T, in (0, 1].
        count: variations at each strength, of as many cases where there are as many with a label.
        seed: seed of the choice of cases and of the noise, which is the same at all strengths.
        progress: whether to show on stderr how far the work is.

    Returns:
        For each strength, from low to high: `strength`, the share of copies (`value`, `interval`, `copies`, `total`), and the
        share that lies nearest to its own source by any of the three distances (`nearest_is_source` with its interval).
    """
    dataset = PairDataset(load_pairs(real, "train"), pipe.unet.config.sample_size, null_label=UNLABELED)
    places = {name: i for i, name in enumerate(training.names)}
    eligible = [i for i, name in enumerate(dataset.names) if name in places and dataset.labels[i] >= 0]
    chosen = np.random.default_rng(seed).permutation(eligible)[:count].tolist()
    sources = np.array([places[dataset.names[i]] for i in chosen])
    requests = [
        PairRequest(dataset.labels[case], pair_seed(seed, number), dataset[case]["joint_sample"])
        for number, case in enumerate(chosen)
    ]
    curve = []
    for strength in sorted(strengths):
        sampling = Sampling(strength=strength, num_inference_steps=NUM_INFERENCE_STEPS, refine_masks=False)
        images = []
        for first in range(0, len(requests), BATCH_SIZE):
            pairs = make_pairs(pipe, requests[first : first + BATCH_SIZE], sampling)
            images += [radiograph_array(pair.radiograph) for pair in pairs]
        bar = f"variations at {strength}" if progress else None
        comparison = detector.gallery.compare(to_audit_size(images, training.side), progress=bar)
        nearest = (comparison.nearest, comparison.pixel_nearest, comparison.embedding_nearest)
        traced = proportion(np.any([indices == sources for indices in nearest], axis=0))
        curve.append(
            {
                "strength": float(strength),
                **named(proportion(detector.is_copy(comparison)), "copies"),
                "nearest_is_source": traced["value"],
                "nearest_is_source_interval": traced["interval"],
            }
        )
    return curve


def telling_level(curve: Sequence[dict]) -> float | None:
    """Return the lowest strength from which on variations hide their source; None if there is none.

    From it on they are called copies no more often than chance explains, and are known to lie nearest to their own source in
    fewer than `MAX_TRACED` of the cases (the interval's upper end: a few variations prove nothing). Below it the audit may tell
    which case a variation was made from.
    """
    level = None
    for point in sorted(curve, key=lambda point: -point["strength"]):
        if point["interval"][0] > NOMINAL_RATE or point["nearest_is_source_interval"][1] > MAX_TRACED:
            break
        level = point["strength"]
    return level
