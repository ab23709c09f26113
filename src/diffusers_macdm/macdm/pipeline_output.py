"""What `MaCDMPipeline` puts out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput


@dataclass
class MaCDMPipelineOutput(BaseOutput):
    """
    Output of [`MaCDMPipeline`]: one entry in each field for every pair.

    Args:
        images: radiographs; list of 8-bit grayscale PIL images, array `[B, H, W, 1]` or tensor `[B, 1, H, W]` in [0, 1].
        anatomy_masks, lesion_masks: masks in the same form, 0 or 255 as PIL image, 0 or 1 otherwise; `None` of a model that was
            trained without such masks.
        class_labels: the labels that were asked for, `None` for "not known".
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    anatomy_masks: list[PIL.Image.Image] | np.ndarray | torch.Tensor | None
    lesion_masks: list[PIL.Image.Image] | np.ndarray | torch.Tensor | None
    class_labels: list[int | None]
