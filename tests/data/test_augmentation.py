import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import AffineTransform, rotate, warp

from diffusers_macdm.data.augmentation import AUGMENTATION_DIM, AUGMENTATION_PARAMETERS, PairAugmentation


SIZE = 64
OFF = {"rotation_degrees": 0, "translation": 0, "scale": 0, "brightness": 0, "contrast": 0, "gamma": 0}


def case(seed=0, size=SIZE):
    """A smooth radiograph, an off-centre bone and a lesion at its margin."""
    rng = np.random.default_rng(seed)
    y, x = (np.indices((size, size)) + 0.5) / size
    anatomy = (np.abs(x - 0.45) < 0.15 + 0.1 * y) & (y > 0.2) & (y < 0.8)
    lesion = anatomy & ((x - 0.33) ** 2 + (y - 0.6) ** 2 < 0.08**2)
    radiograph = ndimage.gaussian_filter(rng.random((size, size)), 3)
    radiograph = 0.2 + 0.6 * (radiograph - radiograph.min()) / np.ptp(radiograph)
    radiograph *= ndimage.gaussian_filter(((x > 0.1) & (x < 0.9) & (y > 0.1) & (y < 0.9)).astype(float), 1.5)
    sample = np.stack([radiograph, anatomy, lesion]) * 2 - 1
    return torch.from_numpy(sample.astype(np.float32))


def labels_of(**labels):
    return torch.tensor([float(labels.get(name, 0)) for name in AUGMENTATION_PARAMETERS])


def assert_masks_agree(mask, reference, pixels):
    """Equal but for a few pixels at the margin, where two interpolations may round differently."""
    assert ((mask > 0) != (reference > 0)).sum() <= pixels


def test_identity_is_exact_and_labelled_zero():
    for augmentation in (PairAugmentation(probability=0), PairAugmentation(**OFF)):
        sample, labels = augmentation(case(), seed=1)
        torch.testing.assert_close(sample, case(), rtol=0, atol=1e-6)
        assert labels.tolist() == [0] * AUGMENTATION_DIM


def test_call_is_draw_then_apply_and_depends_on_the_seed_alone():
    augmentation = PairAugmentation(probability=1)
    sample, labels = augmentation(case(), seed=7)
    torch.manual_seed(123)
    again, _ = augmentation(case(), seed=7)
    torch.testing.assert_close(again, sample, rtol=0, atol=0)
    torch.testing.assert_close(labels, augmentation.draw(7), rtol=0, atol=0)
    torch.testing.assert_close(sample, augmentation.apply(case(), labels), rtol=0, atol=0)
    assert not torch.equal(augmentation.draw(8), labels)


def test_draws_have_the_stated_distribution():
    labels = torch.stack([PairAugmentation(horizontal_flip=True, probability=0.3).draw(seed) for seed in range(4000)])
    assert labels.abs().max() <= 1
    applied = (labels != 0).float().mean(0)
    torch.testing.assert_close(applied, torch.tensor([0.15] + [0.3] * 7), rtol=0, atol=0.03)
    assert set(labels[:, 0].tolist()) == {0, 1}
    for column in labels[:, 1:].T:
        values = column[column != 0]
        assert values.mean().abs() < 0.07  # uniform on [-1, 1]: mean 0, standard deviation 1 / sqrt(3)
        assert values.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.05)


