"""What the pipeline takes and gives: types, shapes, ranges, and the sentences that refuse the rest."""

import numpy as np
import pytest
import torch
from image_files import joint_sample_of
from PIL import Image

from diffusers_macdm.macdm.image_processor import masks_from, radiographs_from, to_output
from diffusers_macdm.macdm.joint_sample import split


SIZE = 16


def values(seed=0, shape=(SIZE, SIZE)):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def mask_values(seed=0, shape=(SIZE, SIZE)):
    return np.random.default_rng(seed).random(shape) < 0.4


def radiograph(value):
    return radiographs_from(value, "image", SIZE)


def mask(value, keep_small=True):
    return masks_from(value, "lesion_mask", SIZE, keep_small)


FORMS = {
    "array [H, W]": lambda a: a,
    "array [1, H, W]": lambda a: a[None],
    "array [1, H, W, 1]": lambda a: a[None, ..., None],
    "tensor [H, W]": lambda a: torch.from_numpy(a),
    "tensor [1, H, W]": lambda a: torch.from_numpy(a)[None],
    "tensor [1, 1, H, W]": lambda a: torch.from_numpy(a)[None, None],
    "list": lambda a: [a],
    "tuple of tensors": lambda a: (torch.from_numpy(a),),
    "transposed view": lambda a: np.ascontiguousarray(a.T).T,
    "tensor with gradient": lambda a: torch.from_numpy(a).requires_grad_() if a.dtype == np.float32 else torch.from_numpy(a),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_says_the_same(form):
    image = radiograph(form(values()))
    assert image.dtype == torch.float32 and not image.requires_grad
    np.testing.assert_array_equal(image, values()[None, None])
    found = mask(form(mask_values()))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, mask_values()[None, None])


@pytest.mark.parametrize(
    "form", [lambda a: a, lambda a: a[..., None], torch.from_numpy, lambda a: torch.from_numpy(a)[:, None], list]
)
def test_batches(form):
    batch = values(shape=(3, SIZE, SIZE))
    np.testing.assert_array_equal(radiograph(form(batch)), batch[:, None])


def test_mixed_list():
    a, b, c = values(0), values(1), (values(2) * 255).astype(np.uint8)
    images = radiograph([a, torch.from_numpy(b)[None], Image.fromarray(c)])
    np.testing.assert_array_equal(images[:, 0], np.stack([a, b, c.astype(np.float32) / np.float32(255)]))


@pytest.mark.parametrize("dtype, maximum", [(np.uint8, 255), (np.uint16, 65535)])
def test_whole_numbers_are_full_range(dtype, maximum):
    array = np.random.default_rng(0).integers(0, maximum + 1, (SIZE, SIZE)).astype(dtype)
    array[0, :2] = 0, maximum
    expected = array.astype(np.float32) / np.float32(maximum)
    for value in (array, torch.from_numpy(array), Image.fromarray(array)):
        image = radiograph(value)
        np.testing.assert_allclose(image[0, 0], expected, rtol=0, atol=1e-7)
        assert image.min() == 0 and image.max() == 1


def test_float_types():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        image = radiograph(torch.from_numpy(values()).to(dtype))
        assert image.dtype == torch.float32


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int64, np.float32])
def test_any_non_zero_value_is_inside(dtype):
    array = np.zeros((SIZE, SIZE), dtype)
    array[3:5, 3:5] = 1
    np.testing.assert_array_equal(mask(array)[0, 0], array != 0)


