"""Inputs of one call of the pipeline, brought into one form: channels, labels, and how many samples they are for."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .image_processor import check_same_sizes, masks_from, radiographs_from
from .joint_sample import ANATOMY_MASK, CHANNELS, LESION_MASK, MASK_WORDS, MASKS, RADIOGRAPH, masks_of


@dataclass(frozen=True)
class Case:
    """Everything that is known of the joint samples before they are sampled.

    Attributes:
        clean: `[B, 3, H, W]`, as the forward process noises it; means nothing in a channel that is not known.
        given: `[B, 1, H, W]` in [0, 1] by channel.
        kept: Channels that keep what is given, and those that the model does not know, which are background; the others are
            sampled.
        region: bool `[B, 1, H, W]`, True where film and lesion mask are painted anew; None without insertion.
    """

    clean: torch.Tensor
    given: dict[int, torch.Tensor]
    kept: frozenset[int]
    region: torch.Tensor | None = None

    @property
    def image_kept(self) -> bool:
        return RADIOGRAPH in self.kept

    @property
    def masks_kept(self) -> bool:
        return ANATOMY_MASK in self.kept and LESION_MASK in self.kept

    @property
    def is_kept(self) -> torch.Tensor:
        """Bool `[3, 1, 1]` or, of an insertion, `[B, 3, H, W]`, to be used as a mask of joint samples."""
        kept = torch.tensor([c in self.kept for c in range(len(CHANNELS))], device=self.clean.device)[:, None, None]
        return kept if self.region is None else kept | ~self.region


def region_from(mask_image, size: int, **images) -> torch.Tensor | None:
    """Bring the region of an insertion into one form: bool `[B, 1, H, W]`; None stays None.

    Args:
        mask_image: mask(s) as `image_processor.masks_from` takes them.
        size: side of the model's samples, in pixels.
        images: what the region lies on, by the names of the arguments; the sizes must agree.

    Raises:
        ValueError: for an empty region, besides what `image_processor.masks_from` refuses.
    """
    if mask_image is None:
        return None
    check_same_sizes(mask_image=mask_image, **images)
    region = masks_from(mask_image, "mask_image", size, keep_small=False) > 0  # [B, 1, H, W]
    if not region.flatten(1).any(dim=1).all():
        raise ValueError("mask_image is empty: it is the region that is painted anew, non-zero inside.")
    return region


def given_channels(image, anatomy_mask, lesion_mask, size: int) -> dict[int, torch.Tensor]:
    """Bring what is given into one form: `[B, 1, H, W]` in [0, 1] by channel, `size` pixels wide and high."""
    check_same_sizes(image=image, anatomy_mask=anatomy_mask, lesion_mask=lesion_mask)
    given = {}
    if image is not None:
        given[RADIOGRAPH] = radiographs_from(image, "image", size)
    if anatomy_mask is not None:
        given[ANATOMY_MASK] = masks_from(anatomy_mask, "anatomy_mask", size, keep_small=False)
    if lesion_mask is not None:
        given[LESION_MASK] = masks_from(lesion_mask, "lesion_mask", size, keep_small=True)
    return given


def check_unet(unet) -> None:
    """Raise `ValueError` for a network that is no denoiser of joint samples, such as a plain `UNet2DModel`."""
    missing = [name for name in ("num_classes", "null_class_label", "learned_variance") if not hasattr(unet, name)]
    if unet is not None and missing:
        raise ValueError(
            f"unet is a {type(unet).__name__}, which has no masks and no class labels; a MaCDMUNet2DModel is needed "
            "(training/train_macdm.py --pretrained_unet makes one that starts from the weights of a plain UNet2DModel)."
        )


def check_given(given: Mapping[int, torch.Tensor], strength: float | None, inserts: bool, config) -> None:
    """Refuse a combination of what is given that no sample can be made from.

    Args:
        given: by channel.
        strength: noise level that a variation starts from; None for everything else.
        inserts: whether a region is to be painted anew.
        config: that of the denoiser: which masks it knows, and whether it has a timestep for them.

    Raises:
        ValueError: with what is missing or too much.
    """
    names, masks, mask_timestep = [CHANNELS[channel] for channel in sorted(given)], masks_of(config), config.mask_timestep
    needed = " and ".join(", ".join(("image", *masks)).rsplit(", ", 1))
    for name in MASKS:
        if name not in masks and name in names:
            raise ValueError(f"{name} is given to a model that was trained without {MASK_WORDS[name]}, and cannot use it.")
    if inserts:
        if CHANNELS[LESION_MASK] not in masks:
            raise ValueError(
                "mask_image paints a lesion into a region, and this model was trained without lesion outlines: it cannot tell "
                "where a lesion is."
            )
        if strength is not None:
            raise ValueError(f"mask_image and strength={strength} do not go together: a region is painted anew from noise.")
        if RADIOGRAPH not in given or (ANATOMY_MASK not in given and CHANNELS[ANATOMY_MASK] in masks):
            outline = " and anatomy_mask" if CHANNELS[ANATOMY_MASK] in masks else ""
            raise ValueError(
                f"mask_image paints a region of a film anew and needs image{outline}; given: "
                f"{', '.join(names) or 'none'} (the pipeline makes masks of a film given alone)."
            )
        if not mask_timestep:
            raise ValueError("mask_image needs a model with a timestep for the masks; this one has mask_timestep=False.")
    elif strength is not None:
        if not 0 < strength <= 1:
            raise ValueError(f"strength={strength} is not allowed: it is the noise level Z / T, in (0, 1].")
        if len(given) <= len(masks):
            raise ValueError(
                f"strength={strength} starts from a real case and needs {needed}; given: {', '.join(names) or 'none'}."
            )
    elif len(given) > len(masks):
        raise ValueError(f"{needed} are all given: nothing to generate without strength.")
    elif not mask_timestep and (RADIOGRAPH in given or len(given) == len(masks)):
        raise ValueError(
            f"This model was trained without a timestep for the masks (mask_timestep=False) and cannot keep what is "
            f"given: {', '.join(names)}. Generate pairs, or use strength."
        )


def label_tensor(class_labels, null_label: int | None) -> torch.Tensor:
    """Bring labels into one form: int64 `[B]` with the null label for "not known".

    Args:
        class_labels: a label or some, `None` for "not known"; `None` alone is a batch of one.
        null_label: of the model, one above its class labels; None for a model that was trained without classes.

    Raises:
        ValueError: for labels that the model was not trained with.
    """
    if class_labels is None:
        return torch.tensor([null_label or 0])
    if isinstance(class_labels, (torch.Tensor, np.ndarray)):
        class_labels = class_labels.tolist()
    if not isinstance(class_labels, Sequence):
        class_labels = [class_labels]
    if null_label is None:
        raise ValueError(f"class_labels={class_labels} were given to a model that was trained without classes.")
    try:  # whatever can stand for a whole number: also numpy's integers and single tensors
        labels = [null_label if label is None else operator.index(label) for label in class_labels]
    except TypeError:
        labels = []
    if not labels or not all(0 <= label <= null_label for label in labels):
        raise ValueError(
            f"class_labels={class_labels} is not allowed: whole numbers from 0 to {null_label - 1}, "
            f"or {null_label} (None) for not known."
        )
    return torch.tensor(labels)


def common_batch_size(labels: torch.Tensor, given: dict[int, torch.Tensor], generator, latents, region=None) -> int:
    """Return the common number of samples; whatever there is once is used for all of them.

    Raises:
        ValueError: when the numbers do not agree.
    """
    counts = {"class_labels": len(labels)}
    counts |= {CHANNELS[channel]: len(tensor) for channel, tensor in given.items()}
    if region is not None:
        counts["mask_image"] = len(region)
    generators = generator if isinstance(generator, list) else [generator]
    if not all(item is None or isinstance(item, torch.Generator) for item in generators):
        raise ValueError(f"generator={generator} is not allowed: a torch.Generator or a list of them, one for each sample.")
    if isinstance(generator, list):
        counts["generator"] = len(generator)
    if latents is not None:
        counts["latents"] = len(latents)
    batch_size = max(counts.values())
    wrong = {name: count for name, count in counts.items() if count not in (1, batch_size)}
    if wrong or (isinstance(generator, list) and len(generator) != batch_size):
        raise ValueError(
            f"The numbers of samples do not agree: {', '.join(f'{n} {c}' for n, c in counts.items())}. Each must be "
            f"1 or {batch_size}, a list of generators exactly {batch_size}."
        )
    return batch_size
