"""The patient: proportions of leg and bones and, where there is one, the fracture, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


LESION_KINDS = ("corner", "bucket_handle")


@dataclass(frozen=True)
class Anatomy:
    """Anatomy of a patient, the same on each of their films. Lengths in half image sides."""

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
    lesion: Lesion | None


@dataclass(frozen=True)
class Lesion:
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


def draw_anatomy(rng: np.random.Generator, lesion: bool) -> Anatomy:
    """Draw one patient of 1 to 12 months, with a fracture if `lesion`."""
    age = rng.uniform(1.0, 12.0)  # months
    metaphysis = rng.uniform(0.31, 0.36)
    # The centre of the distal tibial epiphysis ossifies at about half a year and then widens fast.
    ossification = float(np.clip((age - rng.uniform(3.0, 6.0)) / 8.0, 0.0, 1.0))
    fibula_ossification = float(np.clip((age - rng.uniform(9.0, 12.0)) / 8.0, 0.0, 1.0))
    return Anatomy(
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


def _draw_lesion(rng: np.random.Generator, metaphysis: float) -> Lesion:
    kind = LESION_KINDS[int(rng.integers(len(LESION_KINDS)))]
    side = -1.0 if rng.random() < 0.8 else 1.0  # the medial side is the usual one (Kleinman and Marks 1996)
    common = {"kind": kind, "side": side, "gap": rng.uniform(0.027, 0.034), "depth": rng.uniform(0.82, 0.97)}
    if kind == "corner":
        width = metaphysis * rng.uniform(0.46, 0.66)
        return Lesion(
            width=width,
            height=width * rng.uniform(1.0, 1.4),
            center_height=0.0,
            shift=rng.uniform(0.004, 0.014),
            tilt=0.0,
            **common,
        )
    center_height = rng.uniform(0.030, 0.040)
    return Lesion(
        width=metaphysis * (2.4 if rng.random() < 0.6 else rng.uniform(1.2, 1.6)),  # the whole end, or a part of it
        height=center_height + rng.uniform(0.015, 0.04),
        center_height=center_height,
        shift=rng.uniform(0.002, 0.008),
        tilt=rng.uniform(0.0, 0.02),
        **common,
    )
