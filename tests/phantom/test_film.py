import dataclasses

import numpy as np
import pytest

from diffusers_macdm.macdm.image_processor import resize_mask
from diffusers_macdm.phantom import phantom_case
from diffusers_macdm.phantom.anatomy import LESION_KINDS, draw_anatomy
from diffusers_macdm.phantom.film import draw_film, render


def cases(count, size=64, lesion=True, first=0):
    return [phantom_case(size, lesion, np.random.default_rng(seed)) for seed in range(first, first + count)]


def upright_case(seed, size=256, lesion_kind=None, intact=False):
    """A case with a vertical shaft on the axis of the image, x to the right = lateral, without noise worth the name."""
    for shifted in range(seed, seed + 100_000, 1000):
        anatomy = draw_anatomy(np.random.default_rng(shifted), lesion=lesion_kind is not None)
        if lesion_kind is None or anatomy.lesion.kind == lesion_kind:
            break
    film = draw_film(np.random.default_rng(seed))
    film = dataclasses.replace(film, left=False, angle=0.0, scale=1.0, end_position=(0.0, 0.4), collimation=None, photons=1e6)
    lesion = anatomy.lesion
    anatomy = dataclasses.replace(anatomy, bow=0.0, lesion=None if intact else lesion)
    return render(anatomy, film, size), lesion


# --- one case


@pytest.mark.parametrize("size", [32, 50, 64, 300])
@pytest.mark.parametrize("lesion", [False, True])
def test_types_and_shapes(size, lesion):
    case = phantom_case(size, lesion, np.random.default_rng(0))
    assert case.radiograph.dtype == np.uint8 and case.radiograph.shape == (size, size)
    for mask in (case.anatomy_mask, case.lesion_mask):
        assert mask.dtype == bool and mask.shape == (size, size)
    assert case.label == int(lesion) and case.lesion_mask.any() == lesion
    assert (case.lesion_kind in LESION_KINDS) == lesion


def test_the_generator_state_decides_the_case():
    first, second, third = (phantom_case(64, True, np.random.default_rng(seed)) for seed in (5, 5, 6))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.radiograph != third.radiograph).mean() > 0.5


@pytest.mark.parametrize("size", [32, 64])
def test_lesions_are_small_and_inside_the_tibia(size):
    drawn = cases(60, size)
    assert all((case.lesion_mask & ~case.anatomy_mask).sum() == 0 for case in drawn)
    assert {case.lesion_kind for case in drawn} == set(LESION_KINDS)
    area = np.array([case.lesion_mask.mean() for case in drawn])
    assert area.min() > 0.002 and area.max() < 0.02
    assert 0.005 < np.median(area) < 0.015
    anatomy = np.array([case.anatomy_mask.mean() for case in drawn])
    assert anatomy.min() > 0.10 and anatomy.max() < 0.30


def test_normal_cases_have_no_lesion():
    assert not any(case.lesion_mask.any() or case.label for case in cases(10, lesion=False))


def test_a_lesion_survives_the_loaders_resizing_to_32():
    for case in cases(20, size=128):
        assert resize_mask(case.lesion_mask, 32, keep_small=False).sum() >= 2


def test_masks_at_two_sizes_show_the_same_anatomy():
    for seed in range(5):
        small, large = (phantom_case(size, True, np.random.default_rng(seed)) for size in (64, 128))
        averaged = large.anatomy_mask.reshape(64, 2, 64, 2).mean((1, 3)) >= 0.5
        assert (averaged != small.anatomy_mask).mean() < 0.01


# --- what a radiologist looks for


