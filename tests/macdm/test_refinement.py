"""Mask refinement against masks whose refined form is known, and its properties against scipy."""

import sys

import numpy as np
import pytest
from scipy import ndimage

from diffusers_macdm.macdm.refinement import SPECK_SHARE, refine_mask, refine_masks


EIGHT = np.ones((3, 3))  # diagonal neighbours belong together


def mask_of(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def noisy_mask(seed, size=48):
    """Blobs, specks and holes of all sizes, as an undertrained network paints them."""
    generator = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(generator.standard_normal((size, size)), generator.uniform(0.6, 4))
    return field > np.quantile(field, generator.uniform(0.3, 0.95))


def test_hole_is_filled_and_background_is_not():
    mask = mask_of(
        "..........",
        ".#####....",
        ".#...#....",
        ".#.#.#..##",
        ".#...#..#.",  # open towards the border: no hole
        ".#####..##",
        "..........",
    )
    expected = mask.copy()
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(refine_mask(mask), expected)


def test_a_closed_diagonal_line_has_an_inside():
    mask = mask_of(
        ".......",
        "...#...",
        "..#.#..",
        ".#...#.",
        "..#.#..",
        "...#...",
        ".......",
    )
    expected = mask_of(
        ".......",
        "...#...",
        "..###..",
        ".#####.",
        "..###..",
        "...#...",
        ".......",
    )
    np.testing.assert_array_equal(refine_mask(mask), expected)


@pytest.mark.parametrize("pixels, stays", [(9, False), (10, True), (11, True)])
def test_specks_are_smaller_than_a_tenth_of_the_largest_component(pixels, stays):
    mask = np.zeros((32, 32), dtype=bool)
    mask[2:12, 2:12] = True  # 100 pixels
    speck = np.zeros_like(mask)
    speck[20, 10 : 10 + pixels] = True
    assert SPECK_SHARE == 0.1
    np.testing.assert_array_equal(refine_mask(mask | speck), mask | speck if stays else mask)


def test_two_bones_stay_two_bones():
    """Tibia and fibula: the smaller one is no speck."""
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 8:18] = True
    mask[:, 22:25] = True
    np.testing.assert_array_equal(refine_mask(mask), mask)


def test_thin_outline_counts_with_what_it_encloses():
    """The outline alone has fewer pixels than the blob beside it; as a filled shape it is far larger."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[2:60, 2:40] = True
    mask[3:59, 3:39] = False
    mask[30:32, 50:55] = True  # 10 pixels: more than a tenth of the outline's 188, less than a tenth of the filled shape
    expected = np.zeros_like(mask)
    expected[2:60, 2:40] = True
    np.testing.assert_array_equal(refine_mask(mask), expected)


@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_masks_stay(fill):
    mask = np.full((8, 8), fill)
    np.testing.assert_array_equal(refine_mask(mask), mask)


def test_single_pixel_lesion_stays():
    mask = np.zeros((8, 8), dtype=bool)
    mask[3, 4] = True
    np.testing.assert_array_equal(refine_mask(mask), mask)


@pytest.mark.parametrize("seed", range(12))
def test_properties_of_any_mask(seed):
    mask = noisy_mask(seed)
    refined = refine_mask(mask)
    assert refined.dtype == bool and refined.shape == mask.shape
    np.testing.assert_array_equal(refined, ndimage.binary_fill_holes(refined))  # scipy fills what is 4-connected
    components, count = ndimage.label(refined, EIGHT)
    areas = ndimage.sum_labels(refined, components, range(1, count + 1))
    assert areas.min() >= 0.1 * areas.max()
    # Independent of scikit-image: fill, then drop small components.
    filled = ndimage.binary_fill_holes(mask)
    components, count = ndimage.label(filled, EIGHT)
    areas = ndimage.sum_labels(filled, components, range(1, count + 1))
    expected = np.isin(components, 1 + np.flatnonzero(areas >= 0.1 * areas.max()))
    np.testing.assert_array_equal(refined, expected)


@pytest.mark.parametrize("label", [None, 0, 1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_pairs(seed, label):
    anatomy, lesion = noisy_mask(seed), noisy_mask(seed + 100)
    refined = refine_masks(anatomy, lesion, label)
    assert not (refined[1] & ~refined[0]).any()
    if label == 0:
        assert not refined[1].any()
    else:
        assert refined[1].any() == (lesion & refined[0]).any()
    np.testing.assert_array_equal(refined, refine_masks(*refined, label))  # once more changes nothing
    np.testing.assert_array_equal(refined[0], refine_mask(anatomy))  # the lesion has no say in the anatomy


def test_lesion_is_cut_to_the_anatomy():
    anatomy = np.zeros((16, 16), dtype=bool)
    anatomy[:, 4:12] = True
    lesion = np.zeros_like(anatomy)
    lesion[5:8, 10:15] = True
    expected = np.zeros_like(lesion)
    expected[5:8, 10:12] = True
    np.testing.assert_array_equal(refine_masks(anatomy, lesion, 1)[1], expected)


def test_input_is_not_written_to():
    anatomy, lesion = noisy_mask(3), noisy_mask(4)
    copies = anatomy.copy(), lesion.copy()
    refined = refine_masks(anatomy, lesion, 0)
    np.testing.assert_array_equal((anatomy, lesion), copies)
    refined[0][:] = True
    np.testing.assert_array_equal(anatomy, copies[0])


def test_without_scikit_image_the_logical_parts_are_still_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)  # importing it raises ImportError
    anatomy = np.zeros((16, 16), dtype=bool)
    anatomy[2:12, 2:12] = True
    anatomy[5, 5] = False
    lesion = np.zeros_like(anatomy)
    lesion[10:14, 4:6] = True
    with pytest.warns(UserWarning, match="scikit-image is not installed") as caught:
        refined = refine_masks(anatomy, lesion, 1)
        normal = refine_masks(anatomy, lesion, 0)
    np.testing.assert_array_equal(refined[0], anatomy)  # the hole stays
    np.testing.assert_array_equal(refined[1], lesion & anatomy)
    assert refined[1].any() and not normal[1].any()
    message = str(caught[0].message)
    assert "diffusers-macdm[train]" in message and "refine_masks=False" in message
