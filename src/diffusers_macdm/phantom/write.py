"""The embedded phantom: procedural frontal radiographs of the distal tibia of infants, with exact masks.

It stands in for clinical films in demos and tests: nothing is downloaded and no patient is involved. A case is
computed the way a film is made. Every structure (leg, cortical shell, marrow, ossification centres) has a thickness
along the beam, thickness times attenuation is summed per ray, quantum noise is added to the transmitted intensity and
a display curve maps attenuation to gray. Cortex appears as a bright line on both sides of a shaft because the ray
passes a tube's wall lengthwise there, not because a line was drawn.

Lesions follow the description of classic metaphyseal lesions of the distal tibia in Kleinman and Marks, "A regional
approach to classic metaphyseal lesions in abused infants: the distal tibia", AJR 166:1207-1212, 1996: the corner
fracture is a tall triangular fragment, most often medial, where the fracture undercuts the bone collar; the
bucket-handle fracture crosses the metaphysis just above the growth plate and leaves a crescent of bone parallel to it.

Coordinates: `x` runs from medial to lateral, `s` along the shaft of the tibia, positive towards the knee, with `s = 0`
at the metaphyseal end (the growth plate). The unit is half of the image side. The phantom is no model of anatomy or of
injury to measure on: proportions are plausible, not sampled from a population.
"""

from __future__ import annotations

import json
import operator
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..data.layout import SPLITS
from .settings import Settings


LESION_KINDS = ("corner", "bucket_handle")
CLASS_NAMES = ("normal", "lesion")  # position = label
MIN_SIZE, MAX_SIZE = 32, 1024
MAX_CASES = 100_000

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
class _Anatomy:
    """What belongs to the patient and stays the same on each of their films. Lengths in half image sides."""

    metaphysis: float  # half width of the tibia at the growth plate
    diaphysis: float  # half width of its shaft
    flare_length: float
    flare_power: float
    medial_flare: float  # share of the flare on the medial side, 0.5 = symmetric
    collar: float  # height of the straight bone collar above the growth plate
    bow: float  # curvature of the shaft
    end_convexity: float
    end_wave: float
    end_wave_phase: float
    cortex: float  # cortical thickness of the shaft as a fraction of its half width
    calcification: float  # height of the zone of provisional calcification
    growth_lines: tuple[float, ...]  # growth-arrest lines: axial positions
    growth_plate: float  # thickness of the lucent gap
    epiphysis: float  # half width of the ossification centre, 0 = not ossified yet
    epiphysis_offset: float
    talus: float  # half width of the ossified talus
    fibula_gap: float
    fibula: float
    fibula_end: float
    fibula_epiphysis: float
    leg: float  # half width of the soft tissue at the ankle
    fat: float  # thickness of the subcutaneous fat
    bone_density: float
    texture_seed: int
    lesion: _Lesion | None


@dataclass(frozen=True)
class _Lesion:
    """A fracture in bone coordinates. Lengths in half image sides."""

    kind: str
    side: float  # -1 medial, +1 lateral: where the fragment is thickest
    width: float  # extent along the growth plate
    height: float  # extent along the shaft, at the edge
    center_height: float  # bucket handle only: height of the crescent on the bone's axis
    gap: float  # width of the lucent line before displacement
    depth: float  # share of the ray's path through bone that the gap interrupts, 0..1
    shift: float  # displacement of the fragment away from the shaft
    tilt: float  # further displacement, growing towards `side`


@dataclass(frozen=True)
class _Film:
    """What belongs to one exposure: position, technique and noise."""

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


