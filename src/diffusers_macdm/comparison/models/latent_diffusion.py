"""Latent diffusion: an autoencoder of the joint sample, and a class-conditional diffusion model of its latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from ...data.cases import Cases
from ...macdm.guidance import classifier_free_guided_noise
from ...macdm.joint_sample import CHANNELS
from ...seeds import derived_seed
from ..diffusion import CLASS_DROPOUT, ClassConditionalUNet, ddim_scheduler, denoise, mean_squared_error, training_process
from ..model import GenerativeModel
from ..settings import TrainingBudget
from ..training import count_classes, own_randomness, total_facts, train


AUTOENCODER_SHARE = 1 / 3  # of the steps
LATENT_CHANNELS = 4
KL_WEIGHT = 1e-6  # of the sum over the latents against the sum over the pixels (arXiv 2112.10752, app. G)
SMALLEST_LATENT = 8  # side; below it there is nothing left for a diffusion model to lay out
MAX_HALVINGS = 2  # a factor of 4, the least of the published ones: a lesion is a few pixels
ENCODING_BATCH = 64
FIRST_LOG_VARIANCE = -6.0  # of the latents


class LatentDiffusion(GenerativeModel):
    """The autoencoder is trained on the same cases, not taken from natural images.

    Args:
        scale: of classifier-free guidance, `eps_null + s (eps_label - eps_null)`; 1 is off.
    """

    name = "latent_diffusion"
    title = "latent diffusion"
    description = (
        "latent diffusion (Rombach et al., arXiv 2112.10752): diffusers' AutoencoderKL of radiograph and masks, L1 + KL, in a "
        "third of the steps, then a class-conditional UNet2DModel of the latents with classifier-free guidance, DDIM"
    )
    makes_masks = "generated"

    def __init__(self, scale: float = 2.0):
        self.scale = scale

    @classmethod
    def check_size(cls, size: int, budget: TrainingBudget) -> None:
        multiple = 2 ** (_halvings(size) + len(budget.block_out_channels) - 1)
        if size % multiple:
            raise ValueError(
                f"A side of {size} px is not allowed for {cls.name}: with {len(budget.block_out_channels)} block_out_channels "
                f"it must be a multiple of {multiple}."
            )

    def fit(
        self, cases: Cases, budget: TrainingBudget, *, seed: int, device: torch.device | str = "cpu", progress: bool = False
    ) -> dict:
        self.num_classes, self.budget, self.device = count_classes(cases), budget, device
        self.check_size(cases.size, budget)
        halvings = _halvings(cases.size)
        self.latent_size = cases.size // 2**halvings
        process = training_process(device)
        autoencoder_steps = max(1, round(AUTOENCODER_SHARE * budget.steps))

        def autoencoder_loss(batch):
            clean = batch["joint_sample"]  # [B, 3, H, W]
            posterior = self.autoencoder.encode(clean).latent_dist
            decoded = self.autoencoder.decode(posterior.sample()).sample
            return F.l1_loss(decoded, clean) + KL_WEIGHT * posterior.kl().sum() / clean.numel()

        def denoising_loss(batch):
            with torch.no_grad():
                latents = self.autoencoder.encode(batch["joint_sample"]).latent_dist.sample() * self.scaling  # [B, 4, h, w]
            dropped = torch.rand(len(latents), device=latents.device) < CLASS_DROPOUT
            labels = batch["class_label"].masked_fill(dropped, self.unet.null_label)
            return mean_squared_error(
                process, latents, lambda noisy, t: self.unet(noisy, t, labels, batch["augmentation_labels"])
            )

        with own_randomness(seed, device):
            self.autoencoder = _new_autoencoder(cases.size, halvings, budget)
            autoencoder_facts = train(
                self.autoencoder,
                cases,
                budget,
                autoencoder_loss,
                steps=autoencoder_steps,
                seed=seed,
                device=device,
                progress="autoencoder" if progress else None,
            )
            self.scaling = 1 / self._latents(cases).std()  # app. G: the latents get a standard deviation of 1
            self.unet = ClassConditionalUNet(
                LATENT_CHANNELS, LATENT_CHANNELS, self.latent_size, self.num_classes, budget, patch_size=1
            )
            denoiser_facts = train(
                self.unet,
                cases,
                budget,
                denoising_loss,
                steps=budget.steps - autoencoder_steps,
                seed=derived_seed(seed, 1),
                device=device,
                progress="denoiser of latents" if progress else None,
            )
        facts = {"autoencoder": autoencoder_facts, "denoiser": denoiser_facts}
        return total_facts(facts, [self.autoencoder, self.unet])

    @torch.no_grad()
    def _latents(self, cases: Cases) -> torch.Tensor:
        """`[N, 4, h, w]`, the means of the posterior."""
        parts = cases.joint_samples.split(ENCODING_BATCH)
        return torch.cat([self.autoencoder.encode(part.to(self.device)).latent_dist.mean for part in parts])

    @torch.no_grad()
    def draw(
        self, class_labels: torch.Tensor, generators: Sequence[torch.Generator], masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        labels = class_labels.to(self.device)
        null_labels = torch.full_like(labels, self.unet.null_label)

        def predict(noisy, timestep):
            conditional = self.unet(noisy, timestep, labels)
            return classifier_free_guided_noise(conditional, self.unet(noisy, timestep, null_labels), self.scale)

        shape = (LATENT_CHANNELS, self.latent_size, self.latent_size)
        scheduler = ddim_scheduler(clip_sample=False)
        latents = denoise(scheduler, predict, shape, generators, self.budget.num_inference_steps, self.device)
        return self.autoencoder.decode(latents / self.scaling).sample  # [B, 3, H, W]


def _halvings(size: int) -> int:
    """How often the autoencoder halves joint samples of this side."""
    return sum(size // 2**number >= SMALLEST_LATENT for number in range(1, MAX_HALVINGS + 1))


def _new_autoencoder(size: int, halvings: int, budget: TrainingBudget) -> AutoencoderKL:
    """Build an autoencoder of as many channels at each resolution as the denoiser of pixels has there."""
    channels = [budget.block_out_channels[min(n, len(budget.block_out_channels) - 1)] for n in range(halvings + 1)]
    autoencoder = AutoencoderKL(
        in_channels=len(CHANNELS),
        out_channels=len(CHANNELS),
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=budget.norm_num_groups,
        sample_size=size,
    )
    # A posterior that starts as wide as diffusers' own drowns the means, and the decoder learns not to listen.
    torch.nn.init.constant_(autoencoder.quant_conv.bias[LATENT_CHANNELS:], FIRST_LOG_VARIANCE)
    return autoencoder
