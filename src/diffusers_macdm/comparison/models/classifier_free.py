"""Joint diffusion of radiograph and masks, sampled with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...data.cases import Cases
from ...macdm.guidance import classifier_free_guided_noise
from ...macdm.joint_sample import CHANNELS
from ..diffusion import CLASS_DROPOUT, ClassConditionalUNet, ddim_scheduler, denoise, mean_squared_error, training_process
from ..model import GenerativeModel
from ..settings import TrainingBudget
from ..training import count_classes, own_randomness, total_facts, train


class ClassifierFreeDiffusion(GenerativeModel):
    """MaC-DM's three channels under a plain diffusion model: one timestep, no weights, no regions, no learned variance.

    Args:
        scale: `s` of `eps_null + s (eps_label - eps_null)`; 1 is off.
    """

    name = "classifier_free"
    title = "classifier-free guidance"
    description = (
        "joint diffusion of radiograph and masks with classifier-free guidance (Ho and Salimans, arXiv 2207.12598): "
        "diffusers' UNet2DModel, mean squared error of v, DDIM"
    )
    makes_masks = "generated"

    def __init__(self, scale: float = 2.0):
        self.scale = scale

    def fit(
        self, cases: Cases, budget: TrainingBudget, *, seed: int, device: torch.device | str = "cpu", progress: bool = False
    ) -> dict:
        self.check_size(cases.size, budget)
        self.num_classes, self.budget, self.size, self.device = count_classes(cases), budget, cases.size, device
        process = training_process(device)
        with own_randomness(seed, device):
            self.unet = ClassConditionalUNet(
                len(CHANNELS), len(CHANNELS), cases.size, self.num_classes, budget, budget.patch_size
            )

            def loss_of(batch):
                clean, labels = batch["joint_sample"], batch["class_label"]
                dropped = torch.rand(len(clean), device=clean.device) < CLASS_DROPOUT
                labels = labels.masked_fill(dropped, self.unet.null_label)
                return mean_squared_error(
                    process, clean, lambda noisy, t: self.unet(noisy, t, labels, batch["augmentation_labels"])
                )

            facts = train(
                self.unet,
                cases,
                budget,
                loss_of,
                steps=budget.steps,
                seed=seed,
                device=device,
                progress="denoiser" if progress else None,
            )
        return total_facts({"denoiser": facts}, [self.unet])

    def draw(
        self, class_labels: torch.Tensor, generators: Sequence[torch.Generator], masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        labels = class_labels.to(self.device)
        null_labels = torch.full_like(labels, self.unet.null_label)

        def predict(noisy, timestep):
            conditional = self.unet(noisy, timestep, labels)
            # Linear in the prediction, so it says of v what it says of the noise.
            return classifier_free_guided_noise(conditional, self.unet(noisy, timestep, null_labels), self.scale)

        shape = (len(CHANNELS), self.size, self.size)
        return denoise(ddim_scheduler(), predict, shape, generators, self.budget.num_inference_steps, self.device)
