"""The film: position, technique, noise and display of one exposure, and the masks that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..checks import check_integer
from .anatomy import Anatomy, draw_anatomy
from .bones import broken_tibia, smoothstep, surroundings


MIN_SIZE, MAX_SIZE = 32, 1024

# Two acquisition sites. `photons`: relative detected dose (more = less noise), `blur`: width of the detector's point
# spread (half image sides), `contrast`: slope of the display curve.
SITES: dict[str, dict[str, float]] = {
    "flat_panel": {"photons": 1.6, "blur": 0.004, "contrast": 1.08},
    "computed_radiography": {"photons": 0.7, "blur": 0.0075, "contrast": 0.96},
}


class PhantomCase(NamedTuple):
    """One radiograph with its masks.

    Attributes:
        radiograph: `uint8 [S, S]`, bone bright on a dark background.
        anatomy_mask: `bool [S, S]`, the tibia: its ossified diaphysis and metaphysis, as far as the collimated field
            shows them, with a fracture's fragment and the lucent gap beside it. The tibial epiphysis, the fibula and
            the talus are not in it.
        lesion_mask: `bool [S, S]`, fragment and fracture line, a subset of `anatomy_mask`; empty in a normal case.
        label: 0 for normal, 1 for lesion.
        lesion_kind: `None`, `"corner"` or `"bucket_handle"`.
    """

    radiograph: np.ndarray
    anatomy_mask: np.ndarray
    lesion_mask: np.ndarray
    label: int
    lesion_kind: str | None


@dataclass(frozen=True)
class Film:
    """Position, technique and noise of one exposure."""

    left: bool
    angle: float  # radians
    scale: float
    end_position: tuple[float, float]  # growth plate in the image: x to the right, y down
    site: str
    brightness: float
    contrast: float
    gamma: float
    photons: float
    collimation: tuple[float, float, float, float] | None  # half planes: distance to left, right, top, bottom edge
    collimation_angle: float
    noise_seed: int


def phantom_case(size: int, lesion: bool, rng: np.random.Generator) -> PhantomCase:
    """Draw one patient and one film.

    Args:
        size: side of the square image in pixels, 32 to 1024.
        lesion: whether the tibia has a classic metaphyseal lesion.
        rng: the source of all randomness: the same state gives the same case.

    Raises:
        ValueError: `size` is not an integer in the allowed range.
    """
    size = check_integer("size", size, MIN_SIZE, MAX_SIZE)
    return render(draw_anatomy(rng, bool(lesion)), draw_film(rng), size)


def draw_film(rng: np.random.Generator) -> Film:
    """Draw site, position and technique of one exposure."""
    site = list(SITES)[int(rng.integers(len(SITES)))]
    collimation = None
    if rng.random() < 0.25:
        distances = rng.uniform(0.84, 0.98, size=4)
        distances[rng.random(4) < 0.5] = 9.0  # that blade is outside the image
        collimation = tuple(float(d) for d in distances)
    return Film(
        left=bool(rng.random() < 0.5),
        angle=float(np.deg2rad(np.clip(rng.normal(0.0, 7.0), -16.0, 16.0))),
        scale=rng.uniform(0.92, 1.10),
        end_position=(rng.uniform(-0.16, 0.0), rng.uniform(0.30, 0.52)),
        site=site,
        brightness=rng.uniform(-0.10, 0.10),
        contrast=SITES[site]["contrast"] * rng.uniform(0.88, 1.12),
        gamma=rng.uniform(0.9, 1.15),
        photons=SITES[site]["photons"] * rng.uniform(0.7, 1.4),
        collimation=collimation,
        collimation_angle=float(np.deg2rad(rng.uniform(-4.0, 4.0))),
        noise_seed=int(rng.integers(2**32)),
    )


def render(a: Anatomy, film: Film, size: int) -> PhantomCase:
    """Return the film of a patient, `size` pixels wide and high, and its masks."""
    factor = 4 if size <= 256 else 2  # supersampling
    n = size * factor
    grid = ((np.arange(n, dtype=np.float32) + 0.5) * (2.0 / n) - 1.0).astype(np.float32)
    px, py = grid[None, :], grid[:, None]

    # Image -> leg: shift, rotate, scale; the mirror image is the other leg.
    mirror = -1.0 if film.left else 1.0
    cos, sin = np.float32(np.cos(film.angle)), np.float32(np.sin(film.angle))
    dx, dy = mirror * px - film.end_position[0], py - film.end_position[1]
    x = (cos * dx + sin * dy) / film.scale
    s = (sin * dx - cos * dy) / film.scale

    attenuation, anatomy, lesion = broken_tibia(a, s, x)
    attenuation = _area_average(attenuation + surroundings(a, s, x), factor)
    exposed = _field_margin(film, size) > 0.0
    anatomy_mask = (_area_average(anatomy, factor) >= 0.5) & exposed
    lesion_mask = (_area_average(lesion, factor) >= 0.5) & exposed
    radiograph = _expose(attenuation, film, size)
    kind = a.lesion.kind if a.lesion is not None else None
    return PhantomCase(radiograph, anatomy_mask, lesion_mask, int(kind is not None), kind)


def _field_margin(film: Film, size: int) -> np.ndarray:
    """Distance of each pixel from the edge of the collimated field, positive inside. [S, S]"""
    if film.collimation is None:
        return np.full((size, size), 1.0, dtype=np.float32)
    grid = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1.0
    cos, sin = np.float32(np.cos(film.collimation_angle)), np.float32(np.sin(film.collimation_angle))
    x = cos * grid[None, :] + sin * grid[:, None]
    y = cos * grid[:, None] - sin * grid[None, :]
    left, right, top, bottom = film.collimation
    return np.minimum.reduce([left + x, right - x, top + y, bottom - y])


def _expose(attenuation: np.ndarray, film: Film, size: int) -> np.ndarray:
    """Attenuation [S, S] -> film, uint8 [S, S]."""
    rng = np.random.default_rng(film.noise_seed)
    # Counts per pixel fall with the pixel's area and with attenuation (Beer-Lambert); their relative fluctuation is
    # the noise of the attenuation that is displayed. The size enters less than physics asks, so that small sets keep
    # visible noise.
    sigma = 0.026 * (size / 128.0) ** 0.5 * np.exp(0.5 * attenuation) / np.sqrt(film.photons)
    noisy = attenuation + sigma * rng.standard_normal(attenuation.shape, dtype=np.float32)
    noisy = _blur(noisy, SITES[film.site]["blur"] * size / 2)
    scatter = 0.06 * _blur(attenuation, 0.12 * size / 2)  # a veil that follows the large structures
    z = film.contrast * (noisy + scatter - 0.35) / 1.35 + 0.22 + film.brightness
    z = np.where(z > 0.0, np.maximum(z, 1e-6) ** film.gamma, 0.0)
    z = z / (1.0 + np.maximum(z, 0.0) ** 4) ** 0.25  # shoulder of the display curve instead of hard clipping
    gray = 6.0 + 246.0 * z
    gray = 4.0 + (gray - 4.0) * smoothstep(0.0, 0.03, _field_margin(film, size))
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)


def _area_average(image: np.ndarray, factor: int) -> np.ndarray:
    """[factor * S, factor * S] -> [S, S]"""
    size = image.shape[0] // factor
    return image.reshape(size, factor, size, factor).mean(axis=(1, 3), dtype=np.float32)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Separable Gaussian with edge replication; `sigma` in pixels."""
    radius = max(int(np.ceil(3.0 * sigma)), 1)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        image = sum(k * np.take(padded, range(i, i + length), axis=axis) for i, k in enumerate(kernel))
    return image
