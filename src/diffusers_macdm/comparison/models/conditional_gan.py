"""Conditional GAN of radiograph and masks together, with differentiable augmentation."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.utils.parametrizations import spectral_norm

from ...data.cases import Cases
from ...macdm.joint_sample import CHANNELS, RADIOGRAPH
from ..model import GenerativeModel
from ..settings import TrainingBudget
from ..training import LastLosses, batches, count_classes, freeze, optimiser_for, own_randomness, total_facts


LATENT_DIM = 64
SMALLEST_MAP = 4  # side that the generator starts from, at least
BETAS = (0.0, 0.99)
TRANSLATION = 1 / 8  # of the side, DiffAugment's
CUTOUT = 1 / 2


class ConditionalGAN(GenerativeModel):
    """A generator of residual blocks against a projection discriminator, one update of each in a step."""

    name = "conditional_gan"
    title = "conditional GAN"
    description = (
        "conditional GAN of radiograph and masks: residual generator, projection discriminator (Miyato and Koyama, arXiv "
        "1802.05637) with spectral norm and hinge loss, DiffAugment (Zhao et al., arXiv 2006.10738); generator averaged"
    )
    makes_masks = "generated"

    @classmethod
    def check_size(cls, size: int, budget: TrainingBudget) -> None:
        """Any side will do: the generator starts from what is left when it cannot be halved any more."""

    def fit(
        self, cases: Cases, budget: TrainingBudget, *, seed: int, device: torch.device | str = "cpu", progress: bool = False
    ) -> dict:
        self.num_classes, self.device = count_classes(cases), device
        generator_losses, discriminator_losses = LastLosses(), LastLosses()
        start = time.monotonic()
        with own_randomness(seed, device):
            self.generator = Generator(cases.size, self.num_classes, budget).to(device).train()
            discriminator = Discriminator(cases.size, self.num_classes, budget).to(device).train()
            of_generator, of_discriminator = (
                optimiser_for(network.parameters(), budget, budget.steps, learning_rate=budget.gan_learning_rate, betas=BETAS)
                for network in (self.generator, discriminator)
            )
            drawn = batches(
                cases,
                budget,
                steps=budget.steps,
                seed=seed,
                device=device,
                augmentation=None,  # DiffAugment's place: augmented films alone would be what the generator learns to make
                progress="generator and discriminator" if progress else None,
            )
            for batch in drawn:
                real, labels = batch["joint_sample"], batch["class_label"]
                fake = self.generator(torch.randn(len(real), LATENT_DIM, device=device), labels)  # [B, 3, H, W]
                scores = discriminator(diff_augment(torch.cat([real, fake.detach()])), labels.repeat(2))  # [2 B]
                real_scores, fake_scores = scores.chunk(2)
                discriminator_loss = F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()  # hinge
                of_discriminator.step(discriminator_loss)
                generator_loss = -discriminator(diff_augment(fake), labels).mean()
                of_generator.step(generator_loss)
                discriminator_losses.add(discriminator_loss)
                generator_losses.add(generator_loss)
            of_generator.average()
            freeze(self.generator)
        seconds = time.monotonic() - start
        last_loss = {"generator": generator_losses.mean("Generator")}
        last_loss["discriminator"] = discriminator_losses.mean("Discriminator")
        facts = {"generator": {"steps": budget.steps, "seconds": seconds, "last_loss": last_loss["generator"]}}
        return {**total_facts(facts, [self.generator]), "last_loss": last_loss}

    def draw(
        self, class_labels: torch.Tensor, generators: Sequence[torch.Generator], masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        latents = randn_tensor((len(class_labels), LATENT_DIM), generator=list(generators), device=torch.device(self.device))
        with torch.no_grad():
            return self.generator(latents, class_labels.to(self.device))


# ----------------------------------------------------------------------------------------------------------- networks


def resolutions(size: int, budget: TrainingBudget) -> list[int]:
    """Channels at each resolution, finest first, halved as long as the side stays at `SMALLEST_MAP` or above."""
    levels = 1
    while size % 2**levels == 0 and size // 2**levels >= SMALLEST_MAP:
        levels += 1
    channels = budget.block_out_channels
    return [channels[min(level, len(channels) - 1)] for level in range(levels)]


class ConditionalNorm(torch.nn.Module):
    """Group norm whose scale and shift follow from latent and class. Not a batch norm: it would have statistics that the
    averaged weights do not fit."""

    def __init__(self, channels: int, condition_dim: int, num_groups: int):
        super().__init__()
        self.norm = torch.nn.GroupNorm(num_groups, channels, affine=False)
        self.scale_and_shift = torch.nn.Linear(condition_dim, 2 * channels)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale_and_shift(condition)[:, :, None, None].chunk(2, dim=1)  # [B, F, 1, 1] each
        return self.norm(hidden) * (1 + scale) + shift


class UpBlock(torch.nn.Module):
    """Residual block that doubles the side."""

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int, num_groups: int):
        super().__init__()
        self.norm1 = ConditionalNorm(in_channels, condition_dim, num_groups)
        self.conv1 = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ConditionalNorm(out_channels, condition_dim, num_groups)
        self.conv2 = torch.nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = torch.nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        residual = F.interpolate(F.silu(self.norm1(hidden, condition)), scale_factor=2)
        residual = self.conv2(F.silu(self.norm2(self.conv1(residual), condition)))
        return F.interpolate(self.shortcut(hidden), scale_factor=2) + residual


class Generator(torch.nn.Module):
    """Latent `[B, LATENT_DIM]` and class labels `[B]` -> joint samples `[B, 3, H, W]`, about in [-1, 1]."""

    def __init__(self, size: int, num_classes: int, budget: TrainingBudget):
        super().__init__()
        channels = resolutions(size, budget)[::-1]  # coarsest first
        self.first_size = size // 2 ** (len(channels) - 1)
        self.class_embedding = torch.nn.Embedding(num_classes, LATENT_DIM)
        condition_dim = 2 * LATENT_DIM
        self.first = torch.nn.Linear(condition_dim, channels[0] * self.first_size**2)
        self.blocks = torch.nn.ModuleList(
            UpBlock(coarse, fine, condition_dim, budget.norm_num_groups)
            for coarse, fine in zip(channels[:-1], channels[1:], strict=True)
        )
        self.norm = torch.nn.GroupNorm(budget.norm_num_groups, channels[-1])
        self.last = torch.nn.Conv2d(channels[-1], len(CHANNELS), 3, padding=1)

    def forward(self, latents: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        condition = torch.cat([latents, self.class_embedding(class_labels)], dim=1)  # [B, 2 L]
        hidden = self.first(condition).unflatten(1, (-1, self.first_size, self.first_size))  # [B, F, h, w]
        for block in self.blocks:
            hidden = block(hidden, condition)
        # No tanh: the masks are at its ends, where its gradient vanishes.
        return self.last(F.silu(self.norm(hidden)))


class DownBlock(torch.nn.Module):
    """Residual block with spectral norm that halves the side."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = spectral_norm(torch.nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.conv2 = spectral_norm(torch.nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = spectral_norm(torch.nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(hidden, 0.2)), 0.2))
        return F.avg_pool2d(self.shortcut(hidden) + residual, 2)


