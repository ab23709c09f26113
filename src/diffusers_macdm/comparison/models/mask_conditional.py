"""Diffusion of the radiograph for given masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...data.cases import Cases
from ...macdm.joint_sample import CHANNELS, MASK_CHANNELS, RADIOGRAPH
from ..diffusion import ClassConditionalUNet, ddim_scheduler, denoise, mean_squared_error, training_process
from ..model import GenerativeModel
from ..settings import TrainingBudget
from ..training import count_classes, own_randomness, total_facts, train


class MaskConditionalDiffusion(GenerativeModel):
    """The clean masks are further channels of the denoiser's input in training and in sampling."""

    name = "mask_conditional"
    title = "mask-conditional DDPM"
    description = (
        "diffusion of the radiograph with given masks as further clean channels (segmentation-guided diffusion, Konz et al., "
        "arXiv 2402.05210, with class labels and without its mask ablation), DDIM; the masks are those of training cases"
    )
    makes_masks = "given"

    def fit(
        self, cases: Cases, budget: TrainingBudget, *, seed: int, device: torch.device | str = "cpu", progress: bool = False
    ) -> dict:
        self.check_size(cases.size, budget)
        self.num_classes, self.budget, self.size, self.device = count_classes(cases), budget, cases.size, device
        process = training_process(device)

        def loss_of(batch):
            clean, masks = batch["joint_sample"][:, RADIOGRAPH, None], batch["joint_sample"][:, MASK_CHANNELS]
            return mean_squared_error(
                process,
                clean,
                lambda noisy, timesteps: self.unet(
                    torch.cat([noisy, masks], dim=1), timesteps, batch["class_label"], batch["augmentation_labels"]
                ),
            )

        with own_randomness(seed, device):
            self.unet = ClassConditionalUNet(len(CHANNELS), 1, cases.size, self.num_classes, budget, budget.patch_size)
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
        labels, masks = class_labels.to(self.device), masks.to(self.device)

        def predict(noisy, timestep):
            return self.unet(torch.cat([noisy, masks], dim=1), timestep, labels)  # [B, 1, H, W]

        shape = (1, self.size, self.size)
        return denoise(ddim_scheduler(), predict, shape, generators, self.budget.num_inference_steps, self.device)
