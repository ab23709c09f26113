"""Sliced Wasserstein distance of samples whose distance is known, and the fixed features."""

import numpy as np
import pytest
import torch

from diffusers_macdm.quality.distances import GLOBAL, NUM_PATCHES, detail, patches, random_features, reduced, sliced_wasserstein


def gaussian(count, dimension, seed):
    return np.random.default_rng(seed).normal(size=(count, dimension))


@pytest.mark.parametrize("dimension", [25, 144, 3])
def test_a_shift_of_all_entries_is_the_distance(dimension):
    sample = gaussian(200, dimension, 0)
    assert sliced_wasserstein(sample, sample) == 0
    assert sliced_wasserstein(sample, sample + 7) == pytest.approx(7)
    assert sliced_wasserstein(sample, sample[::-1] + 7) == pytest.approx(7)  # the order tells nothing


def test_the_distance_of_two_gaussians_is_that_of_their_deviations():
    # W2 of N(0, a^2) and N(0, b^2) is |a - b|, in every direction.
    one, two = 2 * gaussian(20000, 25, 0), 5 * gaussian(30000, 25, 1)
    assert sliced_wasserstein(one, two) == pytest.approx(3, rel=0.02)
    assert sliced_wasserstein(one, 2 * gaussian(20000, 25, 2)) < 0.1


def test_the_same_seed_gives_the_same_number_and_other_lengths_are_refused():
    one, two = gaussian(50, 25, 0), gaussian(80, 25, 1)
    assert sliced_wasserstein(one, two, 3) == sliced_wasserstein(one, two, 3) != sliced_wasserstein(one, two, 4)
    with pytest.raises(ValueError, match="one length"):
        sliced_wasserstein(one, two[:, :24])
    with pytest.raises(ValueError, match="cannot be compared"):
        sliced_wasserstein(one, two[:0])


def test_patches_are_pieces_of_the_pictures():
    pictures = np.arange(3 * 8 * 8).reshape(3, 8, 8).astype(np.uint8)
    found = patches(pictures)
    assert found.shape == (NUM_PATCHES, 25)
    corner = found[:, 0].astype(int)
    assert np.array_equal(found[:, 6].astype(int) - corner, np.full(NUM_PATCHES, 9))  # one row and one column on
    assert set((corner // 64).tolist()) == {0, 1, 2} and set((corner % 8).tolist()) == {0, 1, 2, 3}
    assert detail(pictures).mean(axis=1) == pytest.approx(0, abs=1e-4)
    assert np.array_equal(detail(pictures + np.uint8(9)), detail(pictures))


def test_reduced_takes_means():
    pictures = np.kron(np.arange(144).reshape(1, GLOBAL, GLOBAL), np.ones((4, 4)))
    assert reduced(pictures)[0].tolist() == list(range(144))
    assert reduced(np.full((2, 50, 50), 3)) == pytest.approx(3)


def test_the_features_are_the_same_wherever_they_are_made():
    films = torch.rand(4, 1, 32, 32) * 2 - 1
    before = torch.get_rng_state()
    one, two = random_features()(films), random_features()(films)
    assert torch.equal(before, torch.get_rng_state())
    assert one.shape == (4, 448) and np.array_equal(one, two) and np.isfinite(one).all()
    assert np.isfinite(random_features()(-torch.ones(1, 1, 32, 32))).all()
