"""An embedding in which altered copies of a radiograph lie together: learned without labels from the training set itself.

SimCLR (Chen et al., arXiv 2002.05709): two random alterations of the same radiograph are to lie nearer to each other than to
any other radiograph of the batch (NT-Xent, their eq. 1). The alterations are those that a copy may have gone through: mirror,
shift, rotation, scale, exposure, noise, blur.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..optimisation import Optimiser, one_cycle
from ..progress import Progress
from .images import SIZE, affine_grid, gaussian_blur, in_blocks, to_unit


TEMPERATURE = 0.1
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


class CopyEmbedding(ModelMixin, ConfigMixin):
    """A small convolutional encoder: radiographs `[N, 64, 64]` uint8 -> unit vectors `[N, embedding_dim]`.

    Args:
        channels: of the first layers; the last have four times as many.
        embedding_dim: length of the vectors.
        steps: of the training that its weights come from.
        seed: of that training.
    """

    @register_to_config
    def __init__(self, channels: int = 32, embedding_dim: int = 128, steps: int = 0, seed: int = 0):
        super().__init__()

        def layer(inputs, outputs, stride):
            convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        self.layers = nn.Sequential(
            layer(1, channels, 2),  # [N, c, 16, 16] of 32 x 32
            layer(channels, 2 * channels, 1),
            layer(2 * channels, 2 * channels, 2),  # [N, 2c, 8, 8]
            layer(2 * channels, 4 * channels, 1),
            layer(4 * channels, 4 * channels, 2),  # [N, 4c, 4, 4]
        )
        self.head = nn.Linear(2 * 4 * channels, embedding_dim)

    def forward(self, radiographs: torch.Tensor) -> torch.Tensor:
        """Float `[N, 1, 64, 64]` in [0, 1] -> `[N, embedding_dim]` of length 1. Exposure is taken away first."""
        small = F.avg_pool2d(radiographs, 2)  # [N, 1, 32, 32]
        mean, std = small.mean(dim=(1, 2, 3), keepdim=True), small.std(dim=(1, 2, 3), keepdim=True)
        hidden = self.layers((small - mean) / (std + 1e-3))  # [N, 4c, 4, 4]
        pooled = torch.cat([hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))], dim=1)  # [N, 8c]
        return F.normalize(self.head(pooled), dim=1)

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, 64, 64]` -> float32 `[N, embedding_dim]` of length 1, block by block."""
        return in_blocks(lambda block: self(to_unit(block)[:, None].to(self.device)).cpu(), images)


def train_embedding(images: torch.Tensor, steps: int, seed: int, *, device="cpu", progress: bool = False) -> CopyEmbedding:
    """Train the embedding on uint8 radiographs `[N, 64, 64]`; everything random follows from `seed`."""
    if len(images) < 2:
        raise ValueError(f"{len(images)} training image: at least 2 are needed to learn an embedding that tells them apart.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CopyEmbedding(steps=steps, seed=seed).to(device)
    generator = torch.Generator().manual_seed(seed)
    optimiser = Optimiser(model.parameters(), LEARNING_RATE, one_cycle(steps, LEARNING_RATE), weight_decay=1e-4)
    model.train()
    with torch.enable_grad(), Progress(steps, "embedding", show=progress) as bar:
        for _ in range(steps):
            chosen = torch.randperm(len(images), generator=generator)[:BATCH_SIZE]
            unit = to_unit(images[chosen])[:, None]
            views = torch.cat([alter(unit, generator), alter(unit, generator)]).to(device)
            optimiser.step(nt_xent(model(views)))
            bar.update()
    return model.eval().requires_grad_(False)


# SimCLR eq. 1
def nt_xent(embeddings: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy of `[2 N, D]` unit vectors, of which `i` and `i + N` are a pair."""
    similarity = embeddings @ embeddings.T / temperature  # [2N, 2N]
    similarity = similarity.masked_fill(torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device), -math.inf)
    partner = torch.arange(len(embeddings), device=embeddings.device).roll(len(embeddings) // 2)
    return F.cross_entropy(similarity, partner)


def alter(unit: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random alteration of each of `[N, 1, 64, 64]` in [0, 1], somewhat beyond those that an audit plants."""
    count = len(unit)

    def uniform(low, high, *shape):
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    flip = (uniform(0, 1) < 0.5).float() * 2 - 1
    grid = affine_grid(flip, uniform(-0.3, 0.3), uniform(-0.3, 0.3), uniform(-0.25, 0.25, 2), SIZE)
    altered = F.grid_sample(unit, grid, align_corners=False).clamp(0, 1)
    blurred = gaussian_blur(altered, 1.5)
    altered = torch.lerp(altered, blurred, uniform(0, 1, 1, 1, 1))
    altered = altered ** torch.exp(uniform(-0.4, 0.4, 1, 1, 1))
    altered = (altered - 0.5) * torch.exp(uniform(-0.35, 0.35, 1, 1, 1)) + 0.5 + uniform(-0.2, 0.2, 1, 1, 1)
    return (altered + torch.randn(altered.shape, generator=generator) * uniform(0, 0.1, 1, 1, 1)).clamp(0, 1)