def test_pil_images_are_resampled_as_in_training():
    """Of another size and not square, 16-bit: exactly what the data set gives the training."""
    generator = np.random.default_rng(0)
    image = Image.fromarray((generator.random((50, 40)) * 65535).astype(np.uint16))
    anatomy = np.zeros((50, 40), np.uint8)
    anatomy[5:45, 10:30] = 255
    anatomy[2, 2] = 255  # a speck of anatomy may vanish
    lesion = np.zeros((50, 40), np.uint8)
    lesion[20, 20] = 255  # a lesion of one pixel may not
    anatomy, lesion = Image.fromarray(anatomy), Image.fromarray(lesion)
    expected = split(joint_sample_of(image, anatomy, lesion, SIZE))
    np.testing.assert_allclose(radiograph(image)[0, 0], expected[0], rtol=0, atol=1e-6)
    found = mask(anatomy, keep_small=False)
    np.testing.assert_array_equal(found[0, 0], expected[1])
    assert found[0, 0, 0, 0] == 0
    found = mask(lesion)
    np.testing.assert_array_equal(found[0, 0], expected[2])
    assert found.sum() >= 1


def test_the_input_is_not_written_to():
    tensor = torch.from_numpy(values())
    copy = tensor.clone()
    radiograph(tensor).zero_()
    assert torch.equal(tensor, copy)


@pytest.mark.parametrize(
    "value, message",
    [
        (np.zeros((8, 8), np.float32), r"image has shape \(8, 8\); this model takes single-channel images of 16x16"),
        (np.zeros((SIZE, SIZE, 3), np.float32), r"image has shape \(16, 16, 3\)"),
        (torch.zeros(2, 3, SIZE, SIZE), r"image has shape \(2, 3, 16, 16\)"),
        (torch.zeros(0, SIZE, SIZE), r"image has shape \(0, 16, 16\)"),
        (torch.zeros(()), r"image has shape \(\)"),
        (np.full((SIZE, SIZE), 1.5, np.float32), r"image has values from 1\.5 to 1\.5; .* must be in \[0, 1\]"),
        (np.full((SIZE, SIZE), -1.0, np.float32), r"image has values from -1 to -1"),
        (torch.full((SIZE, SIZE), float("nan")), r"image has values from nan to nan"),
        (torch.zeros(SIZE, SIZE, dtype=torch.int64), "image has dtype torch.int64; allowed are"),
        ("a.png", "image is a str; allowed are PIL images, arrays, tensors and lists of them"),
        ([[values()]], "image is a list; allowed are"),
        ([], "image is an empty list"),
        (Image.new("RGB", (SIZE, SIZE)), "mode 'RGB'"),
    ],
)
def test_refused_radiographs(value, message):
    with pytest.raises(ValueError, match=message):
        radiograph(value)


@pytest.mark.parametrize(
    "value, message",
    [
        (np.zeros((8, 8)), r"lesion_mask has shape \(8, 8\)"),
        ({"mask": 1}, "lesion_mask is a dict"),
        ((), "lesion_mask is an empty list"),
        (Image.new("P", (SIZE, SIZE)), "mode 'P'"),
    ],
)
def test_refused_masks(value, message):
    with pytest.raises(ValueError, match=message):
        mask(value)


def test_output_types():
    images = torch.from_numpy(values(shape=(2, 1, SIZE, SIZE)))
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    assert to_output(images, "pt") is images
    array = to_output(images, "np")
    np.testing.assert_array_equal(array, images.permute(0, 2, 3, 1))
    pil = to_output(images, "pil")
    assert [(image.mode, image.size) for image in pil] == [("L", (SIZE, SIZE))] * 2
    assert pil[0].getpixel((0, 0)) == 0 and pil[0].getpixel((1, 0)) == 255
    np.testing.assert_array_equal(np.asarray(pil[1]), np.rint(values(shape=(2, 1, SIZE, SIZE))[1, 0] * 255))


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_what_comes_out_can_go_in_again(output_type):
    bits = np.random.default_rng(0).integers(0, 256, (2, 1, SIZE, SIZE)).astype(np.uint8)
    images = torch.from_numpy(bits.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(radiograph(to_output(images, output_type)), images, rtol=0, atol=1e-7)
    masks = torch.from_numpy(mask_values(shape=(2, 1, SIZE, SIZE))).float()
    assert torch.equal(mask(to_output(masks, output_type)), masks)
