"""Inputs of the pipeline: labels, generators, numbers of samples, images, and refused ones."""

import numpy as np
import pytest
import torch
from known_pipelines import SIZE, arguments_of, generators, real_case, swap
from PIL import Image
from tiny_models import tiny_classifier, tiny_pipeline, tiny_unet


@pytest.mark.parametrize(
    "labels, expected",
    [
        (1, [1]),
        (None, [None]),
        (2, [None]),
        ([0, None, 1], [0, None, 1]),
        ((1, 0), [1, 0]),
        (range(2), [0, 1]),
        (np.int64(1), [1]),
        ([np.int32(0), np.uint8(1)], [0, 1]),
        (np.array([1, 0]), [1, 0]),
        (torch.tensor([0, 1]), [0, 1]),
        (torch.tensor(1), [1]),
        ([torch.tensor(1), torch.tensor(0)], [1, 0]),
        (True, [1]),
    ],
)
def test_labels(labels, expected):
    assert tiny_pipeline()(labels, num_inference_steps=1).class_labels == expected


@pytest.mark.parametrize("labels", [3, -1, [0, 7], 0.5, "1", ["0"], [], float("nan"), torch.tensor([0.0, 1.0]), [[0, 1]]])
def test_refused_labels(labels):
    with pytest.raises(ValueError, match="is not allowed: whole numbers from 0 to 1, or 2"):
        tiny_pipeline()(labels, num_inference_steps=1)


def test_model_without_classes():
    pipe = tiny_pipeline(num_class_embeds=None)
    assert pipe(num_inference_steps=1).class_labels == [None]
    with pytest.raises(ValueError, match=r"class_labels=\[1\] were given to a model that was trained without classes"):
        pipe(1, num_inference_steps=1)


def test_everything_there_is_once_is_used_for_all():
    pipe = tiny_pipeline()
    output = pipe(1, **arguments_of("masks to image"), generator=generators(0, 1, 2), num_inference_steps=2, output_type="pt")
    assert output.images.shape[0] == 3 and output.class_labels == [1, 1, 1]
    assert not torch.equal(output.images[0], output.images[1])
    output.images.zero_()  # the user's own


def test_given_radiographs_are_not_aliased():
    image = real_case()["image"]
    output = tiny_pipeline()(1, image=image, num_inference_steps=1, output_type="pt")
    output.images.zero_()
    assert torch.equal(image, real_case()["image"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"class_labels": [0, 1], "generator": 3}, "class_labels 2, generator 3. Each must be 1 or 3"),
        ({"class_labels": [0, 1], "generator": 1}, "generator 1. .* a list of generators exactly 2"),
        ({"class_labels": [0, 1], "image": torch.zeros(3, SIZE, SIZE)}, "class_labels 2, radiograph 3"),
        ({"class_labels": [0, 1, 1], "latents": torch.zeros(2, 3, SIZE, SIZE)}, "class_labels 3, latents 2"),
    ],
)
def test_numbers_of_samples_must_agree(arguments, message):
    if "generator" in arguments:
        arguments = {**arguments, "generator": generators(*range(arguments["generator"]))}
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(**arguments, num_inference_steps=1)


def test_latents_are_the_generators_noise():
    pipe = swap(tiny_pipeline(), "Euler")
    noise = torch.randn(2, 3, SIZE, SIZE, generator=generators(0)[0])
    drawn = pipe([0, 1], generator=generators(0)[0], num_inference_steps=3, output_type="pt")
    given = pipe([0, 1], latents=noise, num_inference_steps=3, output_type="pt")
    assert torch.equal(drawn.images, given.images)
    with pytest.raises(ValueError, match=r"latents has shape \(2, 3, 8, 8\); this call needs \(2, 3, 16, 16\)"):
        pipe([0, 1], latents=torch.zeros(2, 3, 8, 8))


