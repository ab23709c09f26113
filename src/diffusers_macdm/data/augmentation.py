"""Paired augmentation that does not leak into the samples.

The parameters of each augmentation are handed to the network as conditioning and set to zero at sampling, so that the
model learns from the augmented cases without ever generating a rotated or over-exposed one (EDM, Karras et al.,
arXiv 2206.00364, appendix F.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..macdm.joint_sample import LESION_MASK, MASK_CHANNELS, RADIOGRAPH


AUGMENTATION_PARAMETERS = (
    "horizontal_flip",
    "rotation",
    "translation_x",
    "translation_y",
    "scale",
    "brightness",
    "contrast",
    "gamma",
)
AUGMENTATION_DIM = len(AUGMENTATION_PARAMETERS)
NUM_AFFINE_PARAMETERS = 5  # the first five move pixels, the others change the radiograph's intensities


@dataclass(frozen=True)
class PairAugmentation:
    """Random affine of radiograph and masks together, random intensity of the radiograph alone.

    Each parameter is drawn independently: it is left at the identity with probability `1 - probability`, else uniform
    between the two ends given here. A limit of 0 switches a parameter off.

    Args:
        horizontal_flip: mirror left and right (half of the draws). Off unless asked for: laterality carries meaning.
        rotation_degrees: largest rotation about the centre, in degrees; positive labels turn counter-clockwise.
        translation: largest shift along each axis, as a fraction of the side; positive labels move right and down.
        scale: zoom between `1 / (1 + scale)` and `1 + scale`, uniform in the logarithm.
        brightness: largest value added to the radiograph in [0, 1].
        contrast: factor about mid-grey between `1 / (1 + contrast)` and `1 + contrast`.
        gamma: exponent between `1 / (1 + gamma)` and `1 + gamma`.
        probability: of each parameter, in [0, 1]. EDM takes 0.12: a third of the draws stay as they are, so that sampling,
            which asks for the unchanged film, is something that the network has practised.

    Raises:
        ValueError: when a limit is negative, not finite or too large (at most 180 degrees, translation below 1) or
            the probability is outside [0, 1].
    """

    horizontal_flip: bool = False
    rotation_degrees: float = 10.0
    translation: float = 0.05
    scale: float = 0.1
    brightness: float = 0.05
    contrast: float = 0.1
    gamma: float = 0.1
    probability: float = 0.12

    def __post_init__(self):
        upper = {"rotation_degrees": 180, "translation": 0.99, "brightness": 1, "probability": 1}
        for name in ("rotation_degrees", "translation", "scale", "brightness", "contrast", "gamma", "probability"):
            value, highest = getattr(self, name), upper.get(name, math.inf)
            if not (math.isfinite(value) and 0 <= value <= highest):
                raise ValueError(f"{name}={value} is not allowed: a finite number from 0 to {highest} is needed.")

    def draw(self, seed: int) -> torch.Tensor:
        """Return the augmentation labels that `seed` stands for: `[AUGMENTATION_DIM]` float32 in [-1, 1], in the order of
        `AUGMENTATION_PARAMETERS`, each as a fraction of its limit (the flip is 0 or 1). All zero is the identity."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.rand(AUGMENTATION_DIM, generator=generator) * 2 - 1
        labels[0] = labels[0] > 0
        applied = torch.rand(AUGMENTATION_DIM, generator=generator) < self.probability
        return torch.where(applied & (self._limits() > 0), labels, 0.0)

    def apply(
        self, joint_sample: torch.Tensor, augmentation_labels: torch.Tensor, source: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Augment `[3, S, S]` in [-1, 1] as the labels say; the uncovered border is background (-1) in each channel.

        The same affine map acts on the three channels (bicubic for the radiograph, bilinear and thresholded for the
        masks, so a lesion inside the anatomy stays inside it), then the intensities of the radiograph change. Read from the
        film at its own size, pixels between pixels are blurred; a `source` of more pixels is read at four points of each
        pixel, which are averaged, and keeps the sharpness of the unaugmented film.

        Args:
            joint_sample: `[3, S, S]` in [-1, 1].
            augmentation_labels: `[AUGMENTATION_DIM]`, see `draw`.
            source: `[3, R, R]` in [-1, 1], the same case at a resolution of about 2 S, to read from; None is `joint_sample`.

        Returns:
            `[3, S, S]` in [-1, 1].
        """
        flip, rotation, x, y, scale, brightness, contrast, gamma = (augmentation_labels * self._limits()).tolist()
        unit = joint_sample / 2 + 0.5  # [3, S, S] in [0, 1], where grid_sample's zero padding is the background
        radiograph, masks = unit[RADIOGRAPH], unit[MASK_CHANNELS]
        if flip or rotation or x or y or scale:
            read, times = (unit, 1) if source is None else (source / 2 + 0.5, 2)  # [3, R, R]
            grid = _affine_grid(bool(flip), math.radians(rotation), x, y, math.exp(scale), times * unit.shape[-1])
            radiograph = F.grid_sample(read[None, :1], grid, mode="bicubic", align_corners=False)
            masks = F.grid_sample(read[None, 1:], grid, mode="bilinear", align_corners=False)
            radiograph, masks = F.avg_pool2d(radiograph, times)[0, 0], F.avg_pool2d(masks, times)[0]
            radiograph, masks = radiograph.clamp(0, 1), (masks >= 0.5).float()
        if gamma:
            radiograph = radiograph ** math.exp(gamma)
        if contrast:
            radiograph = (radiograph - 0.5) * math.exp(contrast) + 0.5
        radiograph = (radiograph + brightness).clamp(0, 1)
        return torch.cat([radiograph[None], masks]) * 2 - 1

    def __call__(
        self, joint_sample: torch.Tensor, seed: int, source: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment one case, reproducibly.

        Args:
            joint_sample: `[3, S, S]` float32 in [-1, 1].
            seed: everything random follows from it.
            source: the case at a higher resolution, see `apply`.

        Returns:
            The augmented joint sample `[3, S, S]` in [-1, 1] and its augmentation labels `[AUGMENTATION_DIM]`. Where
            the affine map would make the lesion vanish it is left out, and its labels are zero.
        """
        if joint_sample.ndim != 3 or joint_sample.shape[0] != 3 or joint_sample.shape[1] != joint_sample.shape[2]:
            raise ValueError(f"A joint sample of shape [3, S, S] is needed, not {list(joint_sample.shape)}.")
        labels = self.draw(seed)
        augmented = self.apply(joint_sample, labels, source)
        if (joint_sample[LESION_MASK] > 0).any() and not (augmented[LESION_MASK] > 0).any():
            labels[:NUM_AFFINE_PARAMETERS] = 0
            augmented = self.apply(joint_sample, labels, source)
        return augmented, labels

    def _limits(self) -> torch.Tensor:
        """Return what a label of 1 stands for, in the order of `AUGMENTATION_PARAMETERS`; factors as natural logarithms."""
        return torch.tensor(
            [
                float(self.horizontal_flip),
                self.rotation_degrees,
                self.translation,
                self.translation,
                math.log1p(self.scale),
                self.brightness,
                math.log1p(self.contrast),
                math.log1p(self.gamma),
            ]
        )


def _affine_grid(flip: bool, angle: float, x: float, y: float, scale: float, size: int) -> torch.Tensor:
    """Where each output pixel is read: the inverse of flip, then rotation and zoom about the centre, then shift.

    Forward, with x to the right, y downwards and the image spanning [-1, 1]: `out = scale R(angle) flip(in) + shift`.
    """
    mirror = -1.0 if flip else 1.0
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    shift_x, shift_y = 2 * x, 2 * y  # fractions of the side -> normalised coordinates
    inverse = torch.tensor(
        [
            [mirror * cos, -mirror * sin, mirror * (-cos * shift_x + sin * shift_y)],
            [sin, cos, -sin * shift_x - cos * shift_y],
        ]
    )  # [2, 3]
    return F.affine_grid(inverse[None], [1, 1, size, size], align_corners=False)  # [1, S, S, 2]
