import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit_data import phantoms
from scipy.ndimage import gaussian_filter, map_coordinates

from diffusers_macdm.audit import registration
from diffusers_macdm.audit.images import SIZE, affine_grid, to_unit
from diffusers_macdm.audit.planted import plant_copies
from diffusers_macdm.audit.registration import (
    COARSE,
    FINE,
    MIN_OVERLAP,
    SEARCH_BLUR,
    SEARCH_SIZE,
    Search,
    aligned_distance,
    alignments,
)


IDENTITY = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def radiographs():
    return phantoms(6, 0)


def distances(queries, fixed):
    """Each query with its partner: search on both sides of the mirror, then descend from the better one."""
    likeness, number = Search(fixed)(queries)  # [N, 2, N]
    each = torch.arange(len(queries))
    side = likeness[each, :, each].argmax(dim=1)
    begin = alignments()[number[each, side, each]]
    _, begin = aligned_distance(queries, fixed, begin, 8, COARSE)
    return aligned_distance(queries, fixed, begin, 14, FINE)


@pytest.mark.parametrize("level", [COARSE, FINE])
def test_an_image_has_no_distance_from_itself(radiographs, level):
    start = IDENTITY.expand(len(radiographs), 5)
    distance, alignment = aligned_distance(radiographs, radiographs, start, 4, level)
    assert distance.max() < 1e-5
    assert torch.equal(alignment, start)
    mirrored = start * torch.tensor([-1.0, 1, 1, 1, 1])
    assert aligned_distance(radiographs.flip(2), radiographs, mirrored, 0, level)[0].max() < 1e-5


def test_no_steps_measure_where_they_start(radiographs):
    """1 - NCC of the images less their local mean, computed here with scipy: two images in the same place."""
    a, b = (
        gaussian_filter(to_unit(image).numpy().astype(float), 1.0, mode="nearest", radius=3)
        .reshape(32, 2, 32, 2)
        .mean(axis=(1, 3))
        for image in radiographs[:2]
    )
    a, b = (image - gaussian_filter(image, 3.0, mode="nearest", radius=9) for image in (a, b))
    expected = 1 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    distance, _ = aligned_distance(radiographs[:1], radiographs[1:2], IDENTITY[None], 0, FINE)
    assert distance.item() == pytest.approx(expected, abs=1e-4)


def test_mirrored_shifted_and_exposed_copies_have_none_either(radiographs):
    copies = plant_copies(radiographs, seed=0)
    assert distances(copies["flipped"], radiographs)[0].max() < 1e-3
    assert distances(copies["shifted"], radiographs)[0].max() < 0.01
    darker = (radiographs * 0.5 + 60).round().to(torch.uint8)
    assert distances(darker, radiographs)[0].max() < 2e-3


def test_turned_and_rescaled_copies_are_near_and_other_images_are_not(radiographs):
    count = len(radiographs)
    truth = torch.stack([IDENTITY.new_tensor([(-1) ** i, 0.1, 0.08, 0.1, -0.05]) for i in range(count)])
    grid = affine_grid(truth[:, 0], truth[:, 1], truth[:, 2], truth[:, 3:], SIZE)
    copies = F.grid_sample(to_unit(radiographs)[:, None], grid, align_corners=False)[:, 0]
    near, alignment = distances((copies * 255).round().to(torch.uint8), radiographs)
    far, _ = distances(radiographs.roll(1, dims=0), radiographs)
    assert near.median() < 0.005
    assert near.max() < far.min()
    # the copy is laid over its source: the inverse of what was done to it
    assert torch.equal(alignment[:, 0], truth[:, 0])
    assert torch.allclose(alignment[:, 1], -truth[:, 0] * truth[:, 1], atol=0.03)
    assert torch.allclose(alignment[:, 2], -truth[:, 2], atol=0.05)


