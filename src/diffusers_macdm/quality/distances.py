"""How far two sets of pictures are from each other: sliced Wasserstein distance, and features for KID."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..evaluation.features import FeatureExtractor


PATCH, GLOBAL = 5, 12  # pixels a side: of a patch, and of a film that is reduced to its large forms
NUM_PROJECTIONS = 128  # about: as many whole orthonormal bases as come nearest to it, at least one
NUM_PATCHES = 16384  # drawn from all films of a set
RANDOM_CHANNELS = (32, 64, 128)
LOG_FLOOR = 1e-2  # of a feature, where radiographs reach from -1 to 1
RANDOM_NAME = "untrained convolutional network with fixed weights, means and deviations of its channels"


# Bonneel et al., J. Math. Imaging Vis. 51, 2015, eq. 8, with orthonormal directions (Rowland et al., arXiv 1903.03784)
def sliced_wasserstein(one: np.ndarray, two: np.ndarray, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of two samples, scaled to the size of a vector's entries.

    `sqrt(mean over directions u of W2^2(<u, x>, <u, y>))`: the directions are whole random orthonormal bases, so that a shift
    of every entry by s gives exactly s. Of the larger sample as many vectors are used as the smaller one has; two
    samples of one distribution do not give 0, and the less so the smaller they are, so a reference must have the same sizes.

    Args:
        one, two: `[N, d]` and `[M, d]`.
        seed: of the directions and of the vectors that are used.

    Raises:
        ValueError: when a sample is empty or the lengths of the vectors differ.
    """
    if not len(one) or not len(two) or one.shape[1:] != two.shape[1:]:
        raise ValueError(f"Samples {one.shape} and {two.shape} cannot be compared: vectors of one length are needed.")
    generator = np.random.default_rng(seed)
    dimension, count = one.shape[1], min(len(one), len(two))
    samples = [
        np.asarray(x if len(x) == count else x[generator.permutation(len(x))[:count]], dtype=np.float64) for x in (one, two)
    ]
    squares = []
    for _ in range(max(1, round(NUM_PROJECTIONS / dimension))):
        basis = np.linalg.qr(generator.normal(size=(dimension, dimension)))[0]  # [d, d]
        sorted_one, sorted_two = (np.sort((sample @ basis).T) for sample in samples)  # [d, N]
        squares.append(((sorted_one - sorted_two) ** 2).mean(axis=1))
    return float(np.sqrt(np.mean(squares)))


def patches(pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw 16,384 patches of 5 x 5 pixels from pictures `[N, S, S]`, as many from each: float32 `[16384, 25]`."""
    generator = np.random.default_rng(seed)
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (PATCH, PATCH), axis=(1, 2))  # [N, s, s, 5, 5]
    numbers = np.arange(NUM_PATCHES) % len(pictures)
    rows, columns = (generator.integers(windows.shape[axis], size=NUM_PATCHES) for axis in (1, 2))
    return windows[numbers, rows, columns].reshape(NUM_PATCHES, -1).astype(np.float32)


def detail(pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """`patches` less their mean: what is left of a film without its gray level, in which noise and blur weigh more."""
    found = patches(pictures, seed)
    return found - found.mean(axis=1, keepdims=True)


def reduced(pictures: np.ndarray) -> np.ndarray:
    """Reduce pictures `[N, S, S]` to 12 x 12 means: float32 `[N, 144]`."""
    tensor = torch.from_numpy(pictures.astype(np.float32))[:, None]  # [N, 1, S, S]
    return nn.functional.adaptive_avg_pool2d(tensor, GLOBAL).flatten(1).numpy()


def random_features() -> FeatureExtractor:
    """Features for KID that need no pretrained weights: an untrained network, the same one wherever it is made.

    Three convolutions of 3 x 3 (32, 64, 128 channels; He's initial weights, seed 0; ReLU), each followed by a mean over 2 x 2
    pixels; mean and standard deviation of every channel of each, 448 numbers, as logarithms: the kernel takes the third power,
    and a few dark films would otherwise outweigh all others. That untrained features rank sets of medical
    images, where those of ImageNet may not: Naeem et al., arXiv 2002.09797, sec. 4.
    """
    generator = torch.Generator().manual_seed(0)
    weights, before = [], 1
    for channels in RANDOM_CHANNELS:
        weights.append(torch.randn(channels, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5)
        before = channels

    def function(radiographs: torch.Tensor) -> torch.Tensor:
        maps, found = radiographs, []  # [B, C, h, w]
        for weight in weights:
            maps = nn.functional.avg_pool2d(nn.functional.conv2d(maps, weight.to(maps), padding=1).relu(), 2)
            found += [maps.mean(dim=(2, 3)), maps.std(dim=(2, 3))]
        return torch.log(torch.cat(found, dim=1) + LOG_FLOOR)

    return FeatureExtractor(RANDOM_NAME, function)
