"""`GuidanceClassifier`: the noise-aware classifier `p_phi(y | I_t, t)` that steers sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block
from diffusers.utils import BaseOutput

from .joint_sample import MASKS, check_channel_weights, check_masks, hide_absent, weigh


@dataclass
class GuidanceClassifierOutput(BaseOutput):
    """
    Output of [`GuidanceClassifier`].

    Args:
        logits (`torch.Tensor` `[B, num_classes]`): of `p_phi(y | I_t, t)`.
    """

    logits: torch.Tensor


class GuidanceClassifier(ModelMixin, ConfigMixin):
    r"""
    The encoder half of the denoiser with a classification head, trained on noisy joint samples (MaC-DM, arXiv
    2311.13688; ADM, arXiv 2105.05233, sec. 4). It is fed what the denoiser is fed: weighted channels, the timestep of
    the radiograph and that of the masks.

    The head sees the mean *and* the maximum of each feature over space: a lesion of a few pixels vanishes in a mean.

    Parameters:
        sample_size (`int`, defaults to 64): Height and width of a joint sample, in pixels.
        in_channels (`int`, defaults to 3): Radiograph and masks.
        num_classes (`int`, defaults to 2): Number of class labels (there is no null label here).
        down_block_types, block_out_channels, layers_per_block, attention_head_dim, norm_num_groups,
        resnet_time_scale_shift, dropout: as in [`UNet2DModel`].
        channel_weights, mask_weighting, mask_timestep, patch_size, masks: as in [`MaCDMUNet2DModel`], to be set alike.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        num_classes: int = 2,
        down_block_types: tuple[str, ...] = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        block_out_channels: tuple[int, ...] = (32, 64, 96),
        layers_per_block: int = 1,
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 8,
        resnet_time_scale_shift: str = "default",
        dropout: float = 0.0,
        channel_weights: tuple[float, ...] = (1.0, 1.0, 1.0),
        mask_weighting: str = "input",
        mask_timestep: bool = True,
        patch_size: int = 1,
        masks: tuple[str, ...] = MASKS,
    ):
        super().__init__()
        check_channel_weights(channel_weights, in_channels, mask_weighting)
        check_masks(masks, in_channels)
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes} is too small: a classifier needs at least 2.")
        if len(down_block_types) != len(block_out_channels):
            raise ValueError(
                f"down_block_types={down_block_types} and block_out_channels={block_out_channels} differ in length."
            )

        embedding_dim = block_out_channels[0] * 4
        self.time_proj = Timesteps(block_out_channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(block_out_channels[0], embedding_dim)
        if mask_timestep:
            self.mask_time_embedding = TimestepEmbedding(block_out_channels[0], embedding_dim)
        self.conv_in = torch.nn.Conv2d(in_channels * patch_size**2, block_out_channels[0], kernel_size=3, padding=1)
        self.down_blocks = torch.nn.ModuleList()
        for i, (down_block_type, channels) in enumerate(zip(down_block_types, block_out_channels, strict=True)):
            self.down_blocks.append(
                get_down_block(
                    down_block_type,
                    num_layers=layers_per_block,
                    in_channels=block_out_channels[max(i - 1, 0)],
                    out_channels=channels,
                    temb_channels=embedding_dim,
                    add_downsample=i < len(block_out_channels) - 1,
                    resnet_eps=1e-5,
                    resnet_act_fn="silu",
                    resnet_groups=norm_num_groups,
                    attention_head_dim=attention_head_dim if attention_head_dim is not None else channels,
                    downsample_padding=1,
                    resnet_time_scale_shift=resnet_time_scale_shift,
                    downsample_type="conv",
                    dropout=dropout,
                )
            )
        self.mid_block = UNetMidBlock2D(
            in_channels=block_out_channels[-1],
            temb_channels=embedding_dim,
            dropout=dropout,
            resnet_time_scale_shift=resnet_time_scale_shift,
            attention_head_dim=attention_head_dim if attention_head_dim is not None else block_out_channels[-1],
            resnet_groups=norm_num_groups,
        )
        self.norm_out = torch.nn.GroupNorm(norm_num_groups, block_out_channels[-1])
        self.head = torch.nn.Linear(2 * block_out_channels[-1], num_classes)

    def features(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        mask_timestep: torch.Tensor | float | int | None = None,
    ) -> list[torch.Tensor]:
        """Feature maps `[B, F, h, w]` of every resolution, finest first, the last one before the head.

        Args: as `forward`. Used by the perceptual term of the loss, which needs no download this way.
        """
        config = self.config
        embedding = self.time_embedding(self._project(timestep, sample))  # [B, E]
        if config.mask_timestep:
            mask_timesteps = timestep if mask_timestep is None else mask_timestep
            embedding = embedding + self.mask_time_embedding(self._project(mask_timesteps, sample))
        elif mask_timestep is not None:
            raise ValueError("mask_timestep was given to a classifier without one (mask_timestep=False in its config).")

        sample = hide_absent(sample.to(self.dtype), config)
        if config.mask_weighting == "input":
            sample = weigh(sample, config.channel_weights)
        hidden = self.conv_in(F.pixel_unshuffle(sample, config.patch_size))  # [B, F, H / p, W / p]
        maps = []
        for block in self.down_blocks:
            hidden, residuals = block(hidden_states=hidden, temb=embedding)
            maps.append(residuals[config.layers_per_block - 1])
        maps[-1] = F.silu(self.norm_out(self.mid_block(hidden, embedding)))
        return maps

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        mask_timestep: torch.Tensor | float | int | None = None,
        return_dict: bool = True,
    ) -> GuidanceClassifierOutput | tuple:
        r"""
        Args:
            sample (`torch.Tensor` `[B, in_channels, H, W]`): Noisy joint sample, as the denoiser sees it.
            timestep (`torch.Tensor` `[B]`, `float` or `int`): Timestep of the radiograph.
            mask_timestep (*optional*): Timestep of the masks; `None` is the radiograph's.

        Returns:
            [`GuidanceClassifierOutput`] or `tuple`.
        """
        last = self.features(sample, timestep, mask_timestep)[-1]  # [B, F, h, w]
        logits = self.head(torch.cat([last.mean(dim=(2, 3)), last.amax(dim=(2, 3))], dim=1))  # [B, K]
        return GuidanceClassifierOutput(logits) if return_dict else (logits,)

    def _project(self, timestep: torch.Tensor | float | int, sample: torch.Tensor) -> torch.Tensor:
        # The sample's device: that of the weights is another one while they are offloaded.
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        return self.time_proj(timesteps).to(self.dtype)
