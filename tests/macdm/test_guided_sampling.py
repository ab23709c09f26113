"""Guidance in the pipeline: steps done by hand, the interval, the null label."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
)
from known_pipelines import (
    SIZE,
    assert_close_to_its_size,
    each_scheduler,
    final_latents,
    first_step,
    generators,
    swap,
    unclipped,
)
from PIL import Image
from tiny_models import tiny_pipeline

from diffusers_macdm.macdm.forward_process import noise_of


def test_another_prediction_type_is_refused():
    pipe = tiny_pipeline()
    pipe.scheduler = DDIMScheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="prediction_type='v_prediction', the denoiser was trained with 'epsilon'"):
        pipe(class_labels=1)


def test_guidance_works_in_inference_mode():
    arguments = {"class_labels": [0, 1], "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}
    pipe = tiny_pipeline()
    usual = pipe(**arguments, generator=generators(1, 2))
    with torch.inference_mode():
        output = pipe(**arguments, generator=generators(1, 2))
    torch.testing.assert_close(output.images, usual.images)


def test_images_of_different_sizes_are_refused():
    images = [Image.new("L", size) for size in ((16, 16), (32, 24), (16, 16))]
    with pytest.raises(ValueError, match="lesion_mask has 32x24 pixels|anatomy_mask has 32x24 pixels"):
        tiny_pipeline()(
            class_labels=1, **dict(zip(("image", "anatomy_mask", "lesion_mask"), images, strict=True)), strength=0.5
        )


@pytest.mark.parametrize("kind", ["classifier", "classifier-free", "autoguidance", "all"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_one_step_by_hand(kind, prediction_type):
    pipe = unclipped(prediction_type)
    x = torch.randn(2, 3, SIZE, SIZE, generator=generators(4)[0])
    labels, null = torch.tensor([0, 1]), torch.tensor([2, 2])
    t, abar = 999, float(pipe.scheduler.alphas_cumprod[999])
    scales = {"classifier": (3.0, 1.0, 1.0), "classifier-free": (0.0, 2.5, 1.0), "autoguidance": (0.0, 1.0, 1.7)}
    g, s, w = scales.get(kind, (3.0, 2.5, 1.7))

    def eps_of(unet, y):
        return noise_of(unet(x, t, y).sample[:, :3], x, abar, prediction_type)

    eps, eps_null, eps_weak = eps_of(pipe.unet, labels), eps_of(pipe.unet, null), eps_of(pipe.weak_unet, labels)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        log_p = pipe.guidance_classifier(leaf, t).logits.log_softmax(dim=1)
        gradient = torch.autograd.grad(log_p[0, 0] + log_p[1, 1], leaf)[0]
    guided = eps + (s - 1) * (eps - eps_null) + (w - 1) * (eps - eps_weak) - (1 - abar) ** 0.5 * g * gradient
    clean = (x - (1 - abar) ** 0.5 * guided) / abar**0.5
    abar_next = float(pipe.scheduler.alphas_cumprod[749])
    expected = abar_next**0.5 * clean + (1 - abar_next) ** 0.5 * guided  # DDIM eq. 12
    scales = {"guidance_scale": g, "classifier_free_guidance_scale": s, "autoguidance_scale": w}
    found = first_step(pipe, class_labels=[0, 1], latents=x, **scales)
    assert_close_to_its_size(found, expected, 1e-3)
    assert not torch.allclose(found, first_step(pipe, class_labels=[0, 1], latents=x), atol=1e-2)


@each_scheduler
def test_guidance_interval(name):
    """Classifier and null label are asked at the noise levels inside, borders included, and nowhere else."""
    pipe = swap(tiny_pipeline(), name)
    asked = []
    pipe.guidance_classifier.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(float(kwargs["timestep"])), with_kwargs=True
    )
    arguments = {"class_labels": 1, "guidance_scale": 1.0, "num_inference_steps": 10, "generator": generators(0)[0]}
    pipe(**arguments, guidance_interval=(0.3, 0.7))
    assert asked == [t for t in pipe.scheduler.timesteps.tolist() if 0.3 <= t / 999 <= 0.7] != []
    asked.clear()
    nowhere = pipe(**arguments | {"generator": generators(0)[0]}, guidance_interval=(0.31, 0.31), output_type="np")
    assert not asked
    off = pipe(**arguments | {"generator": generators(0)[0], "guidance_scale": 0}, output_type="np")
    np.testing.assert_array_equal(nowhere.images, off.images)


def test_guidance_towards_the_null_label_does_nothing():
    pipe = tiny_pipeline()
    settings = {"class_labels": [None, 2, 1]}
    free, _ = final_latents(pipe, **settings, generator=generators(1, 2, 3))
    guided, output = final_latents(
        pipe, **settings, generator=generators(1, 2, 3), guidance_scale=9.0, classifier_free_guidance_scale=3.0
    )
    assert_close_to_its_size(guided[:2], free[:2])
    assert not torch.allclose(guided[2], free[2], rtol=0.01)
    assert output.class_labels == [None, None, 1]


def test_guidance_raises_the_probability_of_its_label():
    """On average, after the first step: the gradient is that of the noisier sample before it."""
    pipe = unclipped()
    x = torch.randn(4, 3, SIZE, SIZE, generator=generators(4)[0])
    probabilities = []
    for scale in (0.0, 0.05):
        latents = first_step(pipe, class_labels=1, latents=x, guidance_scale=scale)
        probabilities.append(pipe.guidance_classifier(latents, 749).logits.log_softmax(dim=1)[:, 1].detach())
    assert probabilities[1].mean() > probabilities[0].mean() + 1e-3
