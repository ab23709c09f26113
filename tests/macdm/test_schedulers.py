"""Schedulers: the learned variance, refused ones, swapping one for another."""

import logging

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from known_pipelines import arguments_of, each_scheduler, final_latents, generators, swap
from tiny_models import tiny_classifier, tiny_pipeline, tiny_unet

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.macdm.schedulers import Traits, set_scheduler, traits


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)  # diffusers' loggers do not propagate
    yield caplog
    logger.removeHandler(caplog.handler)


@each_scheduler
def test_learned_variance_is_for_ddpm_alone(name):
    pipe = swap(tiny_pipeline(), name)
    before, _ = final_latents(pipe, class_labels=1, generator=generators(0)[0])
    with torch.no_grad():
        pipe.unet.conv_out.bias[3:] += 0.5
    after, _ = final_latents(pipe, class_labels=1, generator=generators(0)[0])
    assert torch.equal(before, after) == (name != "DDPM")


def test_ddpm_with_a_fixed_variance_ignores_the_learned_one():
    pipe = tiny_pipeline()
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="fixed_small")
    before, _ = final_latents(pipe, class_labels=1, generator=generators(0)[0])
    with torch.no_grad():
        pipe.unet.conv_out.bias[3:] += 0.5
    assert torch.equal(before, final_latents(pipe, class_labels=1, generator=generators(0)[0])[0])


@pytest.mark.parametrize(
    "name, reason",
    [
        ("LCMScheduler", "distilled for consistency"),
        ("TCDScheduler", "distilled for consistency"),
        ("SCMScheduler", "distilled for consistency"),
        ("DDIMInverseScheduler", "from the image to noise"),
        ("DPMSolverMultistepInverseScheduler", "from the image to noise"),
        ("RePaintScheduler", "give the known channels to the pipeline"),
        ("UnCLIPScheduler", "image embeddings"),
        ("CogVideoXDDIMScheduler", "video"),
        ("CogVideoXDPMScheduler", "video"),
        ("FlowMatchEulerDiscreteScheduler", "does not integrate the variance-preserving process"),
        ("FlowMatchHeunDiscreteScheduler", "does not integrate the variance-preserving process"),
        ("EDMEulerScheduler", "does not integrate the variance-preserving process"),
        ("EDMDPMSolverMultistepScheduler", "does not integrate the variance-preserving process"),
        ("CMStochasticIterativeScheduler", "does not integrate the variance-preserving process"),
        ("KarrasVeScheduler", "does not integrate the variance-preserving process"),
        ("ScoreSdeVeScheduler", "does not integrate the variance-preserving process"),
        ("IPNDMScheduler", "does not integrate the variance-preserving process"),
        ("DDPMWuerstchenScheduler", "continuous timesteps"),
    ],
)
def test_refused_schedulers(name, reason):
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, name)()
    with pytest.raises(ValueError, match=f"{name} cannot sample from this model: .*{reason}"):
        pipe(class_labels=1, num_inference_steps=2)


@pytest.mark.parametrize(
    "cls, config, message",
    [
        (UniPCMultistepScheduler, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "'flow_prediction'"),
        (DDIMScheduler, {"beta_schedule": "squaredcos_cap_v2"}, "DDIMScheduler has another noise schedule"),
        (HeunDiscreteScheduler, {}, r"another noise schedule .* HeunDiscreteScheduler.from_config\(pipe.scheduler.config\)"),
        (DDIMScheduler, {"num_train_timesteps": 500}, "another noise schedule"),
        (DDPMScheduler, {"variance_type": "learned"}, "variance_type='learned'.* use variance_type='learned_range'"),
        (DDPMScheduler, {"variance_type": "fixed_large_log"}, "'fixed_large_log'.* NaN: use variance_type='fixed_large'"),
        (DDPMParallelScheduler, {"variance_type": "fixed_large_log"}, "DDPMParallelScheduler has .*'fixed_large_log'.* NaN"),
        (
            DDPMScheduler,
            {"variance_type": "fixd"},
            "'fixd', but there is no such type: use one of fixed_small, .*learned_range",
        ),
    ],
)
def test_refused_settings(cls, config, message):
    pipe = tiny_pipeline()
    pipe.scheduler = cls(**config)
    with pytest.raises(ValueError, match=message):
        pipe(class_labels=1, num_inference_steps=2)


def test_network_without_learned_variance():
    with pytest.raises(ValueError, match=r"variance_type='learned_range', but the network has no learned variance"):
        tiny_pipeline(out_channels=3)(class_labels=1, num_inference_steps=2)


def test_scheduler_that_cuts_off_the_weighted_sample():
    message = (
        r"DDPMScheduler with clip_sample=True, clip_sample_range=1.0 would cut off .* reaches 2.0 .* use clip_sample_range=2.0"
    )
    pipe = tiny_pipeline(with_classifier=False, channel_weights=(1.0, 0.5, 2.0), mask_weighting="signal")
    with pytest.raises(ValueError, match=message):
        pipe(class_labels=1, num_inference_steps=2)
    pipe = tiny_pipeline(with_classifier=False, channel_weights=(1.0, 0.5, 2.0))
    pipe(class_labels=1, num_inference_steps=2)


def test_zero_terminal_snr():
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    pipe = MaCDMPipeline(tiny_unet(), DDIMScheduler(**config), tiny_classifier())
    pipe.set_progress_bar_config(disable=True)
    for use in ("pairs", "masks to image", "image to masks", "anatomy to the rest"):
        latents, _ = final_latents(pipe, **arguments_of(use), class_labels=1)
        assert latents.isfinite().all(), use
    with pytest.raises(ValueError, match="starts at pure noise"):
        pipe(class_labels=1, guidance_scale=1.0)
    pipe = MaCDMPipeline(tiny_unet(), DDIMScheduler(**config | {"prediction_type": "epsilon"}))
    with pytest.raises(ValueError, match="starts at pure noise"):
        pipe(class_labels=1)


