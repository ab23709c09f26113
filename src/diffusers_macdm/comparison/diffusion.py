"""What the diffusion models of the comparison share: the denoiser, the noise, the loss and the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

from ..data.augmentation import AUGMENTATION_DIM
from ..macdm.forward_process import ForwardProcess
from .settings import TrainingBudget


NUM_TRAIN_TIMESTEPS = 1000
# All predict v: in the short trainings that small sets allow, a prediction of the noise leaves noise in the samples.
PREDICTION_TYPE = "v_prediction"
CLASS_DROPOUT = 0.1  # share of samples shown with the null label, where a model has a use for it
ATTENTION_HEAD_DIM = 32


def network_arguments(budget: TrainingBudget) -> dict:
    """What denoisers and guidance classifiers are built alike with: self-attention at the lowest resolution alone."""
    channels = tuple(budget.block_out_channels)
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownBlock2D",) * (len(channels) - 1) + ("AttnDownBlock2D",),
        "attention_head_dim": min(ATTENTION_HEAD_DIM, channels[-1]),
        "norm_num_groups": budget.norm_num_groups,
        "resnet_time_scale_shift": "scale_shift",
    }


def up_block_types(budget: TrainingBudget) -> tuple[str, ...]:
    return ("AttnUpBlock2D",) + ("UpBlock2D",) * (len(budget.block_out_channels) - 1)


class ClassConditionalUNet(torch.nn.Module):
    """diffusers' `UNet2DModel` with class labels, on patches.

    It is told the parameters of the augmentation, which are zero at sampling, as MaC-DM's is: no model has to learn
    augmented films as if they were real ones.

    Args:
        in_channels, out_channels: of the images, before patches become channels.
        size: side of the images in pixels.
        num_classes: class labels; one more, the last, is the null label.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, num_classes: int, budget: TrainingBudget, patch_size: int
    ):
        super().__init__()
        self.patch_size, self.null_label = patch_size, num_classes
        embedding_dim = budget.block_out_channels[0] * 4
        self.unet = UNet2DModel(
            **network_arguments(budget),
            sample_size=size // patch_size,
            in_channels=in_channels * patch_size**2,
            out_channels=out_channels * patch_size**2,
            up_block_types=up_block_types(budget),
            layers_per_block=budget.layers_per_block,
            class_embed_type="identity",  # it adds what `class_labels` holds to the embedding of the timestep
        )
        self.label_embedding = torch.nn.Embedding(num_classes + 1, embedding_dim)
        self.augmentation_embedding = torch.nn.Linear(AUGMENTATION_DIM, embedding_dim, bias=False)
        torch.nn.init.zeros_(self.unet.conv_out.weight)
        torch.nn.init.zeros_(self.unet.conv_out.bias)

    def forward(
        self,
        images: torch.Tensor,
        timesteps: torch.Tensor,
        class_labels: torch.Tensor,
        augmentation_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`[B, in_channels, H, W]` -> `[B, out_channels, H, W]`; `timesteps` `[B]` or a number, `class_labels` `[B]`."""
        condition = self.label_embedding(class_labels)  # [B, E]
        if augmentation_labels is not None:
            condition = condition + self.augmentation_embedding(augmentation_labels)
        patches = F.pixel_unshuffle(images, self.patch_size)  # [B, C p^2, H / p, W / p]
        return F.pixel_shuffle(self.unet(patches, timesteps, class_labels=condition).sample, self.patch_size)


def training_process(device: torch.device | str) -> ForwardProcess:
    return ForwardProcess.from_scheduler(DDPMScheduler(NUM_TRAIN_TIMESTEPS)).to(device)


def ddim_scheduler(clip_sample: bool = True, clip_sample_range: float = 1.0) -> DDIMScheduler:
    """DDIM for all of them: no difference between two models is one of their samplers.

    After short trainings, and in few steps, ancestral sampling leaves more noise in the samples.

    Args:
        clip_sample: False for latents, which have no bounds.
        clip_sample_range: largest value of a clean sample.
    """
    return DDIMScheduler(
        NUM_TRAIN_TIMESTEPS,
        prediction_type=PREDICTION_TYPE,
        clip_sample=clip_sample,
        clip_sample_range=clip_sample_range,
        timestep_spacing="trailing",  # sampling starts at the noisiest level whatever the number of steps
    )


def mean_squared_error(
    process: ForwardProcess,
    clean: torch.Tensor,
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The plain diffusion loss (DDPM eq. 14), of v (arXiv 2202.00512, app. D): `clean` `[B, C, H, W]` -> scalar.

    Args:
        predict: noisy `[B, C, H, W]`, timesteps `[B]` -> `[B, C, H, W]`.
    """
    timesteps = torch.randint(process.num_timesteps, (len(clean),), device=clean.device)
    sample = process.sample(clean, timesteps)
    return F.mse_loss(predict(sample.noisy, timesteps), sample.target(PREDICTION_TYPE))


@torch.no_grad()
def denoise(
    scheduler,
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    num_inference_steps: int,
    device: torch.device | str,
) -> torch.Tensor:
    """Sample from noise.

    Args:
        predict: noisy sample `[B, C, H, W]`, timestep (a number) -> what the scheduler's `step` takes.
        shape: of one sample, `[C, H, W]`.

    Returns:
        `[B, C, H, W]`.
    """
    generators = list(generators)
    scheduler.set_timesteps(num_inference_steps, device=device)
    sample = randn_tensor((len(generators), *shape), generator=generators, device=torch.device(device))
    for timestep in scheduler.timesteps:
        sample = scheduler.step(predict(sample, timestep), timestep, sample, generator=generators).prev_sample
    return sample
