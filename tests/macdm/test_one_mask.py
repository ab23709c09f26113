"""A network of a set with one mask: what it is fed, what it is judged by, and what becomes of its masks."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from tiny_models import tiny_classifier, tiny_scheduler, tiny_unet

from diffusers_macdm import GuidanceClassifier, MaCDMUNet2DModel
from diffusers_macdm.audit.membership import denoising_errors
from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.macdm.joint_sample import CHANNELS, MASKS, absent_channels, join, known_channels, masks_of
from diffusers_macdm.macdm.loss import HybridLoss
from diffusers_macdm.macdm.refinement import refine_batch, refine_masks
from diffusers_macdm.macdm.training_losses import ClassificationLoss, DenoisingLoss


PROCESS = ForwardProcess.from_scheduler(DDPMScheduler())
TASKS = (0.4, 0.3, 0.3)
each_mask = pytest.mark.parametrize("mask, absent", [("anatomy_mask", 2), ("lesion_mask", 1)])


def batch_of(count, absent, size=16):
    """Joint samples of noise, background in the channel that is not there."""
    generator = torch.Generator().manual_seed(5)
    samples = torch.rand(count, 3, size, size, generator=generator) * 2 - 1
    samples[:, 1:] = samples[:, 1:].sign()
    samples[:, absent] = -1
    return {
        "joint_sample": samples,
        "class_label": torch.arange(count) % 2,
        "augmentation_labels": torch.zeros(count, 8),
    }


def fed_to(network):
    """Keeps what a network is called with."""
    kept = {}

    def keep(module, arguments, others):
        kept.update(sample=arguments[0].clone(), timestep=arguments[1], **others)

    network.register_forward_pre_hook(keep, with_kwargs=True)
    return kept


@each_mask
def test_channels(mask, absent):
    config = tiny_unet(masks=(mask,)).config
    assert masks_of(config) == (mask,) and absent_channels(config) == (absent,)
    assert known_channels(config) == tuple(channel for channel in range(3) if channel != absent)
    film, outline = torch.rand(4, 4), torch.ones(4, 4)
    masks = [outline if name == mask else None for name in MASKS]
    expected = torch.stack([film * 2 - 1, *(outline if name == mask else -outline for name in MASKS)])
    assert torch.equal(join(film, *masks), expected)


def test_networks_of_before_know_both_masks(tmp_path):
    """Their configuration does not say so."""
    unet = tiny_unet()
    config = {name: value for name, value in unet.config.items() if name != "masks" and not name.startswith("_")}
    older = MaCDMUNet2DModel.from_config(config)
    assert masks_of(older.config) == MASKS and absent_channels(older.config) == ()
    assert [(name, x.shape) for name, x in older.state_dict().items()] == [(n, x.shape) for n, x in unet.state_dict().items()]


@pytest.mark.parametrize(
    "masks", [(), ("lesion",), ("lesion_mask", "anatomy_mask"), ("lesion_mask", "lesion_mask"), ("radiograph",)]
)
@pytest.mark.parametrize("network", [MaCDMUNet2DModel, GuidanceClassifier])
def test_refused_masks(network, masks):
    with pytest.raises(ValueError, match=r"masks=.* is not allowed: \('anatomy_mask', 'lesion_mask'\), or one of the two"):
        network(masks=masks)


def test_one_mask_needs_three_channels():
    with pytest.raises(ValueError, match="is not allowed"):
        tiny_unet(in_channels=2, out_channels=4, channel_weights=(1, 1), masks=("lesion_mask",))


@each_mask
@pytest.mark.parametrize("weighting", ["input", "signal"])
@pytest.mark.parametrize("make", [tiny_unet, tiny_classifier])
def test_nothing_comes_from_the_absent_channel(mask, absent, weighting, make):
    """Whatever is fed there, the output is the same, and guidance has no gradient there."""
    network = make(masks=(mask,), mask_weighting=weighting, channel_weights=(1.0, 0.5, 0.7))
    sample = batch_of(2, absent)["joint_sample"]
    other = sample.clone()
    other[:, absent] = torch.randn(2, 16, 16)
    with torch.no_grad():
        outputs = [network(x, 300, return_dict=False)[0] for x in (sample, other)]
        background = network(sample.index_fill(1, torch.tensor([absent]), -1), 300, return_dict=False)[0]
    assert torch.equal(*outputs) and torch.equal(outputs[0], background)
    seen = make(mask_weighting=weighting, channel_weights=(1.0, 0.5, 0.7))
    with torch.no_grad():  # a network of both masks sees it
        assert not torch.equal(*(seen(x, 300, return_dict=False)[0] for x in (sample, other)))
    other.requires_grad_(True)
    network(other, 300, return_dict=False)[0].square().sum().backward()
    gradient = other.grad.abs().sum(dim=(0, 2, 3))
    assert gradient[absent] == 0 and (gradient[list(known_channels(network.config))] > 0).all()


@each_mask
def test_the_absent_channel_is_fed_clean_and_carries_no_loss(mask, absent):
    """The total is the mean over the known channels, whatever the network says of the other one."""
    unet = tiny_unet(masks=(mask,), out_channels=6)
    batch, fed = batch_of(40, absent), fed_to(unet)
    loss = DenoisingLoss(HybridLoss(lambda_vlb=0.01, channel_weights=(1, 2, 3)), PROCESS, unet.config, TASKS, 0.1, 0.5)
    totals = []
    for shift in (0.0, 7.0):
        with torch.no_grad():
            unet.conv_out.bias[[absent, absent + 3]] += shift
        torch.manual_seed(3)
        with torch.no_grad():
            terms, timesteps = loss(unet, batch)
        totals.append(terms.total)
    assert torch.equal(*totals)
    assert (fed["sample"][:, absent] == -1).all()
    assert terms.simple[:, absent].isnan().all() and terms.vlb[:, absent].isnan().all()
    # One timestep for the masks: that of the mask that is there, 0 where it is given.
    known = CHANNELS.index(mask)
    assert torch.equal(fed["mask_timestep"], timesteps[:, known])
    given = (fed["sample"][:, known] == batch["joint_sample"][:, known]).flatten(1).all(dim=1)
    assert torch.equal(given, timesteps[:, known] == 0) and 0 < given.sum() < 40


def test_the_loss_is_that_of_two_channels():
    """Against an independent sum over radiograph and lesion mask, all samples being pairs."""
    unet = tiny_unet(masks=("lesion_mask",), out_channels=3)
    batch, fed = batch_of(6, 1), fed_to(unet)
    loss = DenoisingLoss(HybridLoss(channel_weights=(1, 1, 3)), PROCESS, unet.config, (1, 0, 0), 0.0, 0.0)
    torch.manual_seed(1)
    with torch.no_grad():
        terms, timesteps = loss(unet, batch)
        prediction = unet(
            fed["sample"], timesteps[:, 0], class_labels=batch["class_label"], mask_timestep=timesteps[:, 2]
        ).sample
    abar = PROCESS.alphas_cumprod[timesteps[:, 0]][:, None, None, None]
    noise = (fed["sample"] - abar.sqrt() * batch["joint_sample"]) / (1 - abar).sqrt()
    error = (prediction - noise).square().mean(dim=(2, 3))  # [B, 3]
    torch.testing.assert_close(terms.total, ((error[:, 0] + 3 * error[:, 2]) / 2).mean().float(), rtol=1e-4, atol=1e-5)


def test_insertion_is_learned_around_lesions_alone():
    config = tiny_unet(masks=("anatomy_mask",)).config
    with pytest.raises(ValueError, match="this denoiser knows no lesion outlines; its share must be 0"):
        DenoisingLoss(HybridLoss(), PROCESS, config, (0.7, 0.1, 0.1, 0.1), 0.1, 0.5)
    DenoisingLoss(HybridLoss(), PROCESS, config, (0.8, 0.1, 0.1, 0.0), 0.1, 0.5)
    unet = tiny_unet(masks=("lesion_mask",))
    batch, fed = batch_of(30, 1), fed_to(unet)
    batch["joint_sample"][:, 2] = -1
    batch["joint_sample"][:, 2, 6:8, 6:8] = 1
    with torch.no_grad():
        DenoisingLoss(HybridLoss(lambda_vlb=0), PROCESS, unet.config, (0, 0, 0, 1), 0.0, 0.0)(unet, batch)
    changed = fed["sample"] != batch["joint_sample"]
    assert changed[:, 0, 6:8, 6:8].all() and not changed[:, 1].any()
    assert 0 < changed[:, 0].float().mean() < 0.5


@each_mask
def test_the_classifier_is_fed_background_there(mask, absent):
    classifier = tiny_classifier(masks=(mask,))
    batch, fed, known = batch_of(200, absent), fed_to(classifier), CHANNELS.index(mask)
    torch.manual_seed(0)
    with torch.no_grad():
        terms = ClassificationLoss(PROCESS, classifier.config, TASKS, mask_dropout=0.5)(classifier, batch)
    assert (fed["sample"][:, absent] == -1).all()
    dropped = terms.masks_dropped
    assert 60 < dropped.sum() < 140 and (fed["mask_timestep"][dropped] == 999).all()
    hidden = fed["sample"][dropped][:, known]
    assert hidden.mean().abs() < 0.02 and hidden.std().item() == pytest.approx(1, abs=0.02)  # pure noise


@each_mask
def test_denoising_errors_are_those_of_known_channels(mask, absent):
    unet, samples = tiny_unet(masks=(mask,), out_channels=3), batch_of(3, absent)["joint_sample"]
    first = denoising_errors(unet, tiny_scheduler(variance_type="fixed_small"), samples, [0, 1, 0], (0.5,), 1)
    with torch.no_grad():
        unet.conv_out.bias[absent] += 9
    second = denoising_errors(unet, tiny_scheduler(variance_type="fixed_small"), samples, [0, 1, 0], (0.5,), 1)
    np.testing.assert_array_equal(first, second)


def test_refinement_of_one_mask():
    """No rule that needs the other one; those of a mask by itself, and none of a given one."""
    mask = np.zeros((12, 12), dtype=bool)
    mask[2:8, 2:8] = True
    mask[4, 4], mask[10, 10] = False, True  # a hole and a speck
    refined = np.zeros_like(mask)
    refined[2:8, 2:8] = True
    for label in (0, 1, None):
        anatomy, lesion = refine_masks(mask, None, label)
        assert lesion is None and np.array_equal(anatomy, refined)
        anatomy, lesion = refine_masks(None, mask, label)
        assert anatomy is None and np.array_equal(lesion, refined & (label != 0))
    batch = torch.from_numpy(np.stack([mask, mask])[:, None]).float()
    expected = torch.from_numpy(np.stack([np.zeros_like(refined), refined])[:, None]).float()
    anatomy, lesion = refine_batch(None, batch, [0, 1], kept={1})
    assert anatomy is None and torch.equal(lesion, expected)
    anatomy, lesion = refine_batch(batch, None, [0, 1], kept={2})
    assert lesion is None and torch.equal(anatomy, expected[[1, 1]])
    assert torch.equal(refine_batch(None, batch, [0, 1], kept={1, 2})[1], batch)
