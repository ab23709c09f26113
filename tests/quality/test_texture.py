"""Noise, detail and edges of pictures whose values are known."""

import numpy as np
import pytest

from diffusers_macdm.quality.texture import (
    edge_profiles,
    grain,
    power_spectra,
    profile_distances,
    signed_distance,
    texture_features,
    top_octave,
)


def disc(size=64, radius=18):
    axis = np.arange(size) - (size - 1) / 2
    return axis[:, None] ** 2 + axis**2 <= radius**2


def noise(sigma, count=20, size=64, seed=0, gray=128.0):
    values = np.random.default_rng(seed).normal(gray, sigma, (count, size, size))
    return values.clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("sigma", [3, 10, 20])
def test_the_grain_of_white_noise_is_its_deviation(sigma):
    found = grain(noise(sigma), np.stack([disc()] * 20))
    for values in found.values():
        # Rounding to whole gray levels adds 1/12 to the variance.
        assert values.mean() == pytest.approx((sigma**2 + 1 / 12) ** 0.5, rel=0.03)


def test_the_grain_is_that_of_each_region_and_no_edge_or_slope_counts():
    ramp = np.add.outer(np.arange(64) * 2.0, np.arange(64) * 1.0)
    film = np.where(disc(), ramp + 60 + np.random.default_rng(0).normal(0, 8, (64, 64)), ramp)
    found = grain(film.round().astype(np.uint8)[None], disc()[None])
    assert found["background"][0] == pytest.approx(0, abs=1e-9)
    assert found["anatomy"][0] == pytest.approx(8, rel=0.1)


def test_a_region_that_is_too_small_has_no_grain():
    nothing = np.zeros((1, 64, 64), bool)
    found = grain(noise(5, 1), nothing)
    assert np.isnan(found["anatomy"][0]) and found["background"][0] == pytest.approx(5, rel=0.1)
    found = grain(noise(5, 1), ~nothing)
    assert np.isnan(found["background"][0]) and found["anatomy"][0] == pytest.approx(5, rel=0.1)


def test_the_top_octave_of_noise_and_of_waves():
    assert top_octave(noise(20, 100)).mean() == pytest.approx(1 - np.pi / 16, abs=0.01)
    x = np.arange(64)
    for frequency, expected in ((0.1, 0), (0.4, 1)):
        wave = 128 + 100 * np.cos(2 * np.pi * frequency * x)
        film = np.repeat(wave[None], 64, axis=0).round().astype(np.uint8)[None]
        assert top_octave(film)[0] == pytest.approx(expected, abs=0.01)
    assert np.isnan(top_octave(np.full((1, 64, 64), 77, np.uint8))[0])


def test_a_spectrum_has_no_power_at_frequency_zero():
    power, frequency = power_spectra(noise(20, 3))
    assert frequency[0, 0] == 0 and frequency.max() == pytest.approx(0.5 * 2**0.5)
    assert (power[:, 0, 0] < 1e-12 * power.sum(axis=(1, 2))).all()


def test_the_profile_of_a_step_is_a_step():
    mask = np.zeros((64, 64), bool)
    mask[20:44] = True
    film = np.where(mask, 200, 50).astype(np.uint8)
    assert profile_distances() == [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    assert edge_profiles(film[None], mask[None])[0].tolist() == [50] * 4 + [200] * 4
    # One gray level a pixel across the border: the profile is the distance.
    rows = np.arange(64)[:, None] + np.zeros(64)
    half = np.zeros((64, 64), bool)
    half[32:] = True
    found = edge_profiles(rows.astype(np.uint8)[None], half[None])[0]
    assert found.tolist() == [31.5 + distance for distance in profile_distances()]


def test_a_film_without_a_border_has_no_profile():
    nothing = np.zeros((1, 32, 32), bool)
    for mask in (nothing, ~nothing):
        assert np.isnan(edge_profiles(noise(5, 1, 32), mask)).all()


def test_signed_distance():
    mask = np.zeros((5, 5), bool)
    mask[:, 3:] = True
    assert signed_distance(mask)[0].tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5]


def test_features_are_finite_and_tell_noise_from_blur():
    films = noise(20, 4)
    features = texture_features(films)
    assert features.shape == (4, 32 + 32) and np.isfinite(features).all()
    assert (features[:, 32:48] ** 2).sum(axis=1) == pytest.approx(1) and (features[:, 48:] ** 2).sum(axis=1) == pytest.approx(1)
    flat = texture_features(np.full((1, 64, 64), 255, np.uint8))
    assert np.isfinite(flat).all() and flat[0, 32] == 1 and flat[0, -1] == 1