class Discriminator(torch.nn.Module):
    """Joint samples `[B, 3, H, W]` and class labels `[B]` -> scores `[B]`: a term of the sample alone, and the inner product
    of its features with the class (arXiv 1802.05637, eq. 7)."""

    def __init__(self, size: int, num_classes: int, budget: TrainingBudget):
        super().__init__()
        channels = resolutions(size, budget)
        self.first = spectral_norm(torch.nn.Conv2d(len(CHANNELS), channels[0], 3, padding=1))
        self.blocks = torch.nn.ModuleList(
            DownBlock(fine, coarse) for fine, coarse in zip(channels[:-1], channels[1:], strict=True)
        )
        self.score = spectral_norm(torch.nn.Linear(channels[-1], 1))
        self.class_embedding = spectral_norm(torch.nn.Embedding(num_classes, channels[-1]))

    def forward(self, joint_samples: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        hidden = self.first(joint_samples)
        for block in self.blocks:
            hidden = block(hidden)
        features = F.leaky_relu(hidden, 0.2).sum(dim=(2, 3))  # [B, F]
        return self.score(features)[:, 0] + (self.class_embedding(class_labels) * features).sum(dim=1)


# ------------------------------------------------------------------------------------------------------- augmentation


def diff_augment(joint_samples: torch.Tensor) -> torch.Tensor:
    """DiffAugment (arXiv 2006.10738): differentiable in the samples `[B, 3, H, W]`, drawn anew for each of them.

    Brightness and contrast change the radiograph alone; translation and cutout act alike on all channels. What is moved in
    is background (-1), what is cut out is mid-grey (0), which no mask contains.
    """
    size, device = joint_samples.shape[-1], joint_samples.device
    radiographs, masks = joint_samples[:, : RADIOGRAPH + 1], joint_samples[:, RADIOGRAPH + 1 :]
    brightness, contrast = torch.rand(2, len(joint_samples), 1, 1, 1, device=device)
    radiographs = radiographs + 2 * (brightness - 0.5)  # by half of the range at most
    mean = radiographs.mean(dim=(1, 2, 3), keepdim=True)
    radiographs = (radiographs - mean) * (contrast + 0.5) + mean
    return cutout(translate(torch.cat([radiographs, masks], dim=1), round(size * TRANSLATION)), round(size * CUTOUT))


def translate(joint_samples: torch.Tensor, limit: int) -> torch.Tensor:
    """Shift each sample by up to `limit` whole pixels along each axis; the border is background."""
    batch, _, height, width = joint_samples.shape
    shifts = torch.randint(-limit, limit + 1, (2, batch, 1), device=joint_samples.device)
    padded = F.pad(joint_samples + 1, (1, 1, 1, 1))  # background is 0, and so is the frame of one pixel
    rows = (torch.arange(height, device=shifts.device) + shifts[0] + 1).clamp(0, height + 1)  # [B, H]
    columns = (torch.arange(width, device=shifts.device) + shifts[1] + 1).clamp(0, width + 1)  # [B, W]
    samples = torch.arange(batch, device=shifts.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
    return moved.permute(0, 3, 1, 2) - 1


def cutout(joint_samples: torch.Tensor, side: int) -> torch.Tensor:
    """Set a square to 0 in each sample; its centre lies anywhere in the image."""
    batch, _, height, width = joint_samples.shape
    device = joint_samples.device
    centre = torch.rand(2, batch, 1, device=device) * torch.tensor([height, width], device=device)[:, None, None]
    in_rows = (torch.arange(height, device=device) + 0.5 - centre[0]).abs() < side / 2  # [B, H]
    in_columns = (torch.arange(width, device=device) + 0.5 - centre[1]).abs() < side / 2  # [B, W]
    return joint_samples * ~(in_rows[:, None, :, None] & in_columns[:, None, None, :])
