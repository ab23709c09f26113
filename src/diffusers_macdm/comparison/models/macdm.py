"""MaC-DM, by this package's own parts, in the comparison's loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...data.augmentation import AUGMENTATION_DIM
from ...data.cases import Cases
from ...macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel
from ...macdm.joint_sample import CHANNELS
from ...macdm.loss import HybridLoss
from ...macdm.training_losses import ClassificationLoss, DenoisingLoss
from ...seeds import derived_seed
from ..diffusion import (
    CLASS_DROPOUT,
    PREDICTION_TYPE,
    ddim_scheduler,
    network_arguments,
    training_process,
    up_block_types,
)
from ..model import GenerativeModel
from ..settings import TrainingBudget
from ..training import CLASSIFIER_SHARE, count_classes, own_randomness, total_facts, train


PAIRS_ALONE = (1.0, 0.0, 0.0)  # the other two uses of the network are not compared, so no step goes to them


class MaCDM(GenerativeModel):
    """Masked conditional diffusion.

    Args:
        channel_weights: `w1, w2, w3`.
        guidance_scale: of the classifier guidance; 0 is off, and then no classifier is trained: the denoiser gets its steps.
        mask_weighting: where the weights act, "input" or "signal" (see `MaCDMUNet2DModel`).

    Attributes:
        pipeline: after `fit`, the trained `MaCDMPipeline`.
    """

    name = "macdm"
    title = "MaC-DM"
    description = (
        "MaC-DM (arXiv 2311.13688): joint diffusion of radiograph and masks, hybrid loss with learned variance and lesion "
        f"regions, guided by a noise-aware classifier that gets {CLASSIFIER_SHARE:.0%} of the steps; DDIM"
    )
    makes_masks = "generated"

    def __init__(
        self,
        channel_weights: Sequence[float] = (1.0, 1.0, 1.0),
        guidance_scale: float = 1.0,
        mask_weighting: str = "input",
    ):
        self.channel_weights, self.guidance_scale = tuple(channel_weights), guidance_scale
        self.mask_weighting = mask_weighting

    def fit(
        self, cases: Cases, budget: TrainingBudget, *, seed: int, device: torch.device | str = "cpu", progress: bool = False
    ) -> dict:
        self.check_size(cases.size, budget)
        self.num_classes, self.budget = count_classes(cases), budget
        process = training_process(device)
        common = {
            **network_arguments(budget),
            "sample_size": cases.size,
            "in_channels": len(CHANNELS),
            "channel_weights": self.channel_weights,
            "mask_weighting": self.mask_weighting,
            "patch_size": budget.patch_size,
        }
        facts, classifier = {}, None
        with own_randomness(seed, device):
            unet = MaCDMUNet2DModel(
                **common,
                out_channels=2 * len(CHANNELS),
                up_block_types=up_block_types(budget),
                layers_per_block=budget.layers_per_block,
                num_class_embeds=self.num_classes + 1,
                augmentation_dim=AUGMENTATION_DIM,
            )
            # The region weights of version 0.1.0, with which the published comparison was made.
            loss = HybridLoss(lesion_region_weight=10.0, radiograph_region_weight=4.0, prediction_type=PREDICTION_TYPE)
            denoising_loss = DenoisingLoss(loss, process, unet.config, PAIRS_ALONE, CLASS_DROPOUT, CLASS_DROPOUT)
            classifier_steps = max(1, round(CLASSIFIER_SHARE * budget.steps)) if self.guidance_scale else 0
            facts["denoiser"] = train(
                unet,
                cases,
                budget,
                lambda batch: denoising_loss(unet, batch)[0].total,
                steps=budget.steps - classifier_steps,
                seed=seed,
                device=device,
                progress="denoiser" if progress else None,
            )
            if classifier_steps:
                classifier = GuidanceClassifier(**common, num_classes=self.num_classes)
                classification_loss = ClassificationLoss(process, classifier.config, PAIRS_ALONE)
                facts["guidance_classifier"] = train(
                    classifier,
                    cases,
                    budget,
                    lambda batch: classification_loss(classifier, batch).total,
                    steps=classifier_steps,
                    seed=derived_seed(seed, 1),
                    device=device,
                    progress="guidance classifier" if progress else None,
                )
        # What is weighted in the signal reaches as far as its weight.
        largest = max(1.0, *self.channel_weights) if self.mask_weighting == "signal" else 1.0
        self.pipeline = MaCDMPipeline(unet, ddim_scheduler(clip_sample_range=largest), classifier)
        self.pipeline.set_progress_bar_config(disable=True)
        return total_facts(facts, [unet] if classifier is None else [unet, classifier])

    def draw(
        self, class_labels: torch.Tensor, generators: Sequence[torch.Generator], masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        output = self.pipeline(
            class_labels=class_labels,
            num_inference_steps=self.budget.num_inference_steps,
            guidance_scale=self.guidance_scale,
            generator=list(generators),
            refine_masks=False,  # refined as the other models' masks are
            output_type="pt",
        )
        channels = [output.images, output.anatomy_masks, output.lesion_masks]
        return torch.cat(channels, dim=1) * 2 - 1  # [B, 3, H, W]
