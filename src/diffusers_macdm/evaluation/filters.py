"""Filters of synthetic pairs: what networks that were trained on real cases alone do not agree with is dropped."""

from __future__ import annotations

import numpy as np
import torch

from .cases import Cases
from .downstream import predict_masks, predict_probabilities
from .metrics import dice_per_case


CLASSIFIER, SEGMENTER, BOTH = "classifier", "segmenter", "both"
FILTERS = (CLASSIFIER, SEGMENTER, BOTH)
QUANTILE = 0.05  # of the real pairs would be dropped, too


def kept_by_classifier(classifier: torch.nn.Module, synthetic: Cases) -> np.ndarray:
    """bool `[N]`: the diagnosis classifier finds the pair's own label the most probable one."""
    return predict_probabilities(classifier, synthetic).argmax(axis=1) == synthetic.class_labels.numpy()


def dice_thresholds(segmenter: torch.nn.Module, real: Cases) -> dict[str, float]:
    """Of `anatomy` and `lesion`: the Dice that 95 % of real pairs reach, between their masks and what the segmenter sees.

    Args:
        real: pairs that did not train the segmenter. 0 for a mask that none of them has.
    """
    found = _dice(segmenter, real)
    defined = {name: values[~np.isnan(values)] for name, values in found.items()}
    return {name: float(np.quantile(values, QUANTILE)) if len(values) else 0.0 for name, values in defined.items()}


def kept_by_segmenter(segmenter: torch.nn.Module, synthetic: Cases, thresholds: dict[str, float]) -> np.ndarray:
    """bool `[N]`: each mask that the pair has agrees with what the segmenter sees at least as well as the threshold says."""
    found = _dice(segmenter, synthetic)
    return np.logical_and.reduce([np.isnan(found[name]) | (found[name] >= thresholds[name]) for name in found])


def _dice(segmenter: torch.nn.Module, cases: Cases) -> dict[str, np.ndarray]:
    """Of each mask, nan for pairs that have none: a lesion seen in a normal film is the classifier's business."""
    predicted, own = predict_masks(segmenter, cases), cases.masks.numpy()
    return {
        name: np.where(own[:, mask].any(axis=(1, 2)), dice_per_case(predicted[:, mask], own[:, mask]), np.nan)
        for mask, name in enumerate(("anatomy", "lesion"))
    }


def filtered(
    name: str, synthetic: Cases, classifier: torch.nn.Module, segmenter: torch.nn.Module, thresholds: dict[str, float]
) -> Cases:
    """The pairs that a filter keeps.

    Raises:
        ValueError: for a filter that there is not.
    """
    if name not in FILTERS:
        raise ValueError(f"filter {name!r} is not allowed: {', '.join(FILTERS)}.")
    kept = np.ones(len(synthetic), dtype=bool)
    if name in (CLASSIFIER, BOTH):
        kept &= kept_by_classifier(classifier, synthetic)
    if name in (SEGMENTER, BOTH):
        kept &= kept_by_segmenter(segmenter, synthetic, thresholds)
    return synthetic.select(np.flatnonzero(kept))
