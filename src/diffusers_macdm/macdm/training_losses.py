"""The losses of one training batch: what is drawn, what the network is fed, and what its output is compared with.

Everything random comes from the `Draws` that are handed in, or else from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .draws import Draws, SampleDraws
from .forward_process import TASKS, ForwardProcess, draw_timesteps
from .guidance import logits_of
from .joint_sample import (
    ANATOMY_MASK,
    CHANNELS,
    LESION_MASK,
    RADIOGRAPH,
    known_channels,
    masks_of,
    signal_weights,
    to_signal,
)
from .loss import Features, HybridLoss, LossTerms


@dataclass(frozen=True)
class DenoisingLoss:
    """Loss of the denoiser: draw task, timesteps, regions, noise and label dropout (in this order), call it, compare.

    The channel of a mask that the denoiser does not know is given clean, as background, and carries no loss.

    Attributes:
        loss: The loss that compares the output with the truth.
        process: The process that noises the batches, on their device.
        config: Configuration of the denoiser (`MaCDMUNet2DModel`).
        task_probabilities: See `forward_process.draw_timesteps`.
        class_dropout: Share of the samples shown with the null label.
        class_dropout_image_to_masks: The same share for image -> masks.
        features: See `HybridLoss.__call__`, `perceptual_features`.
        timestep_probabilities: See `forward_process.draw_timesteps`.
    """

    loss: HybridLoss
    process: ForwardProcess
    config: object
    task_probabilities: Sequence[float]
    class_dropout: float
    class_dropout_image_to_masks: float
    features: Features | None = None
    timestep_probabilities: torch.Tensor | None = None

    def __post_init__(self):
        """Refuse insertion where no region could be laid around the lesions: "this label, in this region" would be wrong."""
        if self._may_insert and CHANNELS[LESION_MASK] not in masks_of(self.config):
            raise ValueError(
                f"task_probabilities={tuple(self.task_probabilities)} are not allowed: insertion is learned around lesions, "
                "and this denoiser knows no lesion outlines; its share must be 0."
            )

    @property
    def _may_insert(self) -> bool:
        return sum(self.task_probabilities[TASKS.index("insertion") :]) > 0

    def __call__(self, unet, batch: dict[str, torch.Tensor], draws: Draws | None = None) -> tuple[LossTerms, torch.Tensor]:
        """
        Args:
            batch: `joint_sample` `[B, 3, H, W]` in [-1, 1], `class_label` `[B]` and `augmentation_labels` `[B, D]`.
            draws: the random numbers of the batch; None draws them from torch's global generator.

        Returns:
            The terms of the loss, and the timesteps that were drawn, `[B, 3]`.
        """
        clean = to_signal(batch["joint_sample"], self.config)  # [B, 3, H, W]
        draws = draws or Draws(len(clean), clean.device)
        timesteps, noised, inserted = draw_timesteps(  # [B, 3], [B, 3], [B]
            len(clean),
            self.process.num_timesteps,
            self.task_probabilities,
            clean.device,
            timestep_probabilities=self.timestep_probabilities,
            draws=draws,
        )
        image_given = ~noised[:, RADIOGRAPH]
        noised = noised & known_mask(self.config, clean.device)
        # Of samples with numbers of their own, none draws more or fewer of them because another one is inserted.
        if self._may_insert and (isinstance(draws, SampleDraws) or inserted.any()):
            regions = insertion_regions(batch["joint_sample"], draws) | ~inserted[:, None, None]  # [B, H, W]
            noised = noised[:, :, None, None] & regions[:, None]  # [B, 3, H, W]
        sample = self.process.sample(clean, timesteps, noised, draws.normal(clean))

        dropout = torch.where(image_given, self.class_dropout_image_to_masks, self.class_dropout)
        dropped = draws.uniform() < dropout
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


def insertion_regions(joint_sample: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
    """Draw the region of each case that is to be painted anew, for training on insertion.

    Half of the regions are rectangles, half ellipses, of sides between a fifth and a half of the film. They lie around a
    pixel of the anatomy; where the case has a lesion, they are moved and enlarged so that all of it is inside. So "this label,
    in this region" means at sampling what it meant in training.

    Args:
        joint_sample: `[B, 3, H, W]` in [-1, 1], clean.
        draws: the random numbers of the batch; None draws them from torch's global generator.

    Returns:
        bool `[B, H, W]`, True in the region.
    """
    size, device = joint_sample.shape[2:], joint_sample.device
    draws = draws or Draws(len(joint_sample), device)
    anatomy, lesion = (joint_sample[:, channel] > 0 for channel in (ANATOMY_MASK, LESION_MASK))  # [B, H, W] each
    weights = torch.where(anatomy.flatten(1).any(dim=1)[:, None], anatomy.flatten(1).float(), 1.0)  # no anatomy: anywhere
    centre = draws.choice(weights)  # [B]
    centres = (centre // size[1], centre % size[1])
    is_ellipse = draws.uniform() < 0.5
    offsets = []
    for axis in (0, 1):
        half = (0.1 + 0.15 * draws.uniform()) * size[axis]  # [B]
        position = torch.arange(size[axis], device=device)  # [S]
        covered = lesion.any(dim=2 - axis)  # [B, S]
        first = torch.where(covered, position, size[axis]).amin(dim=1)  # [B]
        last = torch.where(covered, position, -1).amax(dim=1)
        has_lesion = last >= 0
        margin = torch.where(is_ellipse, 2**0.5, 1.0)  # an ellipse around a box has sqrt(2) times its half axes
        needed = ((last - first) / 2 + 1.5) * margin
        # The centre of a region around a lesion is drawn so that the lesion stays inside.
        half = torch.where(has_lesion, torch.maximum(half, needed), half)
        slack = (half - needed) / margin * (2 * draws.uniform() - 1)
        middle = torch.where(has_lesion, (first + last) / 2 + slack, centres[axis].float())
        offsets.append((position[None] - middle[:, None]) / half[:, None])  # [B, S], 1 at the border
    y, x = offsets[0][:, :, None], offsets[1][:, None, :]
    return torch.where(is_ellipse[:, None, None], y**2 + x**2 <= 1, torch.maximum(y.abs(), x.abs()) <= 1)


@dataclass(frozen=True)
class ClassificationTerms:
    """Terms of `ClassificationLoss`.

    Attributes:
        total: scalar, the mean over the labeled samples, to be differentiated.
        cross_entropy, accuracy: `[B]`; NaN where a sample has no label.
        level: `[B]`, the timestep of the noisiest channel; that of the radiograph where the masks are dropped.
        masks_dropped: bool `[B]`, True where the classifier saw the radiograph alone.
    """

    total: torch.Tensor
    cross_entropy: torch.Tensor
    accuracy: torch.Tensor
    level: torch.Tensor
    masks_dropped: torch.Tensor


@dataclass(frozen=True)
class ClassificationLoss:
    """Loss of the guidance classifier: cross-entropy on joint samples noised as the denoiser's are (ADM, arXiv 2105.05233,
    sec. 4).

    The lesion mask gives the label away, so that a classifier that always has it never looks at the radiograph, and its
    gradient there is nought. Dropped masks make it look: they are pure noise, which is the marginal of UniDiffuser (arXiv
    2303.06555, sec. 3), where the other modality stands at its highest noise level.

    Nothing is inserted into a given film here: the classifier judges a whole joint sample, and the share of insertion
    practises pairs.

    Attributes:
        process, task_probabilities, timestep_probabilities: As in `DenoisingLoss`.
        config: Configuration of the classifier (`GuidanceClassifier`).
        mask_dropout: Probability that a sample's masks are shown as pure noise, at the timestep T - 1, whatever its task; the
            radiograph keeps its own timestep.
    """

    process: ForwardProcess
    config: object
    task_probabilities: Sequence[float]
    mask_dropout: float = 0.0
    timestep_probabilities: torch.Tensor | None = None

    def __call__(self, classifier, batch: dict[str, torch.Tensor], draws: Draws | None = None) -> ClassificationTerms:
        """
        Args:
            batch: `joint_sample` `[B, 3, H, W]` in [-1, 1] and `class_label` `[B]`, where `num_classes` is "not known".
            draws: the random numbers of the batch; None draws them from torch's global generator.
        """
        clean = to_signal(batch["joint_sample"], self.config)  # [B, 3, H, W]
        draws = draws or Draws(len(clean), clean.device)
        pairs, masks_to_image, image_to_masks, *insertion = self.task_probabilities
        timesteps, noised, _ = draw_timesteps(  # [B, 3], [B, 3]
            len(clean),
            self.process.num_timesteps,
            (pairs + sum(insertion), masks_to_image, image_to_masks),
            clean.device,
            timestep_probabilities=self.timestep_probabilities,
            draws=draws,
        )
        level = timesteps.amax(dim=1)  # [B]
        known = known_mask(self.config, clean.device)  # [3]
        noised = noised & known
        dropped = torch.zeros_like(level, dtype=torch.bool)
        if self.mask_dropout:  # without it nothing more is drawn: the trainings of before keep their random numbers
            # Masks that are given as well: guidance with given masks can only act on the radiograph.
            dropped = draws.uniform() < self.mask_dropout
            level = torch.where(dropped, timesteps[:, RADIOGRAPH], level)
            clean, timesteps, noised = without_masks(clean, timesteps, noised, dropped, self.process.num_timesteps, known)
        noisy = self.process.sample(clean, timesteps, noised, draws.normal(clean)).noisy
        output = classifier(noisy, timesteps[:, RADIOGRAPH], mask_timestep=timesteps[:, ANATOMY_MASK])
        logits = logits_of(output)  # [B, K]

        labels = batch["class_label"]
        has_label = labels < self.config.num_classes
        labels = labels.where(has_label, 0)
        cross_entropy = F.cross_entropy(logits.float(), labels, reduction="none")  # [B]
        correct = (logits.argmax(dim=1) == labels).float()
        return ClassificationTerms(
            total=(cross_entropy * has_label).sum() / has_label.sum().clamp(min=1),
            cross_entropy=cross_entropy.detach().masked_fill(~has_label, torch.nan),
            accuracy=correct.masked_fill(~has_label, torch.nan),
            level=level,
            masks_dropped=dropped,
        )


def known_mask(config, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return which channels of the joint sample a network knows, bool `[3]`."""
    known = torch.zeros(len(CHANNELS), dtype=torch.bool)
    known[list(known_channels(config))] = True
    return known.to(device)


def without_masks(
    clean: torch.Tensor,
    timesteps: torch.Tensor,
    noised: torch.Tensor,
    dropped: torch.Tensor,
    num_timesteps: int,
    known: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make the masks of the `dropped` samples pure noise: nothing of them is left to be noised, at the timestep T - 1.

    Noised there as they are, a trace of them would stay, and in its many pixels a large lesion could still be found.

    Args:
        clean: `[B, 3, H, W]`.
        timesteps: int64 `[B, 3]`.
        noised: bool `[B, 3]`.
        dropped: bool `[B]`.
        num_timesteps: T.
        known: bool `[3]`, see `known_mask`; of the other channels the timestep alone changes, which all masks have in common.

    Returns:
        The first three as `ForwardProcess.sample` takes them; other samples and the radiographs are as they were.
    """
    hidden = dropped[:, None].repeat(1, clean.shape[1])  # [B, 3]
    hidden[:, RADIOGRAPH] = False
    timesteps = timesteps.masked_fill(hidden, num_timesteps - 1)
    hidden = hidden & known
    return clean.masked_fill(hidden[:, :, None, None], 0), timesteps, noised | hidden
