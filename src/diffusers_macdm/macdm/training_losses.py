"""The losses of one training batch: what is drawn, what the network is fed, and what its output is compared with.

Everything random comes from torch's global generator; who trains seeds it for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .forward_process import ForwardProcess, draw_timesteps
from .joint_sample import ANATOMY_MASK, RADIOGRAPH, signal_weights, to_signal
from .loss import Features, HybridLoss, LossTerms


@dataclass(frozen=True)
class DenoisingLoss:
    """Loss of the denoiser: draw task, timesteps, noise and label dropout (in this order), call the denoiser, compare.

    Attributes:
        loss: The loss that compares the output with the truth.
        process: The process that noises the batches, on their device.
        config: Configuration of the denoiser (`MaCDMUNet2DModel`).
        task_probabilities: See `forward_process.draw_timesteps`.
        class_dropout: Share of the samples shown with the null label.
        class_dropout_image_to_masks: The same share for image -> masks.
        features: See `HybridLoss.__call__`, `perceptual_features`.
    """

    loss: HybridLoss
    process: ForwardProcess
    config: object
    task_probabilities: Sequence[float]
    class_dropout: float
    class_dropout_image_to_masks: float
    features: Features | None = None

    def __call__(self, unet, batch: dict[str, torch.Tensor]) -> tuple[LossTerms, torch.Tensor]:
        """
        Args:
            batch: `joint_sample` `[B, 3, H, W]` in [-1, 1], `class_label` `[B]` and `augmentation_labels` `[B, D]`.

        Returns:
            The terms of the loss, and the timesteps that were drawn, `[B, 3]`.
        """
        clean = to_signal(batch["joint_sample"], self.config)  # [B, 3, H, W]
        num_timesteps = self.process.num_timesteps
        timesteps, noised = draw_timesteps(len(clean), num_timesteps, self.task_probabilities, clean.device)  # [B, 3]
        sample = self.process.sample(clean, timesteps, noised)

        image_given = ~noised[:, RADIOGRAPH]
        dropout = torch.where(image_given, self.class_dropout_image_to_masks, self.class_dropout)
        dropped = torch.rand(len(clean), device=clean.device) < dropout
        null_label = self.config.num_class_embeds - 1
        labels = batch["class_label"].masked_fill(dropped, null_label)

        output = unet(
            sample.noisy,
            timesteps[:, RADIOGRAPH],
            class_labels=labels,
            mask_timestep=timesteps[:, ANATOMY_MASK],
            augmentation_labels=batch["augmentation_labels"] if self.config.augmentation_dim else None,
        ).sample  # [B, 6, H, W]
        terms = self.loss(self.process, output, sample, signal_weights(self.config), self.features)
        return terms, timesteps


@dataclass(frozen=True)
class ClassificationTerms:
    """Terms of `ClassificationLoss`.

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
    """Loss of the guidance classifier: cross-entropy on joint samples noised as the denoiser's are (ADM, arXiv 2105.05233,
    sec. 4).

    Attributes:
        process, task_probabilities: As in `DenoisingLoss`.
        config: Configuration of the classifier (`GuidanceClassifier`).
    """

    process: ForwardProcess
    config: object
    task_probabilities: Sequence[float]

    def __call__(self, classifier, batch: dict[str, torch.Tensor]) -> ClassificationTerms:
        clean = to_signal(batch["joint_sample"], self.config)  # [B, 3, H, W]
        num_timesteps = self.process.num_timesteps
        timesteps, noised = draw_timesteps(len(clean), num_timesteps, self.task_probabilities, clean.device)  # [B, 3]
        noisy = self.process.sample(clean, timesteps, noised).noisy
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
