"""Filters of synthetic pairs: what another opinion does not agree with is dropped.

The opinions are a diagnosis classifier and a segmenter that were trained on real cases alone, and the generative model's own
masks of the finished radiograph (image -> masks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ..data.cases import Cases
from ..macdm.joint_sample import MASKS, masks_of
from ..statistics.measures import dice_per_case
from .networks import DIAGNOSIS, SEGMENTATION
from .predictions import predict_masks, predict_probabilities


if TYPE_CHECKING:
    from ..macdm.pipeline import MaCDMPipeline
    from .divisions import Division
    from .judge import Judge

CLASSIFIER, SEGMENTER, BOTH, NETWORK = "classifier", "segmenter", "both", "network"
FILTERS = (CLASSIFIER, SEGMENTER, BOTH, NETWORK)
QUANTILE = 0.05  # of the real pairs would be dropped, too
MASK_STEPS = 25  # from noise to masks

DicePerMask = Mapping[str, np.ndarray]  # "anatomy", "lesion" -> float64 [N]


def agrees_with_label(classifier: torch.nn.Module, cases: Cases) -> np.ndarray:
    """bool `[N]`: the diagnosis classifier finds the pair's own label the most probable one."""
    return predict_probabilities(classifier, cases).argmax(axis=1) == cases.class_labels.numpy()


def dice_of_masks(network: torch.nn.Module, cases: Cases) -> DicePerMask:
    """Dice between the masks of each pair and what a network sees in its radiograph.

    nan for the lesion of a normal pair: a lesion seen in a normal film is the classifier's business. 0 where the label or the
    mask says that there is something and the other one of pair and network has nothing. nan for a mask that the set lacks.
    """
    predicted, own, known = predict_masks(network, cases), cases.masks.numpy(), cases.known_masks
    anatomy, lesion = (
        np.nan_to_num(dice_per_case(predicted[:, mask], own[:, mask])) if name in known else np.full(len(cases), np.nan)
        for mask, name in enumerate(MASKS)
    )
    return {"anatomy": anatomy, "lesion": np.where(cases.has_lesion.numpy(), lesion, np.nan)}


def thresholds_of(real: DicePerMask) -> dict[str, float]:
    """Return the Dice that 95 % of real pairs, new to the network, reach, by mask; 0 where none of them has it."""
    defined = {name: values[~np.isnan(values)] for name, values in real.items()}
    return {name: float(np.quantile(values, QUANTILE)) if len(values) else 0.0 for name, values in defined.items()}


def reaches(synthetic: DicePerMask, thresholds: Mapping[str, float]) -> np.ndarray:
    """bool `[N]`: each mask that the pair should have is at least as good as the threshold says."""
    return np.logical_and.reduce([np.isnan(values) | (values >= thresholds[name]) for name, values in synthetic.items()])


class MaskSampler(torch.nn.Module):
    """A pipeline's image -> masks in the form of a segmenter: `[B, 1, H, W]` in [-1, 1] to `[B, 2, H, W]`, positive inside.

    Radiographs are resampled to the pipeline's size and masks back. The noise is the same for every radiograph. A mask that the
    pipeline does not make (`masks` names those that it does) is NaN.
    """

    def __init__(self, pipe: MaCDMPipeline, num_inference_steps: int = MASK_STEPS):
        super().__init__()
        self.unet, self.masks = pipe.unet, masks_of(pipe.unet.config)
        self._pipe, self._num_inference_steps = pipe, num_inference_steps

    def forward(self, radiographs: torch.Tensor) -> torch.Tensor:
        size, side = radiographs.shape[-1], self.unet.config.sample_size
        images = radiographs if size == side else F.interpolate(radiographs, (side, side), mode="bicubic", antialias=True)
        generators = [torch.Generator().manual_seed(0) for _ in images]
        out = self._pipe(
            image=(images / 2 + 0.5).clamp(0, 1),
            num_inference_steps=self._num_inference_steps,
            generator=generators,
            output_type="pt",
        )
        nothing = torch.full_like(out.images, torch.nan)
        masks = [nothing if mask is None else mask for mask in (out.anatomy_masks, out.lesion_masks)]
        masks = torch.cat(masks, dim=1).float()  # [B, 2, side, side] of 0 and 1
        return (masks if size == side else F.interpolate(masks, (size, size), mode="area")) - 0.5


def filter_pairs(
    divisions: Sequence[Division], filters: Sequence[str], judge: Judge, mask_sampler: MaskSampler | None
) -> tuple[dict[tuple[str, str], Cases], dict[str, list[tuple[int, int]]]]:
    """Return the pairs that each filter leaves in each division.

    The thresholds are those of the division's validation cases; no test case has a say.

    Args:
        divisions: divisions of the cases, with the same synthetic pairs in all of them.
        filters: names out of `FILTERS`.
        judge: networks of the real training cases.
        mask_sampler: opinion of the filter "network", where that is asked for.

    Returns:
        The pairs by names of division and filter ("none" among them), and by filter, for each division, the numbers that are
        kept and dropped.
    """
    pairs = {(division.name, "none"): division.synthetic for division in divisions}
    kept: dict[str, list[tuple[int, int]]] = {name: [] for name in filters}
    synthetic = divisions[0].synthetic
    agrees, networks = np.ones(len(synthetic), dtype=bool), {}
    if {CLASSIFIER, BOTH} & set(filters):
        agrees = agrees_with_label(judge.network(DIAGNOSIS), synthetic)
    if {SEGMENTER, BOTH} & set(filters):
        networks[SEGMENTER] = judge.network(SEGMENTATION)
    if NETWORK in filters:
        networks[NETWORK] = mask_sampler
    dice = {name: dice_of_masks(network, synthetic) for name, network in networks.items()}
    for division in divisions:
        fits = {
            name: reaches(dice[name], thresholds_of(dice_of_masks(network, division.validation)))
            for name, network in networks.items()
        }
        passes = {CLASSIFIER: agrees, **fits, BOTH: agrees & fits.get(SEGMENTER, agrees)}
        for name in filters:
            pairs[division.name, name] = synthetic.select(np.flatnonzero(passes[name]))
            kept[name].append((int(passes[name].sum()), int((~passes[name]).sum())))
    return pairs, kept
