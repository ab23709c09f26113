"""The random numbers of a batch: from one generator what torch draws, from one for each sample the sample's own."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_unet

from diffusers_macdm.macdm.draws import Draws, SampleDraws
from diffusers_macdm.macdm.forward_process import ForwardProcess, draw_timesteps, lognormal_timesteps
from diffusers_macdm.macdm.loss import HybridLoss
from diffusers_macdm.macdm.training_losses import DenoisingLoss, insertion_regions


PROBABILITIES = (0.4, 0.1, 0.2, 0.3)


@pytest.fixture(scope="module")
def process():
    from diffusers import DDPMScheduler

    return ForwardProcess.from_scheduler(DDPMScheduler())


def test_from_one_generator_they_are_those_of_torch():
    draws = Draws(5, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    weights, rows = torch.rand(7), torch.rand(5, 9)
    assert torch.equal(draws.choice(weights), torch.multinomial(weights, 5, replacement=True, generator=generator))
    assert torch.equal(draws.uniform(), torch.rand(5, generator=generator))
    assert torch.equal(draws.integer(11), torch.randint(11, (5,), generator=generator))
    assert torch.equal(draws.choice(rows), torch.multinomial(rows, 1, generator=generator)[:, 0])
    assert torch.equal(draws.normal(torch.empty(5, 2, 3)), torch.randn(5, 2, 3, generator=generator))


def test_those_of_samples_have_the_right_distributions():
    count = 20_000
    draws = SampleDraws(range(count))
    weights = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    expected = weights.numpy()
    for found in (draws.choice(weights), draws.choice(7 * weights.expand(count, -1))):
        shares = np.bincount(found, minlength=6) / count
        assert shares[expected == 0].sum() == 0 and np.abs(shares - expected).max() < 0.012
    uniform = [draws.uniform() for _ in range(20)]  # beyond what is drawn at once
    assert len({tuple(values.tolist()) for values in uniform}) == 20
    assert all(abs(values.mean() - 0.5) < 0.01 and abs(values.var() - 1 / 12) < 0.003 for values in uniform)
    whole = draws.integer(10)
    assert whole.dtype == torch.int64 and np.abs(np.bincount(whole) / count - 0.1).max() < 0.01
    noise = draws.normal(torch.empty(count, 3))
    assert noise.mean().abs() < 0.01 and abs(noise.var() - 1) < 0.02


def test_a_sample_draws_the_same_in_any_batch(process):
    """Tasks, timesteps, regions, noise and dropped labels: what a network is fed does not depend on the rest of the batch."""
    unet = tiny_unet(class_embed_type=None, num_class_embeds=3)
    seen = []

    def recording(sample, timestep, class_labels, mask_timestep, augmentation_labels):
        seen.append((sample, timestep, class_labels, mask_timestep))
        return type("Output", (), {"sample": torch.zeros(len(sample), unet.config.out_channels, *sample.shape[2:])})

    loss = DenoisingLoss(
        HybridLoss(lambda_vlb=0),
        process,
        unet.config,
        PROBABILITIES,
        0.3,
        0.5,
        timestep_probabilities=lognormal_timesteps(process, -0.4, 1.4),
    )
    count, generator = 24, torch.Generator().manual_seed(0)
    batch = {
        "joint_sample": torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1,
        "class_label": torch.arange(count) % 2,
        "augmentation_labels": torch.zeros(count, 0),
    }
    loss(recording, batch, SampleDraws(range(count)))
    for size in (1, 4, 8):
        for first in range(0, count, size):
            part = {name: value[first : first + size] for name, value in batch.items()}
            loss(recording, part, SampleDraws(range(first, first + size)))
        whole, *parts = seen
        assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*parts, strict=True), strict=True))
        seen[1:] = []
    assert len({tuple(row) for row in torch.stack(seen[0][1:], dim=1).tolist()}) > 15


def test_timesteps_of_samples_are_those_of_the_tasks():
    timesteps, noised, inserted = draw_timesteps(4000, 1000, PROBABILITIES, draws=SampleDraws(range(4000)))
    shares = [(~noised[:, 0]).float().mean(), inserted.float().mean()]
    assert shares == pytest.approx([0.2, 0.3], abs=0.025)
    assert (timesteps[~noised[:, 0], 0] == 0).all() and timesteps.max() > 990


def test_regions_of_samples_surround_the_lesion():
    samples = torch.full((200, 3, 32, 32), -1.0)
    samples[:, 1, 4:28, 8:24] = 1
    samples[::2, 2, 10:14, 12:15] = 1
    regions = insertion_regions(samples, SampleDraws(range(200)))
    assert (regions | (samples[:, 2] < 0)).all() and regions.flatten(1).any(dim=1).all()
