"""The losses of one training batch: what is drawn, what the network is fed, and what its output is compared with.

Everything random comes from torch's global generator; who trains seeds it for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .forward_process import ForwardProcess, draw_timesteps
from .joint_sample import ANATOMY_MASK, RADIOGRAPH, signal_weights, to_signal
from .loss import HybridLoss, LossTerms


@dataclass(frozen=True)
class DenoisingLoss:
    """The denoiser's: draw task, timesteps, noise and label dropout, call the denoiser, compare.

    Attributes:
        loss: what the output is compared by.
        process: the noise, on the device of the batches.
        config: of the denoiser (`MaCDMUNet2DModel`).
        task_probabilities: see `forward_process.draw_timesteps`.
        class_dropout: share of the samples shown with the null label.
        class_dropout_image_to_masks: the same for image -> masks.
        features: see `HybridLoss.__call__`, `perceptual_features`.
    """

    loss: HybridLoss
    process: ForwardProcess
    config: object
    task_probabilities: Sequence[float]
    class_dropout: float
    class_dropout_image_to_masks: float
    features: Callable[[torch.Tensor], Sequence[torch.Tensor]] | None = None

    def __call__(self, unet, batch: dict[str, torch.Tensor]) -> tuple[LossTerms, torch.Tensor]:
        """
        Args:
            batch: `joint_sample` `[B, 3, H, W]` in [-1, 1], `class_label` `[B]` and `augmentation_labels` `[B, D]`.

        Returns:
            The terms of the loss, and the timesteps that were drawn, `[B, 3]`.
        """
        process = self.process
        clean = to_signal(batch["joint_sample"], self.config)  # [B, 3, H, W]
        timesteps, noised = draw_timesteps(len(clean), process.num_timesteps, self.task_probabilities, clean.device)
        noise = torch.randn_like(clean)
        noisy = process.add_noise(clean, noise, timesteps)
        noisy = torch.where(noised[:, :, None, None], noisy, clean)

        image_given = ~noised[:, RADIOGRAPH]
        dropout = torch.where(image_given, self.class_dropout_image_to_masks, self.class_dropout)
        dropped = torch.rand(len(clean), device=clean.device) < dropout
        null_label = self.config.num_class_embeds - 1
        labels = batch["class_label"].masked_fill(dropped, null_label)

        output = unet(
            noisy,
            timesteps[:, RADIOGRAPH],
            class_labels=labels,
            mask_timestep=timesteps[:, ANATOMY_MASK],
            augmentation_labels=batch["augmentation_labels"] if self.config.augmentation_dim else None,
        ).sample  # [B, 6, H, W]
        terms = self.loss(
            process,
            output,
            clean,
            noise,
            timesteps,
            noised_channels=noised,
            channel_scale=signal_weights(self.config),
            perceptual_features=self.features,
        )
        return terms, timesteps


@dataclass(frozen=True)
class ClassificationTerms:
    """What `ClassificationLoss` returns.

    Attributes:
        total: scalar, the mean over the labeled samples, to be differentiated.
        cross_entropy, accuracy: `[B]`; NaN where a sample has no label.
        level: `[B]`, the timestep of the noisiest channel.
    """

    total: torch.Tensor
    cross_entropy: torch.Tensor
    accuracy: torch.Tensor
    level: torch.Tensor


@dataclass(frozen=True)
class ClassificationLoss:
    """The guidance classifier's: cross-entropy on noisy joint samples, noised as the denoiser's are (ADM, arXiv 2105.05233,
    sec. 4). Attributes as in `DenoisingLoss`, `config` of the classifier."""

    process: ForwardProcess
    config: object
    task_probabilities: Sequence[float]

    def __call__(self, classifier, batch: dict[str, torch.Tensor]) -> ClassificationTerms:
        process = self.process
        clean = to_signal(batch["joint_sample"], self.config)  # [B, 3, H, W]
        timesteps, noised = draw_timesteps(len(clean), process.num_timesteps, self.task_probabilities, clean.device)
        noisy = process.add_noise(clean, torch.randn_like(clean), timesteps)
        noisy = torch.where(noised[:, :, None, None], noisy, clean)
        logits = classifier(noisy, timesteps[:, RADIOGRAPH], mask_timestep=timesteps[:, ANATOMY_MASK])  # [B, K]

        labels = batch["class_label"]
        known = labels < self.config.num_classes
        labels = labels.where(known, 0)
        cross_entropy = F.cross_entropy(logits.float(), labels, reduction="none")  # [B]
        correct = (logits.argmax(dim=1) == labels).float()
        return ClassificationTerms(
            total=(cross_entropy * known).sum() / known.sum().clamp(min=1),
            cross_entropy=cross_entropy.detach().masked_fill(~known, torch.nan),
            accuracy=correct.masked_fill(~known, torch.nan),
            level=timesteps.amax(dim=1),
        )
