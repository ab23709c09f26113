"""The pairs of one point of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..comparison.model import masks_for
from ..data.cases import Cases
from ..generate.pairs import PairRequest, Sampling, make_pairs
from ..macdm import MaCDMPipeline
from ..macdm.image_processor import radiograph_array
from ..macdm.joint_sample import join
from ..seeds import pair_seed


def sample_pairs(
    pipe: MaCDMPipeline, run: Mapping, training: Cases, labels: Sequence[int], num_per_class: int, seed: int, batch_size: int
) -> tuple[Cases, np.ndarray]:
    """The pairs of one run and the pixels of their lesion masks before refinement, int `[N]`.

    Variations of the same patient's cases stand under that patient: they are no independent pairs.
    """
    class_labels = torch.tensor(labels).repeat(num_per_class)
    sources = masks_for(class_labels, training.class_labels, seed) if run["strength"] < 1 else None
    sampling = Sampling(
        strength=None if sources is None else run["strength"],
        guidance_scale=run["guidance_scale"],
        guidance_interval=run["guidance_interval"],
        num_inference_steps=run["num_inference_steps"],
    )
    pairs = []
    for first in range(0, len(class_labels), batch_size):
        requests = [
            PairRequest(
                int(class_labels[number]),
                pair_seed(seed, number),
                None if sources is None else training.joint_samples[sources[number]],
            )
            for number in range(first, min(first + batch_size, len(class_labels)))
        ]
        pairs += make_pairs(pipe, requests, sampling)
    masks = [torch.from_numpy(np.stack([getattr(pair, f"{name}_mask") for pair in pairs])) for name in ("anatomy", "lesion")]
    radiographs = torch.from_numpy(np.stack([radiograph_array(pair.radiograph) for pair in pairs]))  # [N, H, W] in [0, 1]
    patients = None if sources is None else [training.patient_ids[source] for source in sources]
    made = Cases.of(join(radiographs, *masks), class_labels, patient_ids=patients)
    return made, np.array([pair.lesion_pixels_unrefined for pair in pairs])
