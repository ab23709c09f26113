"""Images as the audit compares them, at one small size, and what moves and blurs them.

Ranges: radiograph file -> [0, 1] -> `[N, 64, 64]` uint8, the form in which 50,000 images take 0.2 GB.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F

from ..macdm.image_processor import resize_radiograph


# All distances are measured at this size. A copy keeps its anatomy here; what is finer is mostly grain and noise, which tell
# nothing about a patient and which a generative model does not repeat.
SIZE = 64


def to_audit_size(radiographs: Iterable[np.ndarray], size: int = SIZE) -> torch.Tensor:
    """Bring radiographs `[H, W]` in [0, 1] to uint8 `[N, 64, 64]`.

    Args:
        radiographs: of any size; not square ones are padded, as in training.
        size: the side of the images that they are compared with. Where it is below 64, all are first brought to it, so that
            none is sharper than another for a reason that has nothing to do with copying.
    """
    images = []
    for radiograph in radiographs:
        image = torch.from_numpy(resize_radiograph(radiograph, min(size, SIZE)))
        if len(image) != SIZE:
            image = F.interpolate(image[None, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]
        images.append((image * 255).round().to(torch.uint8))
    return torch.stack(images) if images else torch.zeros(0, SIZE, SIZE, dtype=torch.uint8)


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 `[N, H, W]` as float32 in [0, 1]."""
    return images.float() / 255


def affine_grid(
    flip: torch.Tensor, rotation: torch.Tensor, log_scale: torch.Tensor, shift: torch.Tensor, size: int
) -> torch.Tensor:
    """Return where each output pixel is read, `[N, size, size, 2]` in [-1, 1], for `out = scale R(rotation) flip(in) + shift`.

    Args:
        flip: `[N]`, -1 mirrors left and right, 1 does not.
        rotation: `[N]`, in radians.
        log_scale: `[N]`, natural logarithm of the magnification.
        shift: `[N, 2]`, to the right and downwards, in half sides of the image.
    """
    cos, sin = torch.cos(rotation) * torch.exp(-log_scale), torch.sin(rotation) * torch.exp(-log_scale)
    x, y = shift[:, 0], shift[:, 1]
    first = torch.stack([flip * cos, flip * sin, -flip * (cos * x + sin * y)], dim=1)
    second = torch.stack([-sin, cos, sin * x - cos * y], dim=1)
    inverse = torch.stack([first, second], dim=1)  # [N, 2, 3]
    return F.affine_grid(inverse, [len(flip), 1, size, size], align_corners=False)


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur `[..., n, n]`; the border is repeated outwards."""
    kernel = _blur_matrix(images.shape[-1], sigma).to(images)
    return kernel @ images @ kernel.T


@functools.cache
def _blur_matrix(n: int, sigma: float) -> torch.Tensor:
    """`[n, n]`: row i holds the weights of all pixels of a line in blurred pixel i. On small images two products with it are
    several times quicker than convolutions."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    places = (torch.arange(n)[:, None] + offsets).clamp(0, n - 1)  # [n, 2 reach + 1]
    return torch.zeros(n, n).scatter_add_(1, places, (weights / weights.sum()).expand(n, -1))


def in_blocks(function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, block: int = 256) -> torch.Tensor:
    """Apply `function` to `block` images at a time, so that no more than these stand in memory as floats."""
    return torch.cat([function(images[i : i + block]) for i in range(0, max(1, len(images)), block)])