def test_noise_is_like_nothing():
    noise = torch.randint(0, 256, (6, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    distance, _ = distances(noise[:3], noise[3:])
    assert distance.min() > 0.5


@pytest.mark.parametrize("gray", [0, 77, 255])
def test_a_blank_image_is_like_nothing(radiographs, gray):
    blank = torch.full_like(radiographs, gray)
    for queries, fixed in ((blank, radiographs), (radiographs, blank), (blank, blank)):
        distance, alignment = distances(queries, fixed)
        assert torch.allclose(distance, torch.ones(len(distance)), atol=0.01)
        assert alignment.isfinite().all()
        likeness, _ = Search(fixed)(queries)
        assert likeness.abs().max() < 0.02


def test_the_common_part_is_never_small(radiographs):
    """Far apart as they start, the descent may not end on a sliver in which everything fits."""
    start = torch.tensor([[1.0, 0.0, 0.0, 0.9, 0.9]])
    assert aligned_distance(radiographs[:1], radiographs[1:2], start, 0, FINE)[0] == 1  # 0.55 x 0.55 of the frame
    distance, alignment = aligned_distance(radiographs[:1], radiographs[1:2], start, 14, FINE)
    grid = affine_grid(alignment[:, 0], alignment[:, 1], alignment[:, 2], alignment[:, 3:], SIZE)
    common = (grid.abs() <= 1).all(dim=3).float().mean()
    assert distance < 1 and common > MIN_OVERLAP - 0.07


# --- search


def test_alignments_keep_half_of_the_frame_in_common():
    every = alignments()
    assert torch.equal(every[: len(every) // 2, 1:], every[len(every) // 2 :, 1:])  # the mirrored half last
    assert (every[: len(every) // 2, 0] == 1).all() and (every[len(every) // 2 :, 0] == -1).all()
    assert (every[:, 1:] == 0).all(dim=1).sum() == 2  # the identity, and the mirror image


def test_search_is_the_largest_masked_ncc(radiographs, monkeypatch):
    """All alignments of one pair with numpy and scipy: roots of differences of neighbours, inside of the moved frame."""
    query, fixed = (
        gaussian_filter(to_unit(image).numpy().astype(float), SEARCH_BLUR, mode="nearest", radius=6)
        .reshape(SEARCH_SIZE, SIZE // SEARCH_SIZE, SEARCH_SIZE, SIZE // SEARCH_SIZE)
        .mean(axis=(1, 3))
        for image in radiographs[:2]
    )
    n = SEARCH_SIZE
    centres = (np.arange(n) + 0.5) * 2 / n - 1
    x, y = np.meshgrid(centres, centres)
    expected = []
    for flip, rotation, log_scale, shift_x, shift_y in alignments().double().numpy():
        c, s = np.cos(rotation), np.sin(rotation)
        u, v = (x - shift_x) / np.exp(log_scale), (y - shift_y) / np.exp(log_scale)
        u, v = flip * (c * u + s * v), -s * u + c * v  # where each pixel is read
        inside = (np.maximum(np.abs(u), np.abs(v)) <= 1 - 1 / n + 1e-4).astype(float)
        moved = map_coordinates(query, [((v + 1) * n - 1) / 2, ((u + 1) * n - 1) / 2], order=1, mode="grid-constant")
        product = norm_a = norm_b = 0.0
        for axis in (0, 1):
            first, second = np.take(inside, range(1, n), axis), np.take(inside, range(n - 1), axis)
            a, b = (np.diff(image, axis=axis) * first * second for image in (moved, fixed))
            a, b = (np.sign(edges) * np.sqrt(np.maximum(np.abs(edges) - 1e-3, 0)) for edges in (a, b))
            product, norm_a, norm_b = product + (a * b).sum(), norm_a + (a * a).sum(), norm_b + (b * b).sum()
        expected.append(product / ((np.sqrt(norm_a) + 0.01) * (np.sqrt(norm_b) + 0.01)))
    expected = np.array(expected)
    with monkeypatch.context() as patch:
        patch.setattr(registration, "_above_grid", lambda ncc, best, place: 0 * best)
        likeness, number = Search(radiographs[1:2])(radiographs[:1])
    assert (Search(radiographs[1:2])(radiographs[:1])[0] >= likeness).all()
    halves = expected.reshape(2, -1)
    np.testing.assert_allclose(likeness[0, :, 0], halves.max(axis=1), atol=1e-4)
    np.testing.assert_allclose(expected[number[0, :, 0]], halves.max(axis=1), atol=1e-4)
    assert number[0, 0, 0] < halves.shape[1] <= number[0, 1, 0]


def test_search_in_blocks_is_the_same(radiographs, monkeypatch):
    whole = Search(radiographs)(radiographs[:2])
    monkeypatch.setattr(registration, "_SEARCH_BLOCK", 1)
    for one, other in zip(Search(radiographs)(radiographs[:2]), whole, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-6)


def test_the_peak_between_two_shifts_is_seen():
    """A parabola through three equidistant values has its peak (r - l)^2 / 8 (2 m - l - r) above the middle one."""
    tried = alignments()[: len(alignments()) // 2]
    place = int((tried[:, 1:] - torch.tensor([0.0, 0.0, 0.12, -0.24])).abs().sum(dim=1).argmin())
    shifts = torch.stack([tried[:, 3] - 0.15, tried[:, 4] + 0.22], dim=1)
    ncc = 0.9 - (shifts.square() * torch.tensor([2.0, 3.0])).sum(dim=1)  # its peak is 0.9, at a shift that is not tried
    ncc = ncc[:, None, None].expand(-1, 2, 3)
    best, number = ncc.max(dim=0)
    same = tried[number, 3:]  # any rotation and scale
    assert torch.allclose(same, tried[place, 3:].expand_as(same)) and (best < 0.9).all()
    assert torch.allclose(best + registration._above_grid(ncc, best, number), torch.tensor(0.9), atol=1e-5)