def test_flip_only_if_asked_for():
    never = torch.stack([PairAugmentation(probability=1).draw(seed) for seed in range(200)])
    assert (never[:, 0] == 0).all()
    flipped = PairAugmentation(horizontal_flip=True).apply(case(), labels_of(horizontal_flip=1))
    torch.testing.assert_close(flipped, case().flip(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("right, down", [(3, 0), (0, 5), (-4, 2), (-6, -6)])
def test_translation_by_whole_pixels_is_exact(right, down):
    augmentation = PairAugmentation(translation=8 / SIZE)
    moved = augmentation.apply(case(), labels_of(translation_x=right / 8, translation_y=down / 8))
    expected = torch.full_like(moved, -1)
    expected[:, max(down, 0) : SIZE + min(down, 0), max(right, 0) : SIZE + min(right, 0)] = case()[
        :, max(-down, 0) : SIZE + min(-down, 0), max(-right, 0) : SIZE + min(-right, 0)
    ]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("angle", [90, -90, 180])
def test_quarter_turns_are_exact(angle):
    turned = PairAugmentation(rotation_degrees=180).apply(case(), labels_of(rotation=angle / 180))
    torch.testing.assert_close(turned, torch.rot90(case(), angle // 90, (-2, -1)), rtol=0, atol=1e-4)


def test_a_source_of_more_pixels_keeps_the_film_sharp():
    """Grain at the target size survives a turn that is read from twice the size, and a third of it one that is not."""
    grain = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)) * 0.1
    source = torch.cat([grain[0], -torch.ones(2, 128, 128)])
    source[1:, 30:80, 40:90] = 1
    film = torch.nn.functional.avg_pool2d(source, 2)
    film[1:] = film[1:].sign()
    augmentation, labels = PairAugmentation(rotation_degrees=20, translation=0.1), labels_of(rotation=0.37, translation_x=0.33)
    inside = (slice(16, 48), slice(16, 48))
    sharp = augmentation.apply(film, labels, source)
    power = sharp[0][inside].std() / film[0][inside].std()
    assert abs(power - 1) < 0.1 and augmentation.apply(film, labels)[0][inside].std() / film[0][inside].std() < 0.9
    assert ((sharp[1] > 0) != (augmentation.apply(film, labels)[1] > 0)).sum() <= 30  # at the border alone
    # shifts by whole pixels are exact
    moved = augmentation.apply(film, labels_of(translation_x=10 / 6.4 / 2), source)
    torch.testing.assert_close(moved[:, :, 5:], film[:, :, :-5], rtol=0, atol=1e-4)


@pytest.mark.parametrize("angle", [-30, 10, 45])
def test_rotation_equals_skimage(angle):
    turned = PairAugmentation(rotation_degrees=60).apply(case(), labels_of(rotation=angle / 60)).numpy()
    unit = case().numpy() / 2 + 0.5
    np.testing.assert_allclose(turned[0] / 2 + 0.5, rotate(unit[0], angle, order=3), atol=0.02)
    for channel in (1, 2):
        assert_masks_agree(turned[channel], rotate(unit[channel], angle, order=1) - 0.5, pixels=2)


def test_all_affine_parameters_together_equal_skimage():
    """Flip, then rotation and zoom about the centre, then shift; skimage's angle is clockwise on the screen."""
    augmentation = PairAugmentation(horizontal_flip=True, rotation_degrees=20, translation=0.1, scale=0.25)
    labels = labels_of(horizontal_flip=1, rotation=0.6, translation_x=0.5, translation_y=-0.8, scale=-0.5)
    augmented = augmentation.apply(case(), labels).numpy()
    centre = (SIZE - 1) / 2
    forward = (
        AffineTransform(translation=(-centre, -centre))
        + AffineTransform(scale=(-1, 1))
        + AffineTransform(rotation=-math.radians(12))
        + AffineTransform(scale=1.25**-0.5)
        + AffineTransform(translation=(centre + 0.05 * SIZE, centre - 0.08 * SIZE))
    )
    unit = case().numpy() / 2 + 0.5
    np.testing.assert_allclose(augmented[0] / 2 + 0.5, warp(unit[0], forward.inverse, order=3), atol=0.02)
    for channel in (1, 2):
        assert_masks_agree(augmented[channel], warp(unit[channel], forward.inverse, order=1) - 0.5, pixels=2)


@pytest.mark.parametrize("label, factor", [(1, 1.2), (-1, 1 / 1.2), (0.5, 1.2**0.5)])
def test_scale_is_the_zoom(label, factor):
    zoomed = PairAugmentation(scale=0.2).apply(case(size=128), labels_of(scale=label))
    area, before = (zoomed[1] > 0).sum().item(), (case(size=128)[1] > 0).sum().item()
    assert area / before == pytest.approx(factor**2, rel=0.02)


@pytest.mark.parametrize(
    "name, limit, formula",
    [
        ("brightness", 0.2, lambda x, label: x + 0.2 * label),
        ("contrast", 0.5, lambda x, label: (x - 0.5) * 1.5**label + 0.5),
        ("gamma", 0.5, lambda x, label: x ** (1.5**label)),
    ],
)
def test_intensity_changes_the_radiograph_alone(name, limit, formula):
    augmentation = PairAugmentation(**{**OFF, name: limit})
    for label in (-1, 0.4, 1):
        augmented = augmentation.apply(case(), labels_of(**{name: label}))
        unit = case()[0].double() / 2 + 0.5
        expected = formula(unit, label).clamp(0, 1) * 2 - 1
        torch.testing.assert_close(augmented[0].double(), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(augmented[1:], case()[1:], rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(20))
def test_ranges_binary_masks_and_lesion_inside_the_anatomy(seed):
    augmentation = PairAugmentation(True, 45, 0.2, 0.4, 0.3, 0.5, 0.5, probability=1)
    sample, labels = augmentation(case(seed), seed)
    assert sample.shape == (3, SIZE, SIZE) and sample.dtype == labels.dtype == torch.float32
    assert -1 <= sample.min() and sample.max() <= 1
    assert set(sample[1:].unique().tolist()) == {-1, 1}
    assert (sample[2] > 0).any() and not ((sample[2] > 0) & (sample[1] <= 0)).any()


def test_image_and_masks_stay_aligned():
    """A radiograph that shows its own anatomy mask still shows it afterwards."""
    sample = case()
    sample[0] = sample[1]
    for seed in range(10):
        augmented, labels = PairAugmentation(rotation_degrees=40, translation=0.2, scale=0.3, probability=1)(sample, seed)
        assert_masks_agree(augmented[0], augmented[1], pixels=25)  # bicubic beside bilinear, and contrast about grey


def test_a_vanishing_lesion_drops_the_affine_but_not_the_intensity():
    augmentation = PairAugmentation(translation=0.9, probability=1)
    sample = torch.full((3, SIZE, SIZE), -1.0)
    sample[0, :6, :6] = 0.5
    sample[1, :6, :6] = 1
    sample[2, 0, 0] = 1
    dropped = 0
    for seed in range(30):
        augmented, labels = augmentation(sample, seed)
        assert (augmented[2] > 0).any()
        if not labels[:5].any():
            dropped += 1
            torch.testing.assert_close(augmented[1:], sample[1:], rtol=0, atol=0)
            assert labels[5:].all() and not torch.equal(augmented[0], sample[0])
    assert dropped > 10
    normal = sample.clone()
    normal[2] = -1
    assert all(augmentation(normal, seed)[1][:5].any() for seed in range(30))


@pytest.mark.parametrize(
    "arguments",
    [{"rotation_degrees": -1}, {"translation": 1.0}, {"scale": float("nan")}, {"probability": 1.5}, {"gamma": -0.1}],
)
def test_limits_are_checked(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value} is not allowed"):
        PairAugmentation(**arguments)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 8, 8), (3, 8, 9)])
def test_shape_is_checked(shape):
    with pytest.raises(ValueError, match="shape \\[3, S, S\\]"):
        PairAugmentation()(torch.zeros(shape), 0)
