"""Do the masks fit the images? Dice between the masks of a pair and those that a segmenter, trained on real pairs, sees."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..data.cases import Cases
from ..macdm.joint_sample import CHANNELS, LESION_MASK, MASKS
from ..statistics.bootstrap import patient_bootstrap
from ..statistics.measures import dice_per_case, mean_of_defined
from .predictions import predict_masks


NUM_SHUFFLES = 5


def mask_fit(
    segmenter: nn.Module, held_out: Cases, synthetic: Cases, seed: int = 0, *, device: str | torch.device = "cpu"
) -> dict:
    """Dice of synthetic pairs, beside that of real pairs that the segmenter has not seen and of shuffled synthetic pairs.

    Shuffled: each image with the masks of another synthetic pair of the same label (up to five others; their mean). What is
    above the shuffled value is the fit of this mask to this image and not of any mask to any image.

    Args:
        segmenter: trained on real training pairs; radiographs `[B, 1, H, W]` in [-1, 1] to logits `[B, 2, H, W]` of
            anatomy and lesion.
        held_out: real pairs that it was not trained on.
        seed: of the shuffling and of the intervals (bootstrap over patients).

    Returns:
        JSON-ready: `measures`, of each `mask`, `label` (None: all; the lesion's are those that have one), `value`, `interval`,
        `real`, `real_interval`, `shuffled`, `shuffled_interval`, `n`. Pairs in which neither has any such mask are left out. Of
        sets with one mask there is that one alone.

    Raises:
        ValueError: when a set has no masks, or the two have none in common.
    """
    masks = [mask for mask in held_out.known_masks if mask in synthetic.known_masks]
    for cases, kind in ((held_out, "real"), (synthetic, "synthetic")):
        if not len(cases) or not cases.known_masks:
            raise ValueError(f"The {kind} cases have no masks: there is nothing whose fit could be measured.")
    if not masks:
        raise ValueError("The real and the synthetic cases have no mask in common: there is nothing to compare.")
    segmenter = segmenter.to(device).eval()
    real_seen, seen = (torch.from_numpy(predict_masks(segmenter, cases)) for cases in (held_out, synthetic))
    real_dice, dice = _dice(real_seen, held_out.masks), _dice(seen, synthetic.masks)  # [N, 2]
    shuffled = _shuffled_dice(seen, synthetic, seed)  # [N, 2]
    measures = []
    for channel, mask in enumerate(MASKS):
        if mask not in masks:
            continue
        is_lesion = mask == CHANNELS[LESION_MASK]
        labels = [label for label in sorted(set(synthetic.class_labels.tolist())) if label > 0 or not is_lesion]
        for label in (None, *labels):
            chosen = _with_label(synthetic, label, labels)
            real_chosen = _with_label(held_out, label, labels)
            of_label = _estimate(dice[chosen, channel], np.array(synthetic.patient_ids)[chosen], seed, "")
            of_real = _estimate(real_dice[real_chosen, channel], np.array(held_out.patient_ids)[real_chosen], seed, "real")
            of_shuffled = _estimate(shuffled[chosen, channel], np.array(synthetic.patient_ids)[chosen], seed, "shuffled")
            n = int(np.isfinite(dice[chosen, channel]).sum())
            measures.append({"mask": mask, "label": label, **of_label, **of_real, **of_shuffled, "n": n})
    return {"measures": measures}


def _dice(one: torch.Tensor, two: torch.Tensor) -> np.ndarray:
    """Dice of `[N, 2, H, W]` with `[N, 2, H, W]`: `[N, 2]`, nan where both are empty."""
    return np.stack([dice_per_case(one[:, channel].numpy(), two[:, channel].numpy()) for channel in (0, 1)], axis=1)


def _shuffled_dice(seen: torch.Tensor, synthetic: Cases, seed: int) -> np.ndarray:
    """Mean Dice of what is seen in an image with the masks of other pairs of its label, `[N, 2]`; nan where there is none."""
    generator = np.random.default_rng(seed)
    dice = np.full((NUM_SHUFFLES, len(synthetic), 2), np.nan)
    for label in sorted(set(synthetic.class_labels.tolist())):
        # Along a random circle: the next one, and the one after it, are never the case itself.
        circle = generator.permutation(np.flatnonzero(synthetic.class_labels.numpy() == label))
        for shift in range(1, min(NUM_SHUFFLES, len(circle) - 1) + 1):
            dice[shift - 1, circle] = _dice(seen[circle], synthetic.masks[np.roll(circle, shift)])
    return np.apply_along_axis(mean_of_defined, 0, dice)


def _with_label(cases: Cases, label: int | None, labels: list[int]) -> np.ndarray:
    of_cases = cases.class_labels.numpy()
    return np.flatnonzero(np.isin(of_cases, labels) if label is None else of_cases == label)


def _estimate(values: np.ndarray, patient_ids: np.ndarray, seed: int, prefix: str) -> dict:
    """Mean of the defined values with its interval, under `value` and `interval`, or PREFIX and PREFIX_interval."""
    names = (prefix, f"{prefix}_interval") if prefix else ("value", "interval")
    if not len(values):
        return dict.fromkeys(names)
    estimate = patient_bootstrap(
        lambda chosen: mean_of_defined(values[chosen]), patient_ids, seed=seed, rests_on=[~np.isnan(values)]
    ).to_dict()
    return dict(zip(names, (estimate["value"], estimate["interval"]), strict=True))