@each_scheduler
def test_swapping_in_memory_keeps_the_process(name):
    """`from_config` drops values that the first scheduler had by default; for the pipeline's they are trained ones."""
    pipe = MaCDMPipeline(tiny_unet(), DDPMScheduler(variance_type="learned_range"))
    betas = pipe.scheduler.betas
    for _ in range(2):  # there and back and there again
        swap(pipe, name)
        torch.testing.assert_close(pipe.scheduler.betas, betas)
        assert pipe.scheduler.config.timestep_spacing == "leading"
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        torch.testing.assert_close(pipe.scheduler.betas, betas)
        assert pipe.scheduler.config.clip_sample and pipe.scheduler.config.variance_type == "learned_range"


def test_uneven_steps_of_ddim_are_warned_of(log):
    pipe = swap(tiny_pipeline(), "DDIM")
    pipe(class_labels=1, num_inference_steps=4)
    assert not log.text
    pipe(class_labels=1, num_inference_steps=3)
    assert "num_inference_steps=3 does not divide 1000" in log.text


def test_eta_reaches_ddim():
    pipe = swap(tiny_pipeline(), "DDIM")
    results = [final_latents(pipe, class_labels=1, eta=eta, generator=generators(0)[0])[0] for eta in (0.0, 1.0)]
    assert not torch.allclose(*results)


def test_a_subclass_is_as_its_base():
    class OwnDDPMScheduler(DDPMScheduler):
        pass

    assert traits(OwnDDPMScheduler) == traits(DDPMScheduler()) and traits(OwnDDPMScheduler).takes_variance
    assert traits(EulerDiscreteScheduler) == Traits()


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler", None])
def test_set_scheduler_keeps_the_noise_schedule(name):
    pipe = tiny_pipeline()
    trained = pipe.scheduler
    set_scheduler(pipe, name)
    assert type(pipe.scheduler).__name__ == (name or "DDPMScheduler")
    torch.testing.assert_close(pipe.scheduler.alphas_cumprod, trained.alphas_cumprod)


@pytest.mark.parametrize(
    "name, message",
    [
        ("UNet2DModel", "scheduler='UNet2DModel' is no scheduler class of diffusers; for example DDPMScheduler"),
        (
            "LCMScheduler",
            "scheduler='LCMScheduler' cannot sample from this model: it needs a network distilled for consistency",
        ),
        ("FlowMatchEulerDiscreteScheduler", "scheduler='FlowMatchEulerDiscreteScheduler': .* variance-preserving"),
    ],
)
def test_set_scheduler_refuses(name, message):
    with pytest.raises(ValueError, match=message):
        set_scheduler(tiny_pipeline(), name)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDPMParallelScheduler"])
@pytest.mark.parametrize("steps", [3, 7])
def test_ddpm_goes_to_the_next_timestep_whatever_the_number_of_steps(name, steps, log):
    """The posterior mean between two levels of the schedule (DDPM eq. 7), recomputed; so there is nothing to warn of."""
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, variance_type="fixed_small")
    scheduler = pipe.scheduler
    pipe(class_labels=1, num_inference_steps=steps)
    assert not log.text
    scheduler.set_timesteps(steps)
    t, following = scheduler.timesteps[:2].tolist()
    abar, before = scheduler.alphas_cumprod[t].double(), scheduler.alphas_cumprod[following].double()
    x, clean = torch.full((1, 3, 2, 2), 0.3), torch.full((1, 3, 2, 2), 0.25)
    noise = (x - abar.sqrt() * clean) / (1 - abar).sqrt()
    many = [
        scheduler.step(noise.float(), torch.tensor(t), x, generator=torch.Generator().manual_seed(seed)).prev_sample
        for seed in range(2000)
    ]
    beta = 1 - abar / before
    mean = before.sqrt() * beta / (1 - abar) * clean + (abar / before).sqrt() * (1 - before) / (1 - abar) * x
    error = (beta * (1 - before) / (1 - abar)).sqrt() / (2000 * 12) ** 0.5
    assert abs(torch.stack(many).double().mean() - mean[0, 0, 0, 0]) < 5 * error


@pytest.mark.parametrize("sigmas", ["use_karras_sigmas", "use_exponential_sigmas"])
@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "DEISMultistepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
    ],
)
def test_other_spacings_of_the_levels_on_the_cosine_schedule(name, sigmas):
    """Its last levels lie so far apart that several sigmas fall on one timestep."""
    pipe = MaCDMPipeline(tiny_unet(out_channels=3), DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **{sigmas: True})
    for steps in (5, 20):
        latents, _ = final_latents(pipe, class_labels=1, num_inference_steps=steps)
        assert latents.isfinite().all()
    final_latents(pipe, **arguments_of("variation"), class_labels=1, num_inference_steps=20)


@pytest.mark.parametrize("name, fewest", [("PNDMScheduler", 4), ("KDPM2AncestralDiscreteScheduler", 3)])
def test_too_few_steps_for_a_scheduler(name, fewest):
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    for steps in range(1, fewest):
        message = rf"num_inference_steps={steps} is not allowed: a whole number from {fewest}, which {name} needs, to 1000"
        with pytest.raises(ValueError, match=message):
            pipe(class_labels=1, num_inference_steps=steps)
    for steps in (fewest, fewest + 1):
        assert final_latents(pipe, class_labels=1, num_inference_steps=steps)[0].isfinite().all()
