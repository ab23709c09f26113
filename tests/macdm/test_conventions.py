"""Conventions of diffusers that its own test mixins look at, and what stands in for a sample that is none."""

import pytest
import torch
from diffusers import UNet2DModel
from known_pipelines import STEPS, USES, arguments_of, final_latents, generators
from tiny_models import TINY_UNET, tiny_classifier, tiny_pipeline, tiny_scheduler, tiny_unet

from diffusers_macdm import MaCDMPipeline


def test_classifier_puts_out_an_output_or_a_tuple():
    classifier, sample = tiny_classifier(), torch.randn(2, 3, 16, 16, generator=generators(0)[0])
    output = classifier(sample, 300)
    (logits,) = classifier(sample, 300, return_dict=False)
    assert torch.equal(output.logits, logits) and torch.equal(output[0], logits) and logits.shape == (2, 2)


def test_guidance_scale_is_a_property_that_a_callback_changes():
    """Guidance that a callback switches off after the second step acts in the first two alone, and so the other way round."""
    noise = torch.randn(1, 3, 16, 16, generator=generators(3)[0])
    after = {}

    def sampled(name, scale, changes):
        pipe = tiny_pipeline()

        def change(pipe, step, timestep, tensors):
            after.setdefault(name, []).append(tensors["latents"])
            if step in changes:
                pipe._guidance_scale = changes[step]
            return {}

        arguments = {"num_inference_steps": STEPS, "class_labels": 1, "latents": noise, "generator": generators(0)[0]}
        pipe(**arguments, guidance_scale=scale, callback_on_step_end=change)
        return pipe.guidance_scale

    assert sampled("on", 2.0, {}) == 2.0
    assert sampled("off", 0.0, {}) == 0.0
    assert sampled("first", 2.0, {1: 0.0}) == 0.0
    assert sampled("last", 0.0, {1: 2.0}) == 2.0
    equal = {name: [torch.equal(*pair) for pair in zip(after[name], after["on"], strict=True)] for name in ("first", "off")}
    assert equal == {"first": [True, True, False, False], "off": [False] * 4}
    assert [torch.equal(*pair) for pair in zip(after["last"], after["off"], strict=True)] == [True, True, False, False]


def test_guidance_that_a_callback_switches_on_needs_a_classifier():
    def switch_on(pipe, step, timestep, tensors):
        pipe._guidance_scale = 1.0
        return {}

    with pytest.raises(ValueError, match="guidance_scale=1.0 needs a guidance_classifier"):
        tiny_pipeline(with_classifier=False)(class_labels=1, num_inference_steps=2, callback_on_step_end=switch_on)


@pytest.mark.parametrize("use", USES)
def test_latents_are_the_channels_as_they_are_sampled(use):
    pipe = tiny_pipeline()
    given = arguments_of(use, batch_size=2)
    arguments = {**given, "class_labels": [0, 1], "generator": generators(1, 2)}
    latents, output = final_latents(pipe, **arguments, output_type="latent")
    assert output.class_labels == [0, 1]
    fields = {"image": output.images, "anatomy_mask": output.anatomy_masks, "lesion_mask": output.lesion_masks}
    for channel, (name, found) in enumerate(fields.items()):
        kept = name in given and "strength" not in given
        torch.testing.assert_close(found, given[name] * 2 - 1 if kept else latents[:, channel : channel + 1])


def test_what_a_callback_makes_of_the_last_latents_is_put_out():
    def zeros(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    output = tiny_pipeline()(
        class_labels=1, num_inference_steps=2, callback_on_step_end=zeros, output_type="latent", return_dict=False
    )
    assert all(field.abs().sum() == 0 for field in output[:3])


def test_a_plain_unet_is_refused():
    plain = UNet2DModel(**TINY_UNET, in_channels=3, out_channels=3)
    message = "unet is a UNet2DModel, which has no masks and no class labels; a MaCDMUNet2DModel is needed .*--pretrained_unet"
    with pytest.raises(ValueError, match=message):
        MaCDMPipeline(plain, tiny_scheduler())
    pipe = tiny_pipeline()
    pipe.unet = plain
    with pytest.raises(ValueError, match=message):
        pipe(class_labels=1)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_no_output(value, output_type):
    pipe = MaCDMPipeline(tiny_unet(), tiny_scheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pipe.unet.conv_out.bias[2] = value
    with pytest.raises(ValueError, match=r"The samples of \w+ in \d+ steps of torch.float32 are not finite"):
        pipe(class_labels=1, num_inference_steps=2, output_type=output_type)
