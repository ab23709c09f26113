import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from diffusers_macdm.audit import images
from diffusers_macdm.audit.images import SIZE, affine_grid, gaussian_blur, in_blocks, to_audit_size, to_unit


def moved(image, flip=1.0, rotation=0.0, log_scale=0.0, shift=(0.0, 0.0)):
    """One image `[n, n]` through `affine_grid`."""
    arguments = (torch.tensor([value], dtype=torch.float32) for value in (flip, rotation, log_scale, shift))
    image = torch.as_tensor(image, dtype=torch.float32)
    return F.grid_sample(image[None, None], affine_grid(*arguments, len(image)), align_corners=False)[0, 0].numpy()


@pytest.fixture(scope="module")
def random_image():
    return np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32)


# --- affine_grid


def test_shift_moves_to_the_right_and_downwards(random_image):
    expected = np.zeros_like(random_image)
    expected[5:, 3:] = random_image[:-5, :-3]
    np.testing.assert_allclose(moved(random_image, shift=(2 * 3 / SIZE, 2 * 5 / SIZE)), expected, atol=1e-5)


def test_flip_is_numpys(random_image):
    np.testing.assert_allclose(moved(random_image, flip=-1.0), random_image[:, ::-1], atol=1e-5)


def test_positive_rotation_is_clockwise(random_image):
    """x to the right, y downwards: what was on the right comes to lie at the bottom."""
    np.testing.assert_allclose(moved(random_image, rotation=np.pi / 2), np.rot90(random_image, -1), atol=1e-5)


def test_scale_magnifies_about_the_centre():
    x = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    ramp = 0.3 * x[None, :] - 0.2 * x[:, None] + 1.0  # linear interpolation repeats it exactly
    np.testing.assert_allclose(moved(ramp, log_scale=np.log(2)), (ramp - 1) / 2 + 1, atol=1e-5)


def test_grid_is_the_inverse_of_scale_rotate_flip_shift():
    generator = np.random.default_rng(1)
    count, n = 6, 8
    flip, rotation = np.sign(generator.standard_normal(count)), generator.uniform(-3, 3, count)
    log_scale, shift = generator.uniform(-0.5, 0.5, count), generator.uniform(-0.5, 0.5, (count, 2))
    grid = affine_grid(*(torch.tensor(v, dtype=torch.float32) for v in (flip, rotation, log_scale, shift)), n).numpy()
    centres = (np.arange(n) + 0.5) * 2 / n - 1
    output = np.stack(np.meshgrid(centres, centres), axis=-1)  # [n, n, 2] of (x, y)
    for i in range(count):
        c, s = np.cos(rotation[i]), np.sin(rotation[i])
        forward = np.exp(log_scale[i]) * np.array([[c, -s], [s, c]]) @ np.diag([flip[i], 1.0])
        np.testing.assert_allclose(grid[i] @ forward.T + shift[i], output, atol=1e-5)


# --- blur and size


@pytest.mark.parametrize("sigma", [0.8, 1.0, 1.5, 3.0])
def test_blur_is_scipys(random_image, sigma):
    stack = np.stack([random_image, random_image.T])
    expected = [gaussian_filter(image, sigma, mode="nearest", radius=int(np.ceil(3 * sigma))) for image in stack]
    np.testing.assert_allclose(gaussian_blur(torch.from_numpy(stack), sigma), expected, atol=1e-5)


def test_blur_keeps_a_constant():
    assert torch.allclose(gaussian_blur(torch.full((1, 16, 16), 0.7), 2.0), torch.tensor(0.7))


def test_full_range_and_exact_values():
    values = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 256
    assert np.array_equal(to_audit_size([values / np.float32(255)])[0], values)
    sixteen_bit = np.array([0, 257 * 100, 65535], np.float32).repeat(SIZE)[: SIZE * 3].reshape(3, SIZE)
    image = np.tile(sixteen_bit / np.float32(65535), (22, 1))[:SIZE]
    result = to_audit_size([image])
    assert result.dtype == torch.uint8 and result.shape == (1, SIZE, SIZE)
    assert set(result.unique().tolist()) == {0, 100, 255}
    assert to_unit(result).min() == 0 and to_unit(result).max() == 1


def test_not_square_is_padded_in_the_centre():
    result = to_audit_size([np.ones((SIZE, SIZE // 2), np.float32)])[0]
    assert (result[:, 16:48] == 255).all() and not result[:, :16].any() and not result[:, 48:].any()


def test_no_image_is_sharper_than_the_smallest(random_image):
    """A film of 128 px that is compared with images of 16 px is first brought to 16 px."""
    large = np.kron(random_image, np.ones((2, 2), np.float32))
    small = images.resize_radiograph(large, 16)
    assert torch.equal(to_audit_size([large], 16), to_audit_size([small], 16))
    assert to_audit_size([large], 16).float().std() < 0.5 * to_audit_size([large]).float().std()


def test_no_images():
    assert to_audit_size([]).shape == (0, SIZE, SIZE)


def test_blocks_change_nothing():
    values = torch.arange(10.0)
    assert torch.equal(in_blocks(torch.sqrt, values, block=3), values.sqrt())
