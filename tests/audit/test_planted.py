"""Planted copies are what their names say, by the stated amounts."""

import numpy as np
import pytest
import torch
from audit_data import phantoms
from scipy.ndimage import gaussian_filter

from diffusers_macdm.audit import planted
from diffusers_macdm.audit.images import SIZE, to_unit
from diffusers_macdm.audit.planted import plant_copies


@pytest.fixture(scope="module")
def sources():
    return phantoms(8, 0)


@pytest.fixture(scope="module")
def copies(sources):
    return plant_copies(sources, seed=4)


def test_kinds_and_types(copies, sources):
    kinds = ["exact", "flipped", "shifted", "rotated", "cropped", "brightness", "noise", "blurred", "combined"]
    assert list(copies) == kinds
    for copy in copies.values():
        assert copy.dtype == torch.uint8 and copy.shape == sources.shape
    assert all((copies[kind] != sources).any(dim=(1, 2)).all() for kind in kinds[1:])


def test_exact_and_flipped(copies, sources):
    assert torch.equal(copies["exact"], sources)
    assert np.array_equal(copies["flipped"], sources.numpy()[:, :, ::-1])


def test_shifts_are_whole_pixels_and_of_the_stated_amount(copies, sources):
    low, high = (round(limit * SIZE) for limit in planted.SHIFT)
    for copy, source in zip(copies["shifted"].numpy(), sources.numpy(), strict=True):
        padded = np.pad(source, high)
        found = [
            (y, x)
            for y in range(-high, high + 1)
            for x in range(-high, high + 1)
            if np.array_equal(copy, padded[high - y : high - y + SIZE, high - x : high - x + SIZE])
        ]
        assert len(found) == 1
        assert all(low <= abs(amount) <= high for amount in found[0])


def test_exposure_is_affine(copies, sources):
    for copy, source in zip(to_unit(copies["brightness"]).numpy(), to_unit(sources).numpy(), strict=True):
        visible = (copy > 0) & (copy < 1)
        slope, offset = np.polyfit(source[visible], copy[visible], 1)
        assert planted.CONTRAST[0] - 0.01 < slope < planted.CONTRAST[1] + 0.01
        assert planted.BRIGHTNESS[0] - 0.01 < abs(offset - 0.5 * (1 - slope)) < planted.BRIGHTNESS[1] + 0.01
        np.testing.assert_allclose(copy[visible], slope * source[visible] + offset, atol=0.003)


def test_noise_and_blur(copies, sources):
    change = to_unit(copies["noise"]) - to_unit(sources)
    inside = (sources > 40) & (sources < 215)  # away from the clipping
    assert change[inside].std().item() == pytest.approx(planted.NOISE, rel=0.03)
    blurred = gaussian_filter(sources[0].numpy().astype(float), planted.BLUR, mode="nearest", radius=3)
    assert np.abs(copies["blurred"][0].numpy() - blurred).max() <= 0.51


def test_cropped_shows_the_inside_alone():
    """Enlarged until it fills the frame again: a white image has no black border."""
    white = plant_copies(torch.full((20, SIZE, SIZE), 200, dtype=torch.uint8), seed=0)["cropped"]
    assert white.min() > 150 and (white[:, 1:-1, 1:-1] == 200).all()


def test_amounts_follow_from_the_seed_alone(copies, sources):
    state = torch.get_rng_state()
    again, other = plant_copies(sources, seed=4), plant_copies(sources, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(again[kind], copies[kind]) for kind in copies)
    assert all(not torch.equal(other[kind], copies[kind]) for kind in ("shifted", "rotated", "noise", "combined"))
