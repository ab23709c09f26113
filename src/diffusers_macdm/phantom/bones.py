"""The bones and the soft tissue: attenuation along each ray, summed from the thickness of every structure on its way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .anatomy import Anatomy, Lesion


def smoothstep(edge: float, width: float, value: np.ndarray) -> np.ndarray:
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


def _tibia(a: Anatomy, s: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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


def _fracture_distance(lesion: Lesion, height: np.ndarray, u: np.ndarray, half_width: float) -> tuple[np.ndarray, np.ndarray]:
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


def broken_tibia(a: Anatomy, s: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attenuation, anatomy and lesion of the tibia: shaft, displaced fragment and the lucent gap between them. [S, S]"""
    near = (np.abs(x) < a.metaphysis + 0.15) & (s > -0.2)  # the rest is not worth the time
    results = []
    for values in _broken_tibia_at(a, s[near], x[near]):
        image = np.zeros(s.shape, dtype=values.dtype)
        image[near] = values
        results.append(image)
    return tuple(results)


def _broken_tibia_at(a: Anatomy, s: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do what `broken_tibia` does at a list of points. [N]"""
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


def surroundings(a: Anatomy, s: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Attenuation of everything but the tibia: soft tissue, fibula, epiphyses, talus."""
    axis = 0.10 + 0.02 * s  # the leg's axis lies between the two bones
    calf = smoothstep(0.9, 1.8, s)
    foot = smoothstep(0.35, 0.7, -s)
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


def _fibula(a: Anatomy, s: np.ndarray, x: np.ndarray) -> np.ndarray:
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
