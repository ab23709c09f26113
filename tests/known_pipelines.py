"""Pipelines whose answer is known, real cases and calls for the tests of the sampler."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ModelMixin,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import register_to_config
from tiny_models import tiny_classifier, tiny_scheduler, tiny_unet

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.macdm.forward_process import prediction_of


SCHEDULERS = {
    "DDPM": (DDPMScheduler, {}),
    "DDIM": (DDIMScheduler, {}),
    "DPM-Solver++ (2M)": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "UniPC": (UniPCMultistepScheduler, {}),
    "Euler": (EulerDiscreteScheduler, {}),
    "Heun": (HeunDiscreteScheduler, {}),
    "DEIS": (DEISMultistepScheduler, {}),
}
each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
SIZE = 16
STEPS = 4  # divides 1000
SETTINGS = {"class_labels": [0, 1], "num_inference_steps": 3}  # of a short call


def swap(pipe, name):
    cls, config = SCHEDULERS[name]
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **config)
    return pipe


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def real_case(batch_size=1):
    """8-bit radiographs and masks with the lesion inside the anatomy, as tensors `[B, 1, H, W]`."""
    generator = torch.Generator().manual_seed(7)
    image = torch.randint(256, (batch_size, 1, SIZE, SIZE), generator=generator) / 255
    anatomy = torch.zeros(batch_size, 1, SIZE, SIZE)
    anatomy[..., 4:12] = 1
    lesion = torch.zeros_like(anatomy)
    lesion[..., 6:9, 9:12] = 1
    return {"image": image, "anatomy_mask": anatomy, "lesion_mask": lesion}


USES = {
    "pairs": [],
    "variation": ["image", "anatomy_mask", "lesion_mask"],
    "masks to image": ["anatomy_mask", "lesion_mask"],
    "image to masks": ["image"],
    "anatomy to the rest": ["anatomy_mask"],
    "image and lesion to anatomy": ["image", "lesion_mask"],
}


def arguments_of(use, batch_size=1):
    given = {name: value for name, value in real_case(batch_size).items() if name in USES[use]}
    return given | ({"strength": 0.6} if use == "variation" else {})


def final_latents(pipe, **arguments):
    """Latents after the last step, before anything is clipped or thresholded."""
    kept = {}

    def keep(pipe, step, timestep, tensors):
        kept.update(tensors)
        return {}

    output = pipe(**{"num_inference_steps": STEPS, "output_type": "pt", **arguments}, callback_on_step_end=keep)
    return kept["latents"], output


class KnowingUNet(ModelMixin, ConfigMixin):
    """The denoiser that knows the clean joint sample, records what it is fed, and says `v` for its variance."""

    @register_to_config
    def __init__(
        self,
        sample_size=SIZE,
        out_channels=6,
        num_class_embeds=3,
        channel_weights=(1.0, 1.0, 1.0),
        mask_weighting="input",
        mask_timestep=True,
        prediction_type="epsilon",
        v=0.0,
    ):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # gives the module a dtype and a device
        self.learned_variance = out_channels == 6
        self.num_classes = self.null_class_label = num_class_embeds - 1
        generator = torch.Generator().manual_seed(3)
        clean = torch.rand(1, 3, SIZE, SIZE, generator=generator) * 1.8 - 0.9
        clean[:, 1:] = clean[:, 1:].sign()
        self.clean = clean
        weights = torch.tensor(channel_weights if mask_weighting == "signal" else (1.0, 1.0, 1.0))
        self.signal = clean * weights[:, None, None]
        self.log_sigmas = None
        self.fed = []

    def forward(self, sample, timestep, class_labels, mask_timestep=None):
        self.fed.append(
            SimpleNamespace(sample=sample.clone(), timestep=timestep, mask_timestep=mask_timestep, labels=class_labels)
        )
        t = float(timestep if float(timestep) > 0 or mask_timestep is None else mask_timestep)
        abar = abar_at(t)
        noise = (sample - abar**0.5 * self.signal) / (1 - abar) ** 0.5
        prediction = prediction_of(noise, sample, abar, self.config.prediction_type)
        if self.learned_variance:
            prediction = torch.cat([prediction, torch.full_like(prediction, self.config.v)], dim=1)
        return SimpleNamespace(sample=prediction)


def abar_at(timestep):
    """Of the default process: linear betas; between timesteps log sigma is interpolated."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    log_sigma = np.interp(timestep, np.arange(1000), 0.5 * np.log((1 - abar) / abar))
    return float(1 / (1 + np.exp(2 * log_sigma)))


def knowing_pipeline(name="DDIM", scheduler=None, **config):
    weights = config.get("channel_weights", (1.0,)) if config.get("mask_weighting") == "signal" else (1.0,)
    scheduler = {
        "prediction_type": config.get("prediction_type", "epsilon"),
        "clip_sample_range": max(weights),
        **(scheduler or {}),
    }
    pipe = MaCDMPipeline(KnowingUNet(**config), tiny_scheduler(**scheduler))
    pipe.set_progress_bar_config(disable=True)
    return swap(pipe, name) if name != "DDPM" else pipe


def assert_close_to_its_size(found, expected, tolerance=1e-4):
    """Random networks make large samples: the tolerance is that of their size."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


def first_step(pipe, **arguments):
    """Latents after one step of four."""

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = True
        caught.append(tensors["latents"])
        return {}

    caught = []
    pipe(**{"num_inference_steps": STEPS, "output_type": "pt", **arguments}, callback_on_step_end=stop)
    return caught[0]


def unclipped(prediction_type="epsilon"):
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", prediction_type=prediction_type)
    pipe = MaCDMPipeline(tiny_unet(), scheduler, tiny_classifier(), tiny_unet(seed=9))
    pipe.set_progress_bar_config(disable=True)
    return pipe