def _draw_anatomy(rng: np.random.Generator, lesion: bool) -> _Anatomy:
    age = rng.uniform(1.0, 12.0)  # months
    metaphysis = rng.uniform(0.31, 0.36)
    # The centre of the distal tibial epiphysis ossifies at about half a year and then widens fast.
    ossification = float(np.clip((age - rng.uniform(3.0, 6.0)) / 8.0, 0.0, 1.0))
    fibula_ossification = float(np.clip((age - rng.uniform(9.0, 12.0)) / 8.0, 0.0, 1.0))
    return _Anatomy(
        metaphysis=metaphysis,
        diaphysis=metaphysis * rng.uniform(0.52, 0.60),
        flare_length=metaphysis * rng.uniform(1.25, 1.6),
        flare_power=rng.uniform(1.3, 1.7),
        medial_flare=rng.uniform(0.48, 0.62),
        collar=rng.uniform(0.03, 0.08),
        bow=rng.uniform(-0.02, 0.03),
        end_convexity=rng.uniform(0.0, 0.03),
        end_wave=rng.uniform(0.0, 0.01),
        end_wave_phase=rng.uniform(0.0, 2 * np.pi),
        cortex=rng.uniform(0.27, 0.38),
        calcification=rng.uniform(0.022, 0.04),
        growth_lines=tuple(rng.uniform(0.22, 0.6) for _ in range(int(rng.choice([0, 0, 0, 1, 2])))),
        growth_plate=rng.uniform(0.055, 0.085),
        epiphysis=metaphysis * (0.25 + 0.55 * ossification) if ossification > 0 else 0.0,
        epiphysis_offset=metaphysis * rng.uniform(-0.08, 0.12),
        talus=metaphysis * rng.uniform(0.6, 0.72) * (0.85 + 0.15 * age / 12.0),
        fibula_gap=rng.uniform(-0.01, 0.035),
        fibula=metaphysis * rng.uniform(0.23, 0.29),
        fibula_end=-rng.uniform(0.08, 0.17),
        fibula_epiphysis=fibula_ossification,
        leg=metaphysis * rng.uniform(2.05, 2.35),
        fat=rng.uniform(0.10, 0.17),
        bone_density=rng.uniform(0.88, 1.12),
        texture_seed=int(rng.integers(2**32)),
        lesion=_draw_lesion(rng, metaphysis) if lesion else None,
    )


def _draw_lesion(rng: np.random.Generator, metaphysis: float) -> _Lesion:
    kind = LESION_KINDS[int(rng.integers(len(LESION_KINDS)))]
    side = -1.0 if rng.random() < 0.8 else 1.0  # the medial side is the usual one (Kleinman and Marks 1996)
    common = {"kind": kind, "side": side, "gap": rng.uniform(0.027, 0.034), "depth": rng.uniform(0.82, 0.97)}
    if kind == "corner":
        width = metaphysis * rng.uniform(0.46, 0.66)
        return _Lesion(
            width=width,
            height=width * rng.uniform(1.0, 1.4),
            center_height=0.0,
            shift=rng.uniform(0.004, 0.014),
            tilt=0.0,
            **common,
        )
    center_height = rng.uniform(0.030, 0.040)
    return _Lesion(
        width=metaphysis * (2.4 if rng.random() < 0.6 else rng.uniform(1.2, 1.6)),  # the whole end, or a part of it
        height=center_height + rng.uniform(0.015, 0.04),
        center_height=center_height,
        shift=rng.uniform(0.002, 0.008),
        tilt=rng.uniform(0.0, 0.02),
        **common,
    )


