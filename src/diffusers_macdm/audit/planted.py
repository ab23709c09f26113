"""Copies that are planted among images: an audit that misses them cannot be relied on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..statistics.proportions import proportion
from .copies import CopyDetector
from .images import SIZE, affine_grid, gaussian_blur, to_unit
from .verdict import named


MAX_PLANTED = 100  # training images of which copies are planted, of each kind

# How far an alteration goes. Each copy draws its own amount between the two numbers, with a random sign where it has one.
SHIFT = (0.03, 0.10)  # of the side
ROTATION = (3.0, 10.0)  # degrees
CROP = (0.75, 0.92)  # side of the part that is kept and enlarged
BRIGHTNESS = (0.05, 0.15)  # added to [0, 1]
CONTRAST = (0.8, 1.25)
NOISE = 0.04  # standard deviation of Gaussian noise in [0, 1], at the audit's size
BLUR = 1.0  # standard deviation in pixels of the audit's size


def plant_copies(images: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """Return altered copies of training images, by kind: what an audit must find if it is to be relied on.

    Args:
        images: uint8 `[N, 64, 64]`.
        seed: seed of the amounts.

    Returns:
        `exact`, `flipped`, `shifted`, `rotated`, `cropped` (and enlarged), `brightness` (and contrast), `noise`, `blurred`, and
        `combined` (flipped, shifted, rotated, rescaled, other exposure, noise), uint8 `[N, 64, 64]` each. What an alteration
        uncovers is black.
    """
    generator = torch.Generator().manual_seed(seed)
    unit, count = to_unit(images), len(images)
    one, zero, no_shift = torch.ones(count), torch.zeros(count), torch.zeros(count, 2)

    def amount(limits, *shape):
        low, high = limits
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    def sign(*shape):
        return (torch.rand(count, *shape, generator=generator) < 0.5).float() * 2 - 1

    def moved(source, flip, rotation, log_scale, shift):
        grid = affine_grid(flip, rotation, log_scale, shift, SIZE)
        return F.grid_sample(source[:, None], grid, mode="bilinear", align_corners=False)[:, 0]

    def exposed(source):
        contrast = torch.exp(amount((math.log(CONTRAST[0]), math.log(CONTRAST[1])), 1, 1))
        return (source - 0.5) * contrast + 0.5 + amount(BRIGHTNESS, 1, 1) * sign(1, 1)

    def noisy(source):
        return source + torch.randn(source.shape, generator=generator) * NOISE

    turn = lambda: torch.deg2rad(amount(ROTATION)) * sign()  # noqa: E731
    # by whole pixels, as an image is shifted that is not resampled
    shift = lambda: 2 * (amount(SHIFT, 2) * SIZE).round() / SIZE * sign(2)  # noqa: E731
    kept = amount(CROP)
    off_centre = (1 / kept - 1)[:, None] * (torch.rand(count, 2, generator=generator) * 2 - 1)  # the window stays inside
    copies = {
        "exact": unit,
        "flipped": unit.flip(2),
        "shifted": moved(unit, one, zero, zero, shift()),
        "rotated": moved(unit, one, turn(), zero, no_shift),
        "cropped": moved(unit, one, zero, -kept.log(), off_centre),
        "brightness": exposed(unit),
        "noise": noisy(unit),
        "blurred": gaussian_blur(unit, BLUR),
        "combined": noisy(exposed(moved(unit, -one, turn(), sign() * amount((0.03, 0.12)), shift()))),
    }
    return {kind: (copy.clamp(0, 1) * 255).round().to(torch.uint8) for kind, copy in copies.items()}


def sensitivity_of(detector: CopyDetector, seed: int, count: int = MAX_PLANTED, progress: bool = False) -> dict:
    """Plant copies of `count` training images and count those that the detector finds, by kind of alteration.

    Returns:
        For each kind the `proportion` found, and `attributed`, the share whose nearest training image is their source.
    """
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randperm(len(detector.gallery), generator=generator)[:count]
    results = {}
    for kind, copies in plant_copies(detector.gallery.images[sources], seed).items():
        comparison = detector.gallery.compare(copies, progress=f"planted copies, {kind}" if progress else None)
        results[kind] = named(proportion(detector.is_copy(comparison)), "found")
        results[kind]["attributed"] = float((comparison.nearest == sources.numpy()).mean())
    return results
