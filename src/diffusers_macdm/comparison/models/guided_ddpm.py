"""Class-conditional diffusion of the radiograph alone, with classifier guidance: what MaC-DM started from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ...data.cases import Cases
from ...macdm import GuidanceClassifier
from ...macdm.forward_process import noise_of, prediction_of
from ...macdm.guidance import classifier_gradient, classifier_guided_noise
from ...macdm.joint_sample import RADIOGRAPH
from ...seeds import derived_seed
from ..diffusion import (
    PREDICTION_TYPE,
    ClassConditionalUNet,
    ddim_scheduler,
    denoise,
    mean_squared_error,
    network_arguments,
    training_process,
)
from ..model import GenerativeModel
from ..settings import TrainingBudget
from ..training import CLASSIFIER_SHARE, count_classes, own_randomness, total_facts, train


class GuidedDDPM(GenerativeModel):
    """The ablated diffusion model on one channel.

    Args:
        guidance_scale: of the classifier guidance, as MaC-DM's.
    """

    name = "guided_ddpm"
    title = "DDPM without masks"
    description = (
        "class-conditional diffusion of the radiograph alone with classifier guidance (ADM, Dhariwal and Nichol, arXiv "
        f"2105.05233, algorithm 2): mean squared error of v, the classifier gets {CLASSIFIER_SHARE:.0%} of the steps; DDIM; "
        "no masks"
    )
    makes_masks = "none"

    def __init__(self, guidance_scale: float = 1.0):
        self.guidance_scale = guidance_scale

    def fit(
        self, cases: Cases, budget: TrainingBudget, *, seed: int, device: torch.device | str = "cpu", progress: bool = False
    ) -> dict:
        self.check_size(cases.size, budget)
        self.num_classes, self.budget, self.size, self.device = count_classes(cases), budget, cases.size, device
        self.process = training_process(device)
        classifier_steps = max(1, round(CLASSIFIER_SHARE * budget.steps))

        def denoising_loss(batch):
            return mean_squared_error(
                self.process,
                batch["joint_sample"][:, RADIOGRAPH, None],
                lambda noisy, t: self.unet(noisy, t, batch["class_label"], batch["augmentation_labels"]),
            )

        def classification_loss(batch):
            clean = batch["joint_sample"][:, RADIOGRAPH, None]  # [B, 1, H, W]
            timesteps = torch.randint(self.process.num_timesteps, (len(clean),), device=clean.device)
            noisy = self.process.add_noise(clean, torch.randn_like(clean), timesteps)
            return F.cross_entropy(self.classifier(noisy, timesteps).logits, batch["class_label"])

        with own_randomness(seed, device):
            self.unet = ClassConditionalUNet(1, 1, cases.size, self.num_classes, budget, budget.patch_size)
            denoiser_facts = train(
                self.unet,
                cases,
                budget,
                denoising_loss,
                steps=budget.steps - classifier_steps,
                seed=seed,
                device=device,
                progress="denoiser" if progress else None,
            )
            self.classifier = GuidanceClassifier(
                **network_arguments(budget),
                sample_size=cases.size,
                in_channels=1,
                channel_weights=(1.0,),
                mask_timestep=False,
                patch_size=budget.patch_size,
                num_classes=self.num_classes,
            )
            classifier_facts = train(
                self.classifier,
                cases,
                budget,
                classification_loss,
                steps=classifier_steps,
                seed=derived_seed(seed, 1),
                device=device,
                progress="guidance classifier" if progress else None,
            )
        facts = {"denoiser": denoiser_facts, "guidance_classifier": classifier_facts}
        return total_facts(facts, [self.unet, self.classifier])

    def draw(
        self, class_labels: torch.Tensor, generators: Sequence[torch.Generator], masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        labels = class_labels.to(self.device)

        def predict(noisy, timestep):
            abar = self.process.alphas_cumprod_at(timestep)
            noise = noise_of(self.unet(noisy, timestep, labels), noisy, abar, PREDICTION_TYPE)
            gradient = classifier_gradient(self.classifier, noisy, labels, timestep=timestep)
            noise = classifier_guided_noise(noise, gradient, abar, self.guidance_scale)
            return prediction_of(noise, noisy, abar, PREDICTION_TYPE)

        shape = (1, self.size, self.size)
        return denoise(ddim_scheduler(), predict, shape, generators, self.budget.num_inference_steps, self.device)
