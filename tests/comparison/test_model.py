"""The common interface: budgets that cannot work are refused, masks are dealt out evenly, samples end as files would."""

import numpy as np
import pytest
import torch

from diffusers_macdm.comparison.model import eight_bits, finished, masks_for
from diffusers_macdm.comparison.settings import TrainingBudget
from diffusers_macdm.macdm.refinement import refine_masks


def test_budgets():
    for wrong in ({"steps": 0}, {"steps": 1}, {"num_workers": -1}, {"learning_rate": 0.0}, {"gan_learning_rate": -1.0}):
        (name, value), *_ = wrong.items()
        with pytest.raises(ValueError, match=f"{name}={value} is not allowed"):
            TrainingBudget(**wrong)
    with pytest.raises(ValueError, match="multiple of norm_num_groups=8"):
        TrainingBudget(block_out_channels=(16, 20))
    budget = TrainingBudget(block_out_channels=(8, 16, 32), patch_size=2)
    budget.check_size(24)
    with pytest.raises(ValueError, match="20 px.*multiple of 8"):
        budget.check_size(20)


def test_every_case_gives_its_masks_before_one_gives_them_twice():
    given = torch.tensor([0, 1, 0, 1, 1])
    labels = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1])
    chosen = masks_for(labels, given, seed=3)
    assert torch.equal(given[chosen], labels)
    ones = chosen[labels == 1].tolist()
    assert set(ones[:3]) == {1, 3, 4} and len(set(ones[3:])) == 2
    assert torch.equal(chosen, masks_for(labels, given, seed=3))
    assert any(not torch.equal(chosen, masks_for(labels, given, seed=seed)) for seed in range(4, 8))
    with pytest.raises(ValueError, match="label 2"):
        masks_for(torch.tensor([2]), given, seed=0)


def test_eight_bits():
    values = torch.arange(256) / 255 * 2 - 1
    torch.testing.assert_close(eight_bits(values), values)
    assert eight_bits(torch.tensor([-3.0, 0.001, 7.0])).tolist() == pytest.approx([-1, 1 / 255, 1], abs=1e-6)


def test_masks_are_thresholded_and_refined():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 3, 12, 12, generator=generator) + 0.3
    labels = torch.tensor([0, 1, 1, 0])
    samples = finished(raw, labels)
    for sample, source, label in zip(samples, raw, labels.tolist(), strict=True):
        masks = refine_masks(*(source[1:].numpy() >= 0), label)
        np.testing.assert_array_equal(sample[1:].numpy(), np.stack(masks) * 2.0 - 1)
    assert not (samples[labels == 0, 2] > 0).any()
    torch.testing.assert_close(samples[:, 0], eight_bits(raw[:, 0]))
