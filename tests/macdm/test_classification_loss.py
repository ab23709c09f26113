"""What the guidance classifier is shown in training: at which noise, and with which masks."""

import pytest
import torch
from diffusers import DDPMScheduler
from tiny_models import tiny_classifier

from diffusers_macdm.macdm.forward_process import ForwardProcess, draw_timesteps
from diffusers_macdm.macdm.training_losses import ClassificationLoss


PROCESS = ForwardProcess.from_scheduler(DDPMScheduler())
PAIRS, TASKS = (1.0, 0.0, 0.0), (0.3, 0.2, 0.2, 0.3)


def joint_samples(count: int, size: int = 4) -> dict[str, torch.Tensor]:
    """Films of noise, whole anatomy, a lesion all over every second one; the last third has no label."""
    generator = torch.Generator().manual_seed(0)
    radiograph = torch.rand(count, size, size, generator=generator) * 2 - 1
    lesion = (torch.arange(count) % 2 * 2.0 - 1)[:, None, None].expand(-1, size, size)
    samples = torch.stack([radiograph, torch.ones_like(radiograph), lesion], dim=1)
    labels = torch.where(torch.arange(count) < 2 * count // 3, torch.arange(count) % 2, 2)
    return {"joint_sample": samples, "class_label": labels}


def shown(batch, tasks, mask_dropout=0.0, timestep_probabilities=None, seed=0, **config):
    """What a classifier is fed, and the terms of its loss."""
    classifier, fed = tiny_classifier(sample_size=4, **config), {}

    def keep(module, arguments, others):
        fed.update(sample=arguments[0], timestep=arguments[1], **others)

    classifier.register_forward_pre_hook(keep, with_kwargs=True)
    torch.manual_seed(seed)
    with torch.no_grad():
        terms = ClassificationLoss(PROCESS, classifier.config, tasks, mask_dropout, timestep_probabilities)(classifier, batch)
    return fed, terms


@pytest.mark.parametrize("weighting", ["input", "signal"])
def test_dropped_masks_are_pure_noise_and_the_film_is_at_its_own_timestep(weighting):
    config = {"channel_weights": (1.0, 0.5, 0.5), "mask_weighting": weighting}
    batch = joint_samples(2000)
    fed, terms = shown(batch, TASKS, mask_dropout=1.0, **config)
    assert terms.masks_dropped.all() and (fed["mask_timestep"] == 999).all()
    masks = fed["sample"][:, 1:]
    assert masks.mean().abs() < 0.02 and masks.std().item() == pytest.approx(1, abs=0.01)

    other = batch | {"joint_sample": batch["joint_sample"] * torch.tensor([1.0, -1, -1])[:, None, None]}
    assert torch.equal(shown(other, TASKS, mask_dropout=1.0, **config)[0]["sample"], fed["sample"])  # nothing of them is left

    t = fed["timestep"]
    given = (fed["sample"][:, 0] == batch["joint_sample"][:, 0]).flatten(1).all(dim=1)
    assert (t[given] == 0).all() and given.float().mean().item() == pytest.approx(0.2, abs=0.03)  # image -> masks
    assert t[~given].float().mean().item() == pytest.approx(499.5, abs=25)
    abar = PROCESS.alphas_cumprod[t][:, None, None]
    noise = (fed["sample"][:, 0] - abar.sqrt() * batch["joint_sample"][:, 0]) / (1 - abar).sqrt()
    for low in (0, 250, 500, 750):  # what is left after the signal of its timestep is standard normal at every level
        chosen = noise[~given & (t >= low) & (t < low + 250)]
        assert chosen.mean().abs() < 0.05 and chosen.std().item() == pytest.approx(1, abs=0.04)
    assert torch.equal(terms.level, t)  # how noisy the masks are says nothing about such a sample


def test_shares_of_what_is_shown():
    batch = joint_samples(4000)
    fed, terms = shown(batch, TASKS, mask_dropout=0.3)
    changed = (fed["sample"] != batch["joint_sample"]).flatten(2).any(dim=2)  # [B, 3]
    dropped, t = terms.masks_dropped, fed["timestep"]
    share = dropped.float().mean().item()
    assert share == pytest.approx(0.3, abs=0.025)
    film_given, masks_given = ~changed[:, 0], ~changed[:, 1] & ~changed[:, 2]
    # Whatever the task: a film that is given, and one whose masks were given, both lose their masks as often.
    assert (film_given & dropped).float().mean().item() == pytest.approx(0.2 * share, abs=0.015)
    assert (film_given & ~dropped).float().mean().item() == pytest.approx(0.2 * (1 - share), abs=0.02)
    assert masks_given.float().mean().item() == pytest.approx(0.2 * (1 - share), abs=0.02)
    assert not (masks_given & dropped).any() and (fed["mask_timestep"][masks_given] == 0).all()
    assert (fed["mask_timestep"][dropped] == 999).all()
    pairs = ~film_given & ~masks_given & ~dropped  # the share of insertion is one of pairs
    assert torch.equal(t[pairs], fed["mask_timestep"][pairs])
    assert pairs.float().mean().item() == pytest.approx(0.6 * (1 - share), abs=0.025)
    assert torch.equal(terms.level, torch.where(dropped, t, torch.maximum(t, fed["mask_timestep"])))
    assert torch.equal(terms.accuracy.isnan(), batch["class_label"] == 2)


def test_without_dropout_it_draws_what_it_always_drew():
    batch, labeled = joint_samples(60), slice(0, 40)
    fed, terms = shown(batch, PAIRS, seed=3)
    torch.manual_seed(3)
    timesteps, noised, _ = draw_timesteps(60, 1000, PAIRS)
    noisy = PROCESS.sample(batch["joint_sample"], timesteps, noised).noisy
    assert torch.equal(fed["sample"], noisy) and torch.equal(fed["mask_timestep"], timesteps[:, 1])
    with torch.no_grad():
        logits = tiny_classifier(sample_size=4)(noisy, timesteps[:, 0], timesteps[:, 1]).logits[labeled]
    expected = -logits.log_softmax(dim=1).gather(1, batch["class_label"][labeled, None]).mean()
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_noise_levels_are_those_asked_for():
    probabilities = torch.zeros(1000)
    probabilities[[7, 640]] = torch.tensor([0.25, 0.75])
    fed, _ = shown(joint_samples(1000), PAIRS, 0.5, probabilities)
    assert set(fed["timestep"].tolist()) == {7, 640}
    assert (fed["timestep"] == 640).float().mean().item() == pytest.approx(0.75, abs=0.05)
