"""Draw synthetic pairs from a pipeline, in batches of any composition: every pair has a seed of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from ..data.dataset import UNLABELED, PairDataset
from ..data.loading import load_pairs
from ..macdm import MaCDMPipeline
from ..macdm.image_processor import mask_array
from ..macdm.joint_sample import masks_of
from ..macdm.joint_sample import split as split_joint_sample
from ..macdm.refinement import refine_masks
from ..macdm.schedulers import set_scheduler
from .insertion import Placement, place


@dataclass(frozen=True)
class Sampling:
    """Settings that the pairs of a batch share.

    Attributes:
        strength: noise level Z / T of variations, in (0, 1]; None for pairs from noise and for given masks.
        guidance_scale: scale of classifier guidance; 0 is off.
        guidance_interval: noise levels in [0, 1] at which guidance acts.
        classifier_free_guidance_scale: scale of classifier-free guidance; 1 is off.
        num_inference_steps: steps from noise to sample.
        refine_masks: whether to refine generated masks; given ones stay as they are.
    """

    strength: float | None = None
    guidance_scale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    classifier_free_guidance_scale: float = 1.0
    num_inference_steps: int = 25
    refine_masks: bool = True

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Sampling:
        """Read the settings from a row of a synthetic set's `metadata.jsonl`, or any mapping with their names."""
        values = {field.name: row[field.name] for field in fields(cls)}
        return cls(**{**values, "guidance_interval": tuple(values["guidance_interval"])})


@dataclass(frozen=True)
class PairRequest:
    """One pair to be sampled.

    Attributes:
        label: class label; None where the model knows none.
        seed: seed of its noise, see `seeds.pair_seed`.
        case: joint sample `[3, H, W]` in [-1, 1] of the real case to vary (with `Sampling.strength`) or whose masks to take, or
            of the film that `placement` is painted into.
        placement: what is painted into the film.
        lesion_given: whether the model is given the lesion's outline too.
    """

    label: int | None
    seed: int
    case: torch.Tensor | None = None
    placement: Placement | None = None
    lesion_given: bool = True


@dataclass(frozen=True)
class Pair:
    """One synthetic pair.

    Attributes:
        radiograph: 8-bit grayscale.
        anatomy_mask, lesion_mask: bool `[H, W]`, refined where that was asked for; None of a model that makes no such mask.
        lesion_pixels_unrefined: pixels of the lesion mask before refinement; None without one.
        lesion_inside_anatomy_unrefined: share of these that were inside the anatomy mask; None where there were none, or one of
            the masks is not there.
    """

    radiograph: PIL.Image.Image
    anatomy_mask: np.ndarray | None
    lesion_mask: np.ndarray | None
    lesion_pixels_unrefined: int | None
    lesion_inside_anatomy_unrefined: float | None


def make_pairs(pipe: MaCDMPipeline, requests: Sequence[PairRequest], sampling: Sampling) -> list[Pair]:
    """Sample pairs in one batch.

    With placements lesions are painted into the cases. With cases and a strength they are variations of the cases; with cases
    alone they are new radiographs for the cases' masks, which stay as they are; without cases they come from noise.

    Args:
        pipe: the model, with the scheduler to sample with.
        requests: the pairs; either all have a case or none has.
        sampling: what they share.
    """
    conditions, masks = {}, masks_of(pipe.unet.config)
    has_cases = requests[0].case is not None
    if has_cases:
        cases = torch.stack([request.case for request in requests])  # [B, 3, H, W]
        radiographs, anatomy_masks, lesion_masks = split_joint_sample(cases)  # [B, H, W] each
        conditions = {"anatomy_mask": anatomy_masks, "lesion_mask": lesion_masks}
        conditions = {mask: conditions[mask] for mask in masks}
        if requests[0].placement is not None:
            regions = torch.stack([request.placement.region for request in requests])  # [B, H, W]
            conditions = {"image": radiographs, "anatomy_mask": anatomy_masks, "mask_image": regions}
            if requests[0].lesion_given:
                conditions["lesion_mask"] = torch.stack([request.placement.lesion for request in requests])
        elif sampling.strength is not None:
            conditions["image"] = radiographs
    labels = [request.label for request in requests]
    output = pipe(
        class_labels=None if labels[0] is None else labels,
        strength=sampling.strength,
        guidance_scale=sampling.guidance_scale,
        guidance_interval=sampling.guidance_interval,
        classifier_free_guidance_scale=sampling.classifier_free_guidance_scale,
        num_inference_steps=sampling.num_inference_steps,
        # On the CPU whatever the device: it draws the same numbers everywhere.
        generator=[torch.Generator().manual_seed(request.seed) for request in requests],
        refine_masks=False,  # refined below, to tell what was there before
        **conditions,
    )
    if requests[0].placement is not None:
        refine = sampling.refine_masks and not requests[0].lesion_given
    else:
        refine = sampling.refine_masks and (not has_cases or sampling.strength is not None)
    nothing = [None] * len(requests)
    images = zip(output.images, output.anatomy_masks or nothing, output.lesion_masks or nothing, strict=True)
    inserted = requests[0].placement is not None
    return [_pair(*triple, label, refine, inserted) for triple, label in zip(images, labels, strict=True)]


def _pair(radiograph, anatomy_mask, lesion_mask, label: int | None, refine: bool, anatomy_given: bool = False) -> Pair:
    anatomy_mask, lesion_mask = (None if mask is None else mask_array(mask) for mask in (anatomy_mask, lesion_mask))
    num_pixels = None if lesion_mask is None else int(lesion_mask.sum())
    inside = float((lesion_mask & anatomy_mask).sum() / num_pixels) if num_pixels and anatomy_mask is not None else None
    if refine:
        refined_anatomy, lesion_mask = refine_masks(anatomy_mask, lesion_mask, label)
        anatomy_mask = anatomy_mask if anatomy_given else refined_anatomy
        if anatomy_mask is not None and lesion_mask is not None:
            lesion_mask = lesion_mask & anatomy_mask
    return Pair(radiograph, anatomy_mask, lesion_mask, num_pixels, inside)


def make_again(pipe: MaCDMPipeline, row: Mapping[str, Any], data: str | Path | None = None, split: str = "train") -> Pair:
    """Make one pair of a synthetic set again from its row of `metadata.jsonl`.

    Args:
        pipe: the model that the row names; its scheduler becomes the one that the row names.
        row: row of `metadata.jsonl`, or of the set as `datasets` loads it.
        data, split: the real data where the row names a case in `source` or `masks_from`.

    Returns:
        The pair. On the same device it is that of the set up to rounding (one gray level): sums are added up in another order
        in a batch of one.

    Raises:
        ValueError: when the row names a real case and there is no data, or not this case.
    """
    set_scheduler(pipe, row["scheduler"])
    name, case = row["source"] or row["masks_from"], None
    if name is not None:
        if data is None:
            raise ValueError(f"The pair was made from the real case {name!r}: give the data set that has it.")
        cases = PairDataset(load_pairs(data, split), pipe.unet.config.sample_size, null_label=UNLABELED)
        if name not in cases.names:
            raise ValueError(f"{data}, split {split!r}: there is no case {name!r}.")
        case = cases[cases.names.index(name)]["joint_sample"]
    placement = None
    if row.get("lesion_from") is not None:
        lesion_case = cases[cases.names.index(row["lesion_from"])]["joint_sample"]
        placement = place(case, lesion_case, row["placement_seed"])
    request = PairRequest(row["label"], row["seed"], case, placement, row.get("lesion_masks") != "generated")
    return make_pairs(pipe, [request], Sampling.from_row(row))[0]