def _draw_film(rng: np.random.Generator) -> _Film:
    site = list(SITES)[int(rng.integers(len(SITES)))]
    collimation = None
    if rng.random() < 0.25:
        distances = rng.uniform(0.84, 0.98, size=4)
        distances[rng.random(4) < 0.5] = 9.0  # that blade is outside the image
        collimation = tuple(float(d) for d in distances)
    return _Film(
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


def _smoothstep(edge: float, width: float, value: np.ndarray) -> np.ndarray:
    """0 below `edge - width / 2`, 1 above `edge + width / 2`, smooth between."""
    z = np.clip((value - edge) / width + 0.5, 0.0, 1.0)
    return z * z * (3.0 - 2.0 * z)


def _value_noise(seed: Sequence[int], a: np.ndarray, b: np.ndarray, cell_a: float, cell_b: float) -> np.ndarray:
    """Smooth random field at the points (a, b), zero mean, about unit variance; one random value per lattice point."""
    lattice = np.random.default_rng(list(seed)).normal(0.0, 1.5, size=128 * 128).astype(np.float32)
    pa, pb = a / cell_a, b / cell_b
    floor_a, floor_b = np.floor(pa), np.floor(pb)
    fa, fb = pa - floor_a, pb - floor_b
    fa, fb = fa * fa * (3.0 - 2.0 * fa), fb * fb * (3.0 - 2.0 * fb)
    ia, ib = floor_a.astype(np.int32), floor_b.astype(np.int32)
    row0, row1, column0, column1 = (ia & 127) * 128, ((ia + 1) & 127) * 128, ib & 127, (ib + 1) & 127  # wraps around
    low, low_next = lattice[row0 + column0], lattice[row0 + column1]
    high, high_next = lattice[row1 + column0], lattice[row1 + column1]
    low = low + (low_next - low) * fb
    high = high + (high_next - high) * fb
    return low + (high - low) * fa


def _chord(u: np.ndarray, power: float = 2.0) -> np.ndarray:
    """Thickness along the beam of a unit (super)ellipse at the normalised distance `u` from its axis; 0 outside."""
    return np.maximum(1.0 - np.abs(u) ** power, 0.0) ** (1.0 / power)


def _add_ossification_center(
    attenuation: np.ndarray, s: np.ndarray, x: np.ndarray, center: tuple, half: tuple, power: float, density: float
) -> None:
    """Adds the attenuation of an ellipsoidal centre of ossification with a thin denser shell, in place.

    `center` and `half` (half axes) are given as (s, x).
    """
    near = (np.abs(s - center[0]) < half[0]) & (np.abs(x - center[1]) < 1.2 * half[1])
    ds = (s[near] - center[0]) / half[0]
    dx = (x[near] - center[1]) / half[1] * (1.0 - 0.12 * ds)  # wider at the top
    radius = np.minimum((np.abs(ds) ** power + np.abs(dx) ** power) ** (1.0 / power), 2.0)
    shell = min(0.035 / min(half), 0.9)
    attenuation[near] += density * half[1] * (1.9 * _chord(radius) - 0.9 * _chord(radius / (1.0 - shell)))


def _tibia(a: _Anatomy, s: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Attenuation of the intact tibia, whether a ray meets it, height above the metaphyseal end, lateral position u.

    `u` is -1 and +1 at the medial and lateral outline.
    """
    flare_distance = np.maximum(s - a.collar, 0.0) / a.flare_length
    flare = np.exp(-(flare_distance**a.flare_power))
    widening = 2.0 * (a.metaphysis - a.diaphysis) * flare
    x = x - a.bow * np.maximum(s, 0.0) ** 2
    lateral = x > 0
    half_width = a.diaphysis + widening * (a.medial_flare + (1.0 - 2.0 * a.medial_flare) * lateral.astype(s.dtype))
    u = x / half_width

    # Metaphyseal end: slightly convex towards the joint, undulating, corners hardly rounded.
    end = -a.end_convexity * (1.0 - u * u) + a.end_wave * np.sin(5.0 * u + a.end_wave_phase)
    end = end + 0.02 * np.minimum(np.abs(u), 1.2) ** 10
    height = s - end
    inside = (np.abs(u) < 1.0) & (height > 0.0)

    # A tube seen from the side: the ray crosses the cortex where outer and inner contour differ.
    cortex = 0.045 + (a.cortex - 0.045) * (1.0 - flare) ** 1.3  # fraction of the half width; thin at the metaphysis
    depth = 0.92 * half_width
    outer = _chord(u, 2.4)
    inner = (1.0 - cortex) * _chord(u / (1.0 - cortex), 2.4)
    cancellous = 0.62 * (0.35 + 0.65 * np.exp(-np.maximum(s, 0.0) / 0.45))  # marrow cavity further up
    texture = 0.6 * _value_noise((a.texture_seed, 0), s, x, 0.11, 0.030)
    texture = texture + 0.5 * _value_noise((a.texture_seed, 1), s, x, 0.045, 0.022)
    texture = texture + 0.35 * _value_noise((a.texture_seed, 2), s, x, 0.4, 0.2)
    cancellous = cancellous * (1.0 + 0.19 * texture * (0.3 + 0.7 * flare))
    attenuation = depth * (3.2 * (outer - inner) + 2.0 * cancellous * inner)

    # Zone of provisional calcification: a dense band at the end, and growth-arrest lines of the same nature above it.
    band = np.exp(-((height / a.calcification) ** 2))
    attenuation = attenuation + depth * band * outer
    for position in a.growth_lines:
        attenuation = attenuation + 0.09 * np.exp(-(((height - position) / 0.012) ** 2)) * outer
    return a.bone_density * attenuation * inside, inside, height, u


def _fracture_distance(lesion: _Lesion, height: np.ndarray, u: np.ndarray, half_width: float) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance from the fracture line (negative in the fragment) and how loose the fragment is, 0..1."""
    from_edge = half_width * (1.0 - lesion.side * u)
    if lesion.kind == "corner":
        normal = float(np.hypot(1.0 / lesion.height, 1.0 / lesion.width))
        return (height / lesion.height + from_edge / lesion.width - 1.0) / normal, np.ones_like(height)
    # Crescent: thicker towards the edges, where the fracture undercuts the bone collar; a crescent that does not reach
    # the other side tapers there and hangs on the metaphysis.
    line = lesion.center_height + (lesion.height - lesion.center_height) * np.minimum(u * u, 1.5)
    loose = np.clip((lesion.width - from_edge) / (0.5 * half_width), 0.0, 1.0)
    return height - line * np.sqrt(loose) + lesion.gap * (loose == 0.0), loose


def _broken_tibia(a: _Anatomy, s: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attenuation, anatomy and lesion of the tibia: shaft, displaced fragment and the lucent gap between them. [S, S]"""
    near = (np.abs(x) < a.metaphysis + 0.15) & (s > -0.2)  # the rest is not worth the time
    results = []
    for values in _broken_tibia_at(a, s[near], x[near]):
        image = np.zeros(s.shape, dtype=values.dtype)
        image[near] = values
        results.append(image)
    return tuple(results)


def _broken_tibia_at(a: _Anatomy, s: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same at a list of points. [N]"""
    attenuation, inside, height, u = _tibia(a, s, x)
    lesion = a.lesion
    if lesion is None:
        return attenuation, inside, np.zeros_like(inside)
    ragged = 0.004 * _value_noise((a.texture_seed, 5), s, x, 0.03, 0.05)
    ragged = ragged + 0.004 * _value_noise((a.texture_seed, 6), s, x, 0.2, 0.2)
    distance, loose = _fracture_distance(lesion, height + ragged, u, a.metaphysis)

    # The fragment is the same bone seen at displaced coordinates: distally, a corner also outwards.
    outward = 0.6 * lesion.shift * lesion.side if lesion.kind == "corner" else 0.0
    down = (lesion.shift + lesion.tilt * np.maximum(lesion.side * x + 0.3, 0.0)) * loose
    fragment_attenuation, fragment_inside, fragment_height, fragment_u = _tibia(a, s + down, x - outward)
    fragment_distance, _ = _fracture_distance(lesion, fragment_height + ragged, fragment_u, a.metaphysis)
    fragment = fragment_inside & (fragment_distance < -0.35 * lesion.gap)
    shaft = inside & (distance > 0.65 * lesion.gap)

    gap = inside & ~shaft & ~fragment
    # The fracture is no plane seen edge-on everywhere: the line is deeper here and fainter there.
    depth = lesion.depth * (1.0 - 0.12 * np.clip(_value_noise((a.texture_seed, 7), s, x, 0.1, 0.1), 0.0, 2.5))
    attenuation = np.where(gap, (1.0 - depth) * attenuation, attenuation * shaft)
    attenuation = np.where(fragment, np.maximum(fragment_attenuation, attenuation), attenuation)
    return attenuation, inside | fragment, (fragment | gap) & ~shaft


def _surroundings(a: _Anatomy, s: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Attenuation of everything but the tibia: soft tissue, fibula, epiphyses, talus."""
    axis = 0.10 + 0.02 * s  # the leg's axis lies between the two bones
    calf = _smoothstep(0.9, 1.8, s)
    foot = _smoothstep(0.35, 0.7, -s)
    crease = 0.012 * np.sin(7.0 * s + a.end_wave_phase)
    leg = a.leg * (1.0 + 0.16 * calf + 0.14 * foot) + crease
    v = (x - axis) / leg
    muscle = (x - axis - 0.01) / np.maximum(leg - a.fat * (1.0 + 0.5 * calf), 0.2)
    haze = _value_noise((a.texture_seed, 3), s, x, 0.5, 0.3)
    attenuation = 0.50 * _chord(v, 2.2) + (0.30 + 0.02 * haze) * _chord(muscle, 2.2)

    fibula_axis = a.metaphysis + a.fibula_gap + a.fibula
    near = (np.abs(x - fibula_axis - 0.02 * s) < 2.0 * a.fibula) & (s > a.fibula_end - 0.1)
    attenuation[near] += a.bone_density * _fibula(a, s[near], x[near] - fibula_axis)

    density = 0.95 * a.bone_density
    if a.epiphysis > 0.0:
        half = (0.30 * a.epiphysis + 0.02, a.epiphysis)
        center = (-a.end_convexity - a.growth_plate - half[0], a.epiphysis_offset)
        _add_ossification_center(attenuation, s, x, center, half, 2.4, density)
    if a.fibula_epiphysis > 0.0:
        half = (0.05 + 0.05 * a.fibula_epiphysis, 0.05 + 0.06 * a.fibula_epiphysis)
        _add_ossification_center(attenuation, s, x, (a.fibula_end - 0.06 - half[0], fibula_axis), half, 2.2, density)
    talus = (0.62 * a.talus, a.talus)
    _add_ossification_center(attenuation, s, x, (-0.31 - talus[0], 0.05), talus, 2.7, density)
    calcaneus = (0.7 * a.talus, 0.85 * a.talus)
    _add_ossification_center(attenuation, s, x, (-0.36 - 2.0 * talus[0] - calcaneus[0], 0.09), calcaneus, 2.3, 0.8 * density)
    return attenuation


def _fibula(a: _Anatomy, s: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Attenuation of the fibula, built as the tibia is; `x` from its axis. Its growth plate is level with the joint."""
    flare = np.exp(-((np.maximum(s - a.fibula_end - 0.03, 0.0) / 0.22) ** 1.4))
    half_width = a.fibula * (0.70 + 0.42 * flare)
    u = (x - 0.02 * np.maximum(s, 0.0)) / half_width
    height = s - a.fibula_end - 0.03 * np.minimum(np.abs(u), 1.2) ** 6 + 0.006 * np.sin(4.0 * u + a.end_wave_phase)
    cortex = 0.08 + 0.38 * (1.0 - flare)
    outer = _chord(u, 2.2)
    inner = (1.0 - cortex) * _chord(u / (1.0 - cortex), 2.2)
    texture = _value_noise((a.texture_seed, 4), s, x, 0.08, 0.025)
    attenuation = half_width * (4.4 * (outer - inner) + (1.0 + 0.5 * flare) * (1.0 + 0.15 * texture) * inner)
    attenuation = attenuation + 0.16 * np.exp(-((height / 0.03) ** 2)) * outer
    return attenuation * (height > 0.0)


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


def _render(a: _Anatomy, film: _Film, size: int) -> PhantomCase:
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

    attenuation, anatomy, lesion = _broken_tibia(a, s, x)
    attenuation = _area_average(attenuation + _surroundings(a, s, x), factor)
    exposed = _field_margin(film, size) > 0.0
    anatomy_mask = (_area_average(anatomy, factor) >= 0.5) & exposed
    lesion_mask = (_area_average(lesion, factor) >= 0.5) & exposed
    radiograph = _expose(attenuation, film, size)
    kind = a.lesion.kind if a.lesion is not None else None
    return PhantomCase(radiograph, anatomy_mask, lesion_mask, int(kind is not None), kind)


def _field_margin(film: _Film, size: int) -> np.ndarray:
    """Distance of each pixel from the edge of the collimated field, positive inside. [S, S]"""
    if film.collimation is None:
        return np.full((size, size), 1.0, dtype=np.float32)
    grid = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1.0
    cos, sin = np.float32(np.cos(film.collimation_angle)), np.float32(np.sin(film.collimation_angle))
    x = cos * grid[None, :] + sin * grid[:, None]
    y = cos * grid[:, None] - sin * grid[None, :]
    left, right, top, bottom = film.collimation
    return np.minimum.reduce([left + x, right - x, top + y, bottom - y])


def _expose(attenuation: np.ndarray, film: _Film, size: int) -> np.ndarray:
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
    gray = 4.0 + (gray - 4.0) * _smoothstep(0.0, 0.03, _field_margin(film, size))
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)


def _check_integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f"{name} is {value!r}; an integer from {low} to {high} is allowed")
    return number


def phantom_case(size: int, lesion: bool, rng: np.random.Generator) -> PhantomCase:
    """Draws one patient and one film.

    Args:
        size: side of the square image in pixels, 32 to 1024.
        lesion: whether the tibia has a classic metaphyseal lesion.
        rng: the source of all randomness: the same state gives the same case.

    Raises:
        ValueError: `size` is not an integer in the allowed range.
    """
    size = _check_integer("size", size, MIN_SIZE, MAX_SIZE)
    return _render(_draw_anatomy(rng, bool(lesion)), _draw_film(rng), size)


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


def _patient_of(seed: int, split: int, label: int, index: int) -> int:
    """Number of the patient of case `index`: one in three pairs of neighbours shows the same patient twice."""
    first = index - index % 2
    return first if _rng(seed, split, label, 0, first).random() < 1 / 3 else index


def write_phantom(
    out: str | Path, num_normal: int, num_lesion: int, size: int, seed: int, show_progress: bool = False
) -> dict[str, dict[str, int]]:
    """Writes a phantom data set in the layout that `datasets.load_dataset("imagefolder", data_dir=out)` reads.

    ```
    out/{train,validation,test}/metadata.jsonl
    out/{train,validation,test}/{images,anatomy,lesion}/NAME.png      8-bit gray; masks are 0 / 255
    ```

    Case `index` of a class and split is a function of `(seed, split, label, index)` and the size alone: the same call
    gives the same bytes, and a larger set contains the smaller one. (Another processor or version of numpy may round
    a gray value to its neighbour.) A patient has one or two films, in one split only.

    Args:
        out: folder to create; it must not exist, or be empty.
        num_normal, num_lesion: number of cases in the train split, not both 0. Validation and test get a quarter each,
            rounded up.
        size: side of the images in pixels, 32 to 1024.
        seed: 0 to 2**32 - 1.
        show_progress: whether to show a progress bar on stderr.

    Returns:
        Number of cases by split and class: `{"train": {"normal": 177, "lesion": 73}, ...}`.

    Raises:
        FileExistsError: `out` is a file or a folder that holds something.
        ValueError: a count, the size or the seed is outside of the allowed range.
    """
    num_normal = _check_integer("num_normal", num_normal, 0, MAX_CASES)
    num_lesion = _check_integer("num_lesion", num_lesion, 0, MAX_CASES)
    if num_normal + num_lesion == 0:
        raise ValueError("num_normal and num_lesion are both 0; at least one must be 1 or more")
    size = _check_integer("size", size, MIN_SIZE, MAX_SIZE)
    seed = _check_integer("seed", seed, 0, 2**32 - 1)
    out = Path(out)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise FileExistsError(f"{out} exists and is no plain folder; give a folder that does not exist or is empty")
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; give a folder that does not exist or is empty")

    counts = {}
    for split in SPLITS:
        share = 1 if split == "train" else 4
        counts[split] = {"normal": -(-num_normal // share), "lesion": -(-num_lesion // share)}

    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    # Everything is written beside `out` and renamed at the end: an interrupted run leaves no half-written data set.
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        total = sum(sum(by_class.values()) for by_class in counts.values())
        with tqdm(total=total, desc="phantom", unit="film", disable=not show_progress) as progress:
            for split_index, split in enumerate(SPLITS):
                _write_split(temporary / "data" / split, split_index, list(counts[split].values()), size, seed, progress)
        (temporary / "data").rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def _write_split(folder: Path, split: int, counts: list[int], size: int, seed: int, progress: tqdm) -> None:
    for name in ("images", "anatomy", "lesion"):
        (folder / name).mkdir(parents=True)
    with open(folder / "metadata.jsonl", "w", encoding="utf-8", newline="\n") as metadata:
        for label, count in enumerate(counts):
            for index in range(count):
                patient = _patient_of(seed, split, label, index)
                anatomy = _draw_anatomy(_rng(seed, split, label, 1, patient), bool(label))
                film = _draw_film(_rng(seed, split, label, 2, index))
                case = _render(anatomy, film, size)
                name = f"{CLASS_NAMES[label]}_{index:05d}.png"
                Image.fromarray(case.radiograph).save(folder / "images" / name)
                Image.fromarray(case.anatomy_mask.astype(np.uint8) * 255).save(folder / "anatomy" / name)
                Image.fromarray(case.lesion_mask.astype(np.uint8) * 255).save(folder / "lesion" / name)
                row = {
                    "image_file_name": f"images/{name}",
                    "anatomy_mask_file_name": f"anatomy/{name}",
                    "lesion_mask_file_name": f"lesion/{name}",
                    "label": label,
                    "patient_id": f"{SPLITS[split]}_{CLASS_NAMES[label]}_{patient:05d}",
                    "site": film.site,
                }
                metadata.write(json.dumps(row) + "\n")
                progress.update()


def run(settings: Settings, *, show_progress: bool = True) -> dict[str, dict[str, int]]:
    """Write the set that the settings ask for (see `write_phantom`)."""
    return write_phantom(
        settings.out, settings.num_normal, settings.num_lesion, settings.size, settings.seed, show_progress=show_progress
    )