@pytest.mark.parametrize("seed", range(4))
def test_cortex_is_brighter_than_marrow_and_marrow_than_soft_tissue(seed):
    case, _ = upright_case(seed)
    rows = slice(10, 40)  # shaft
    profile = case.radiograph[rows].astype(float).mean(0)
    columns = np.flatnonzero(case.anatomy_mask[rows].all(0))
    width = len(columns)
    left, center, right = (
        profile[columns[: width // 4]].max(),
        profile[columns[width * 2 // 5 : width * 3 // 5]].mean(),
        profile[columns[-(width // 4) :]].max(),
    )
    assert min(left, right) > center + 8
    soft_tissue = profile[columns[0] - 12 : columns[0] - 6].mean()
    assert center > soft_tissue + 20
    assert soft_tissue > profile[-3:].mean() + 20 or soft_tissue > profile[:3].mean() + 20  # and air is darkest


@pytest.mark.parametrize("seed", range(4))
def test_the_metaphysis_flares_and_ends_in_a_dense_zone_above_a_lucent_growth_plate(seed):
    case, _ = upright_case(seed)
    widths = case.anatomy_mask.sum(1)
    end = np.flatnonzero(widths > 0.5 * widths.max())[-1]
    assert widths[end - 15] > 1.4 * widths[10]
    column = case.radiograph[:, 118:138].astype(float).mean(1)
    dense_zone = column[end - 5 : end].max()
    assert dense_zone > column[end - 35 : end - 20].mean() + 5
    assert column[end + 4 : end + 8].min() < dense_zone - 40


@pytest.mark.parametrize("kind", LESION_KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_lucent_line_separates_fragment_and_shaft(kind, seed):
    case, lesion = upright_case(seed, lesion_kind=kind)
    gray = case.radiograph.astype(float)
    ys, xs = np.nonzero(case.lesion_mask)
    if kind == "bucket_handle":  # down along the shaft, a little off the axis on the side of the fragment
        center = 128 + int(lesion.side * 15)
        inside = ys[np.abs(xs - center) <= 2]
        profile = gray[: inside.max() + 1, center - 2 : center + 3].mean(1)[inside.min() - 12 :]
    else:  # from the shaft outwards to the edge, halfway up the fragment
        middle = (ys.min() + 2 * ys.max()) // 3
        row = np.flatnonzero(case.lesion_mask[middle])
        profile = gray[middle - 1 : middle + 2].mean(0)
        profile = profile[row.min() - 12 : row.max() + 1] if lesion.side > 0 else profile[row.min() : row.max() + 13][::-1]
    shaft, crossing = profile[:10].mean(), profile[10:]
    darkest = int(crossing.argmin()) if crossing[:-3].size == 0 else int(crossing[:-3].argmin())
    fragment = crossing[darkest:].max()
    assert crossing[darkest] < shaft - 20
    assert crossing[darkest] < fragment - 20


@pytest.mark.parametrize("kind", LESION_KINDS)
def test_the_lesion_mask_is_exact(kind):
    """The same film of the intact bone differs inside the lesion mask, and (but for blur and scatter) nowhere else."""
    for seed in range(4):
        broken, _ = upright_case(seed, lesion_kind=kind)
        intact, _ = upright_case(seed, lesion_kind=kind, intact=True)
        difference = np.abs(broken.radiograph.astype(int) - intact.radiograph.astype(int))
        near = broken.lesion_mask.copy()
        for axis in (0, 1):
            near = np.logical_or.reduce([np.roll(near, step, axis) for step in range(-3, 4)])
        assert difference[~near].max() <= 4
        assert difference[broken.lesion_mask].max() > 25
        assert not (intact.anatomy_mask & ~broken.anatomy_mask).any()
        assert not (broken.anatomy_mask & ~intact.anatomy_mask & ~broken.lesion_mask).any()


def test_the_line_is_visible_at_64_pixels():
    """In every case the darkest lesion pixels stand out against the bone beside the lesion by more than the noise."""
    visible = []
    for case in cases(40):
        gray = case.radiograph.astype(float)
        neighbours = case.lesion_mask.copy()
        for axis in (0, 1):
            neighbours = np.logical_or.reduce([np.roll(neighbours, step, axis) for step in range(-4, 5)])
        bone = gray[neighbours & case.anatomy_mask & ~case.lesion_mask]
        visible.append((np.median(bone) - np.percentile(gray[case.lesion_mask], 15)) / bone.std())
    assert np.mean(np.array(visible) > 1.0) > 0.9


def test_rotation_exposure_side_and_noise_vary():
    drawn = cases(40, lesion=False)
    angles, grays, positions = [], [], []
    for case in drawn:
        ys, xs = np.nonzero(case.anatomy_mask)
        covariance = np.cov(xs, ys)
        angles.append(0.5 * np.degrees(np.arctan2(2 * covariance[0, 1], covariance[1, 1] - covariance[0, 0])))
        grays.append(case.radiograph[case.anatomy_mask].mean())
        positions.append(xs.mean() - 31.5)
    assert 3 < np.std(angles) < 12
    assert np.std(grays) > 6 and 120 < np.mean(grays) < 225
    assert min(positions) < -1 and max(positions) > 1  # left and right legs
    # The tibia is never saturated, and the background is dark.
    assert np.mean([np.percentile(case.radiograph[case.anatomy_mask], 99) for case in drawn]) < 252
    assert all(np.percentile(case.radiograph, 2) < 40 for case in drawn)


def test_less_dose_means_more_noise():
    anatomy, film = draw_anatomy(np.random.default_rng(0), False), draw_film(np.random.default_rng(0))
    films = [dataclasses.replace(film, photons=photons, noise_seed=n) for photons in (0.5, 2.0) for n in (0, 1)]
    renders = [render(anatomy, film, 128) for film in films]
    noise = [(a.radiograph.astype(float) - b.radiograph)[a.anatomy_mask].std() for a, b in (renders[:2], renders[2:])]
    assert noise[0] / noise[1] == pytest.approx(2.0, rel=0.1)  # Poisson: four times the dose, half the noise


def test_two_films_of_a_patient_show_the_same_bone():
    """After undoing position, rotation and side the masks agree."""
    anatomy = draw_anatomy(np.random.default_rng(1), True)
    film = draw_film(np.random.default_rng(1))
    film = dataclasses.replace(film, left=False, angle=0.0, collimation=None)
    right = render(anatomy, film, 64)
    left = render(anatomy, dataclasses.replace(film, left=True), 64)
    np.testing.assert_array_equal(left.anatomy_mask, right.anatomy_mask[:, ::-1])
    np.testing.assert_array_equal(left.lesion_mask, right.lesion_mask[:, ::-1])