def test_pil_images_of_16_bits_and_of_another_size():
    pipe = tiny_pipeline()
    values = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE)).astype(np.uint16)
    output = pipe(1, image=Image.fromarray(values), num_inference_steps=1, output_type="np")
    np.testing.assert_array_equal(output.images[0, ..., 0], values.astype(np.float32) / np.float32(65535))
    large = Image.fromarray(np.full((40, 40), 51, np.uint8))
    output = pipe(1, image=large, num_inference_steps=1)
    np.testing.assert_array_equal(np.asarray(output.images[0]), np.full((SIZE, SIZE), 51))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strength": 0.0}, r"strength=0.0 is not allowed: .* in \(0, 1\]"),
        ({"strength": 1.5}, "strength=1.5 is not allowed"),
        ({"strength": float("nan")}, "strength=nan is not allowed"),
        ({"strength": 0.5}, "strength=0.5 starts from a real case .* given: none"),
        ({"strength": 0.5, "image": real_case()["image"]}, "needs image, anatomy_mask and lesion_mask; given: radiograph"),
        (real_case(), "all given: nothing to generate without strength"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is not allowed: a whole number from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001 is not allowed"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 is not allowed"),
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0 is not allowed: 0 is off"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan is not allowed"),
        ({"guidance_interval": (0.5, 0.2)}, r"guidance_interval=\(0.5, 0.2\) is not allowed"),
        ({"guidance_interval": (0.1, 0.2, 0.3)}, r"guidance_interval=\(0.1, 0.2, 0.3\) is not allowed"),
        ({"guidance_interval": (0.0, 999)}, r"guidance_interval=\(0.0, 999\) is not allowed"),
        ({"autoguidance_scale": 2.0}, "autoguidance_scale=2.0 needs a weak_unet"),
        ({"guidance_scale": 1.0, "class_labels": None}, "guidance_scale=1.0 steers towards a label: give class_labels"),
        ({"classifier_free_guidance_scale": 2.0, "class_labels": None}, "classifier_free_guidance_scale=2.0 steers"),
        ({"output_type": "jpg"}, "output_type='jpg' is not known; allowed are pil, np, pt"),
        (
            {"callback_on_step_end_tensor_inputs": ["latents", "eps"]},
            r"has \['eps'\]; allowed are \['latents', 'class_labels'\]",
        ),
        ({"image": torch.zeros(8, 8)}, r"image has shape \(8, 8\)"),
        ({"anatomy_mask": "mask.png"}, "anatomy_mask is a str"),
    ],
)
def test_refused_inputs(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(**{"class_labels": 1, **arguments})


def test_whole_numbers_of_numpy():
    assert tiny_pipeline()(1, num_inference_steps=np.int64(2)).class_labels == [1]


def test_model_without_a_timestep_for_the_masks():
    pipe = tiny_pipeline(mask_timestep=False, with_classifier=False)
    for use in ("image to masks", "masks to image", "image and lesion to anatomy"):
        with pytest.raises(ValueError, match=r"without a timestep for the masks \(mask_timestep=False\) and cannot keep"):
            pipe(1, **arguments_of(use))
    for use in ("pairs", "variation", "anatomy to the rest"):
        pipe(1, **arguments_of(use), num_inference_steps=2)


def test_components_that_do_not_fit():
    pipe = tiny_pipeline(channel_weights=(1.0, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"guidance_classifier was trained with \(\(1.0, 1.0, 1.0\), 'input'\) and the unet"):
        pipe(1, guidance_scale=1.0)
    pipe = tiny_pipeline()
    pipe.guidance_classifier = tiny_classifier(num_classes=3)
    with pytest.raises(ValueError, match="guidance_classifier knows 3 classes and the unet 2"):
        pipe(1, guidance_scale=1.0)
    pipe.weak_unet = tiny_unet(channel_weights=(1.0, 0.5, 0.5), mask_weighting="signal")
    with pytest.raises(ValueError, match="weak_unet was trained with .* their noisy samples are not the same"):
        pipe(1, autoguidance_scale=2.0)
