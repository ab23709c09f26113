"""A toy set with a known answer: films of one brightness for each class, the same discs as masks in all of them."""

import torch

from diffusers_macdm.data.cases import Cases


SIZE = 16
BRIGHTNESS = {0: -0.5, 1: 0.5}


def disc(radius: float, size: int = SIZE) -> torch.Tensor:
    """`[H, W]`, -1 outside and 1 inside."""
    axis = torch.arange(size) - (size - 1) / 2
    return torch.where(axis[:, None] ** 2 + axis**2 <= radius**2, 1.0, -1.0)


def toy_cases(num_per_class: int = 8, size: int = SIZE) -> Cases:
    samples, labels = [], []
    for index in range(2 * num_per_class):
        label = index % 2
        film = torch.full((size, size), BRIGHTNESS[label])
        lesion = disc(size / 6, size) if label else torch.full((size, size), -1.0)
        samples.append(torch.stack([film, disc(size / 2.5, size), lesion]))
        labels.append(label)
    return Cases.of(torch.stack(samples), labels)
