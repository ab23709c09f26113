"""Every generative model: it learns a toy set whose answer is known, and the same seed gives the same pairs in any batch."""

import pytest
import torch
from toy_cases import BRIGHTNESS, SIZE, disc, toy_cases

from diffusers_macdm.comparison.model import MASK_SOURCES
from diffusers_macdm.comparison.models import MODELS
from diffusers_macdm.comparison.settings import TrainingBudget
from diffusers_macdm.data.cases import Cases
from diffusers_macdm.macdm import MaCDMPipeline


TINY = {
    "batch_size": 8,
    "learning_rate": 4e-3,
    "gan_learning_rate": 4e-3,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "patch_size": 2,
    "num_inference_steps": 10,
    "num_warmup_steps": 10,
}
LABELS = [0, 1] * 4
FITTED = [name for name in MODELS if name != "latent_diffusion"]  # its autoencoder needs longer: see the `slow` test


@pytest.fixture(scope="module", params=FITTED)
def fitted(request):
    model = MODELS[request.param]()
    steps = 30
    facts = model.fit(toy_cases(), TrainingBudget(steps=steps, **TINY), seed=0)
    assert facts["steps"] == steps and facts["seconds"] > 0 and facts["num_parameters"] > 0
    return model


def test_the_classes_are_told_apart(fitted):
    """After a few steps the films of class 1 are the brighter ones; the `slow` test below asks for more."""
    cases = fitted.sample(LABELS, seed=0, given=toy_cases())
    means = cases.radiographs.mean(dim=(1, 2, 3))
    assert means[cases.class_labels == 1].mean() > means[cases.class_labels == 0].mean() + 0.1
    assert cases.joint_samples.shape == (8, 3, SIZE, SIZE) and cases.class_labels.tolist() == LABELS
    assert cases.has_masks == (fitted.makes_masks != "none") and fitted.makes_masks in MASK_SOURCES
    levels = (cases.radiographs + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3 and cases.radiographs.abs().max() <= 1
    if cases.has_masks:
        assert not cases.masks[cases.class_labels == 0, 1].any()
        assert not (cases.masks[:, 1] & ~cases.masks[:, 0]).any()


def test_a_sample_is_the_same_in_any_batch(fitted):
    together = fitted.sample([1, 0, 1], seed=5, batch_size=3, given=toy_cases()).joint_samples
    alone = fitted.sample([1, 0, 1], seed=5, batch_size=1, given=toy_cases()).joint_samples
    torch.testing.assert_close(together, alone, atol=1.1 / 127.5, rtol=0, equal_nan=True)  # one step of 8 bits
    other = fitted.sample([1, 0, 1], seed=6, given=toy_cases()).joint_samples
    assert not torch.allclose(together[:, 0], other[:, 0], atol=0.05)


def test_unknown_labels_are_refused(fitted):
    with pytest.raises(ValueError, match=r"\[2\].*0 to 1"):
        fitted.sample([0, 2], seed=0, given=toy_cases())


@pytest.mark.parametrize("name", list(MODELS))
def test_the_same_seed_gives_the_same_model(name):
    budget = TrainingBudget(steps=2, **{**TINY, "num_inference_steps": 2})
    samples = []
    for seed in (3, 3, 4):
        torch.rand(seed)  # whatever was drawn before
        state = torch.get_rng_state()
        model = MODELS[name]()
        model.fit(toy_cases(), budget, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        samples.append(model.sample([0, 1], seed=0, given=toy_cases()).joint_samples.nan_to_num())
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_the_toy_set_is_learned(name):
    model = MODELS[name]()
    model.fit(toy_cases(), TrainingBudget(steps=1500, **TINY), seed=0)
    cases = model.sample(LABELS * 4, seed=0, given=toy_cases())
    for label, brightness in BRIGHTNESS.items():
        chosen = cases.select((cases.class_labels == label).nonzero()[:, 0])
        assert chosen.radiographs.mean().item() == pytest.approx(brightness, abs=0.15)
        if cases.has_masks:
            agreement = (chosen.masks[:, 0] == (disc(SIZE / 2.5) > 0)).float().mean()
            assert agreement > 0.93  # an empty mask's is 0.52
    if cases.has_masks:
        lesion = disc(SIZE / 6) > 0
        found = cases.masks[cases.class_labels == 1, 1]
        dice = 2 * (found & lesion).sum((1, 2)) / (found.sum((1, 2)) + lesion.sum())
        assert dice.mean() > 0.7


def test_given_masks_are_kept_and_dealt_out_evenly():
    """Each training case of a label gives its masks once before one gives them twice."""
    cases = toy_cases()
    joint_samples = cases.joint_samples.clone()
    for index in range(len(cases)):
        joint_samples[index, 1, 0, index] = 1  # a pixel by which its masks are known
    cases = Cases.of(joint_samples, cases.class_labels)
    model = MODELS["mask_conditional"]()
    model.fit(cases, TrainingBudget(steps=2, **TINY), seed=0)
    samples = model.sample([1] * 8 + [0] * 8, seed=0, given=cases)
    sources = [row.nonzero().item() for row in samples.masks[:, 0, 0]]
    assert sorted(sources) == list(range(16))
    assert torch.equal(samples.joint_samples[:, 1:], cases.joint_samples[sources, 1:])
    assert torch.equal(samples.class_labels, cases.class_labels[sources])
    with pytest.raises(ValueError, match="given masks"):
        model.sample([0], seed=0)


def test_steps_are_shared_out():
    """What trains a helper is taken from the budget."""
    cases, budget = toy_cases(), TrainingBudget(steps=20, **TINY)
    facts = MODELS["latent_diffusion"]().fit(cases, budget, seed=0)
    assert facts["steps"] == 20 and set(facts["last_loss"]) == {"autoencoder", "denoiser"}
    facts = MODELS["guided_ddpm"]().fit(cases, budget, seed=0)
    assert facts["steps"] == 20 and set(facts["last_loss"]) == {"denoiser", "guidance_classifier"}


def test_macdm_keeps_its_weights_and_gives_its_pipeline():
    model = MODELS["macdm"](channel_weights=(1.0, 0.5, 0.8), guidance_scale=0.0)
    facts = model.fit(toy_cases(), TrainingBudget(steps=3, **TINY), seed=0)
    assert isinstance(model.pipeline, MaCDMPipeline) and model.pipeline.guidance_classifier is None
    assert tuple(model.pipeline.unet.config.channel_weights) == (1.0, 0.5, 0.8)
    assert set(facts["last_loss"]) == {"denoiser"} and facts["steps"] == 3
    assert facts["num_parameters"] == model.pipeline.unet.num_parameters()
    guided = MODELS["macdm"]()
    facts = guided.fit(toy_cases(), TrainingBudget(steps=20, **TINY), seed=0)
    assert set(facts["last_loss"]) == {"denoiser", "guidance_classifier"} and facts["steps"] == 20


def test_cases_of_one_class_are_refused():
    cases = toy_cases()
    one_class = Cases.of(cases.joint_samples, [1] * len(cases))
    with pytest.raises(ValueError, match=r"class labels \[1\]; at least two"):
        MODELS["macdm"]().fit(one_class, TrainingBudget(steps=2, **TINY), seed=0)
