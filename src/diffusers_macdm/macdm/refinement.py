"""Refinement of generated masks after sampling (MaC-DM, arXiv 2311.13688, segmentation refinement)."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import numpy as np
import torch

from .joint_sample import ANATOMY_MASK, LESION_MASK, NORMAL_LABEL


# Components smaller than this share of the mask's largest one are specks; generated lesions are a few connected pixels,
# so an absolute size in pixels would not carry over from 64 to 256 px.
SPECK_SHARE = 0.1


def refine_masks(
    anatomy_mask: np.ndarray | None, lesion_mask: np.ndarray | None, class_label: int | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Make a pair of masks anatomically possible: no specks, no holes, the lesion inside the anatomy, and none in a
    normal case.

    Args:
        anatomy_mask, lesion_mask: bool `[H, W]`; None where the model makes no such mask, which is then no bound of the other.
        class_label: `joint_sample.NORMAL_LABEL` empties the lesion mask; None (not known) leaves it.

    Returns:
        The refined masks, bool `[H, W]`. Without scikit-image specks and holes stay, which is warned of.
    """
    if anatomy_mask is not None:
        anatomy_mask = refine_mask(anatomy_mask)
    if lesion_mask is None:
        return anatomy_mask, None
    if class_label == NORMAL_LABEL:
        return anatomy_mask, np.zeros_like(lesion_mask)
    return anatomy_mask, refine_mask(lesion_mask if anatomy_mask is None else lesion_mask & anatomy_mask)


def refine_mask(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of one mask and remove its specks; bool `[H, W]` -> bool `[H, W]`. Once more changes nothing."""
    try:
        from skimage.measure import label
        from skimage.segmentation import clear_border
    except ImportError:
        warnings.warn(
            "scikit-image is not installed, so specks and holes of generated masks are left as they are: "
            "install diffusers-macdm[train], or pass refine_masks=False to say that this is meant.",
            stacklevel=2,
        )
        return mask
    if not mask.any():
        return mask
    # The inside is 8-connected, so the outside is 4-connected: a closed diagonal line has an inside. Holes go first, since
    # what a thin outline encloses decides whether it is a speck.
    holes = clear_border(label(~mask, connectivity=1)) > 0
    components = label(mask | holes, connectivity=2)
    areas = np.bincount(components.ravel())
    areas[0] = 0  # the outside
    return (areas >= SPECK_SHARE * areas.max())[components]


def refine_batch(
    anatomy_masks: torch.Tensor | None,
    lesion_masks: torch.Tensor | None,
    class_labels: Sequence[int | None],
    kept: Collection[int],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Refine the generated masks of a batch; masks that were given are kept as they are.

    Args:
        anatomy_masks, lesion_masks: `[B, 1, H, W]` in {0, 1}; None where the model makes no such mask.
        class_labels: `[B]`, None for "not known".
        kept: channels of the joint sample that were given.

    Returns:
        The masks in the same form.
    """
    if anatomy_masks is None or lesion_masks is None:
        return _refine_alone(anatomy_masks, lesion_masks, class_labels, kept)
    pairs = []
    masks = torch.cat([anatomy_masks, lesion_masks], dim=1).cpu().bool().numpy()  # [B, 2, H, W]
    for (anatomy, lesion), label in zip(masks, class_labels, strict=True):
        if ANATOMY_MASK in kept and LESION_MASK in kept:
            pass
        elif LESION_MASK in kept:
            anatomy = refine_mask(anatomy) | lesion
        elif ANATOMY_MASK in kept:
            lesion = np.zeros_like(lesion) if label == NORMAL_LABEL else refine_mask(lesion & anatomy) & anatomy
        else:
            anatomy, lesion = refine_masks(anatomy, lesion, label)
        pairs.append(np.stack([anatomy, lesion]))
    refined = torch.from_numpy(np.stack(pairs)).to(anatomy_masks)  # [B, 2, H, W]
    return refined[:, :1], refined[:, 1:]


def _refine_alone(anatomy_masks, lesion_masks, class_labels, kept) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Refine the masks of a model that makes one of the two."""
    channel, masks = (LESION_MASK, lesion_masks) if anatomy_masks is None else (ANATOMY_MASK, anatomy_masks)
    if masks is not None and channel not in kept:
        pairs = [(None, mask) if channel == LESION_MASK else (mask, None) for mask in masks[:, 0].cpu().bool().numpy()]
        refined = [refine_masks(*pair, label) for pair, label in zip(pairs, class_labels, strict=True)]
        masks = torch.from_numpy(np.stack([pair[channel - ANATOMY_MASK] for pair in refined])[:, None]).to(masks)
    return (masks, None) if channel == ANATOMY_MASK else (None, masks)
