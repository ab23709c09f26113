"""Regions of cases around their lesions, as the audit of inserted lesions compares them."""

from __future__ import annotations

import numpy as np
import torch

from ..audit.regions import LesionPlaces, cut
from ..data.cases import Cases


def regions(cases: Cases, lesion_cases: Cases, seed: int = 0) -> Cases:
    """Cut the region around its lesion out of each case, or one at the place of a lesion of `lesion_cases` where it has none.

    Returns:
        Cases of `[N, 3, s, s]`, `s` being `audit.regions.SIDE` of the side.
    """
    places = LesionPlaces.of(mask for mask in lesion_cases.masks.numpy())
    cut_out = []
    for number, (sample, (anatomy, lesion)) in enumerate(zip(cases.joint_samples.numpy(), cases.masks.numpy(), strict=True)):
        cut_out.append(cut(sample, places.centre(anatomy, lesion, seed + number)))
    return Cases.of(torch.from_numpy(np.stack(cut_out)), cases.class_labels, cases.names, cases.patient_ids)
