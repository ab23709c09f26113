"""`MaCDMUNet2DModel`: the denoiser of MaC-DM, a `UNet2DModel` with extra mask channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput

from .forward_process import ForwardProcess
from .joint_sample import MASKS, check_channel_weights, check_masks, hide_absent, weigh


class MaCDMUNet2DModel(UNet2DModel):
    r"""
    A class-conditional `UNet2DModel` that denoises a radiograph and its masks jointly: `concat(w1 x_t, w2 b_t, w3 c_t)`
    (MaC-DM, arXiv 2311.13688, sec. 2) -> the noise of every channel and, with twice as many output channels, the
    interpolated log-variance `v` (Improved DDPM, arXiv 2102.09672, eq. 15).

    It inherits from [`UNet2DModel`] and takes all its parameters with the same meaning; those below are new or differ.

    Parameters:
        sample_size (`int`, defaults to 64): Height and width of a joint sample, in pixels.
        in_channels (`int`, defaults to 3): Radiograph and masks, in the order of `joint_sample.CHANNELS`.
        out_channels (`int`, defaults to 6):
            `in_channels` for the noise alone, `2 * in_channels` for the noise and the learned variance.
        num_class_embeds (`int`, defaults to 3):
            Number of class labels *plus one*: the last is the null label (`null_class_label`), which stands for "not
            known" (unlabeled images, classifier-free guidance). `None`: no class condition.
        channel_weights (`tuple[float, ...]`, defaults to `(1.0, 1.0, 1.0)`): `w1, w2, w3`, one for each input channel.
        mask_weighting (`str`, defaults to `"input"`):
            Where the weights act. `"input"`: on the noisy channels, inside this network. `"signal"`: on the clean
            channels before the noise (`joint_sample.to_signal`), outside of it; the network takes its input as it is.
        mask_timestep (`bool`, defaults to `True`):
            Whether the masks can have a timestep of their own (UniDiffuser, arXiv 2303.06555), which mask -> image and
            image -> mask need.
        patch_size (`int`, defaults to 1):
            Each `patch_size x patch_size` patch becomes channels before the first convolution (pixel-unshuffle) and is
            put back after the last one (pixel-shuffle): `patch_size ** 2` times less work at the same resolution.
        bound_variance (`bool`, defaults to `True`):
            Keep the learned variance between its bounds: the network's `v` is the hyperbolic tangent of its last
            convolution. Unbounded, as in Improved DDPM, `v` leaves [-1, 1] early in training, where the error of the mean
            calls for more variance than the bounds allow; at high noise levels nothing brings it back, and ancestral
            sampling in few steps, where the bounds lie far apart, drowns in noise. `False` for converted weights.
        augmentation_dim (`int`, defaults to 0):
            Number of augmentation parameters that the network is told in training and that are zero at sampling, so
            that augmentations do not leak into samples (EDM, arXiv 2206.00364, app. F.2). 0: none.
        num_attention_heads (`int`, *optional*):
            Number of heads of every attention layer, in place of heads of `attention_head_dim` channels.
        detail_channels (`int`, defaults to 0):
            Channels of a small convolutional head at full resolution, which sees the noisy input beside the output of the
            U-Net and adds to it ([`DetailHead`]). With patches, all that an image is has to pass the coarse grid; the head
            keeps pixels sharp at low noise levels. 0: none.
        film_noise (`float`, defaults to 0.0):
            Largest standard deviation of the film's own noise, where films lie in [-1, 1]; 0: none is modelled. No network
            can predict that noise, and one that works on patches cannot carry it from input to output. So it predicts,
            beside the clean sample without noise, the deviation `s <= film_noise` of each pixel, and its output is the
            posterior mean of a pixel whose noisy input shows it with a deviation of `sigma_t`: `(sigma_t^2 estimate + s^2
            input / sqrt(abar_t)) / (sigma_t^2 + s^2)`. Sampling then makes noise of deviation `s`. For networks that predict
            the clean sample (`prediction_type="sample"`).
        beta_schedule (`str`, defaults to `"linear"`):
            Noise schedule of diffusers' `DDPMScheduler` that `sigma_t` is computed by, with `num_train_timesteps` (1000 where
            that is `None`); read with `film_noise` alone.
        masks (`tuple[str, ...]`, defaults to `("anatomy_mask", "lesion_mask")`):
            Masks that the training set had. Of a set with one mask, the channel of the other one is background here whatever
            is fed there, carries no loss, and is not put out by the pipeline.
        time_proj_dim (`int`, *optional*):
            Width of the sinusoidal embedding of the timestep; `None` is `block_out_channels[0]`. Converted weights of
            guided-diffusion need these two (`conversion`).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        out_channels: int = 6,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: tuple[int, ...] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 32,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        add_attention: bool = True,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = 3,
        num_train_timesteps: int | None = None,
        channel_weights: tuple[float, ...] = (1.0, 1.0, 1.0),
        mask_weighting: str = "input",
        mask_timestep: bool = True,
        patch_size: int = 1,
        bound_variance: bool = True,
        augmentation_dim: int = 0,
        num_attention_heads: int | None = None,
        time_proj_dim: int | None = None,
        detail_channels: int = 0,
        film_noise: float = 0.0,
        beta_schedule: str = "linear",
        masks: tuple[str, ...] = MASKS,
    ):
        if not isinstance(sample_size, int):
            raise ValueError(f"sample_size={sample_size!r} is not supported: one whole number, joint samples are square.")
        check_channel_weights(channel_weights, in_channels, mask_weighting)
        check_masks(masks, in_channels)
        if out_channels not in (in_channels, 2 * in_channels):
            raise ValueError(
                f"out_channels={out_channels} does not fit in_channels={in_channels}: allowed are {in_channels} (noise) "
                f"and {2 * in_channels} (noise and learned variance)."
            )
        if class_embed_type is not None:
            raise ValueError(f"class_embed_type={class_embed_type!r} is not supported: class labels need None.")
        if num_class_embeds is not None and num_class_embeds < 2:
            raise ValueError(
                f"num_class_embeds={num_class_embeds} is too small: it counts the class labels and the null label."
            )
        if time_embedding_type == "fourier":
            raise ValueError(
                "time_embedding_type='fourier' divides the output by the timestep, which is 0 for a given channel; "
                "allowed are 'positional' and 'learned'."
            )
        if film_noise < 0:
            raise ValueError(f"film_noise={film_noise} must be 0 (none is modelled) or more.")
        if patch_size < 1:
            raise ValueError(f"patch_size={patch_size} must be at least 1.")
        if time_proj_dim is not None and (time_embedding_type != "positional" or time_proj_dim < 2 or time_proj_dim % 2):
            raise ValueError(
                f"time_proj_dim={time_proj_dim} is not allowed: an even number, with time_embedding_type='positional' alone."
            )

        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels * patch_size**2,
            out_channels=(out_channels + (film_noise > 0)) * patch_size**2,
            center_input_sample=center_input_sample,
            time_embedding_type=time_embedding_type,
            time_embedding_dim=time_embedding_dim,
            freq_shift=freq_shift,
            flip_sin_to_cos=flip_sin_to_cos,
            down_block_types=down_block_types,
            mid_block_type=mid_block_type,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            mid_block_scale_factor=mid_block_scale_factor,
            downsample_padding=downsample_padding,
            downsample_type=downsample_type,
            upsample_type=upsample_type,
            dropout=dropout,
            act_fn=act_fn,
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            attn_norm_num_groups=attn_norm_num_groups,
            norm_eps=norm_eps,
            resnet_time_scale_shift=resnet_time_scale_shift,
            add_attention=add_attention,
            # The parent adds `class_embedding(class_labels)` to the time embedding. As an identity it lets `forward`
            # add the sum of all conditions there without repeating the parent's forward.
            class_embed_type="identity",
            num_class_embeds=None,
            num_train_timesteps=num_train_timesteps,
        )
        # The parent's own decorator has registered the values above; the config holds what the caller gave.
        self.register_to_config(
            in_channels=in_channels,
            out_channels=out_channels,
            class_embed_type=class_embed_type,
            num_class_embeds=num_class_embeds,
        )

        # As ADM does: an untrained network predicts nothing rather than anything, and `v` = 0.
        torch.nn.init.zeros_(self.conv_out.weight)
        torch.nn.init.zeros_(self.conv_out.bias)

        embedding_dim = time_embedding_dim or block_out_channels[0] * 4
        if time_proj_dim is not None:
            self.time_proj = Timesteps(time_proj_dim, flip_sin_to_cos, freq_shift)
            self.time_embedding = TimestepEmbedding(time_proj_dim, embedding_dim)
        if num_attention_heads is not None:
            _set_attention_heads(self, num_attention_heads)
        if num_class_embeds is not None:
            self.label_embedding = torch.nn.Embedding(num_class_embeds, embedding_dim)
        if mask_timestep:
            # Zero at the start: an untrained mask timestep changes nothing, so plain checkpoints keep their function.
            self.mask_time_embedding = TimestepEmbedding(time_proj_dim or block_out_channels[0], embedding_dim)
            torch.nn.init.zeros_(self.mask_time_embedding.linear_2.weight)
            torch.nn.init.zeros_(self.mask_time_embedding.linear_2.bias)
        if augmentation_dim:
            # No bias: parameters that are all zero say "as it was", also before any training.
            self.augmentation_embedding = torch.nn.Linear(augmentation_dim, embedding_dim, bias=False)
        if detail_channels:
            self.detail_head = DetailHead(in_channels, out_channels, detail_channels, embedding_dim)
        if film_noise:
            with torch.device("cpu"):  # these are numbers also in a network that is made without its weights, on "meta"
                scheduler = DDPMScheduler(num_train_timesteps=num_train_timesteps or 1000, beta_schedule=beta_schedule)
                log_sigmas = -ForwardProcess.from_scheduler(scheduler).snr.log() / 2
            self.register_buffer("log_sigmas", log_sigmas.float(), persistent=False)  # [T]

    @property
    def learned_variance(self) -> bool:
        """Whether the output holds the interpolated log-variance behind the noise."""
        return self.config.out_channels == 2 * self.config.in_channels

    @property
    def num_classes(self) -> int:
        """Number of class labels without the null label; 0 without a class condition."""
        return (self.config.num_class_embeds or 1) - 1

    @property
    def null_class_label(self) -> int | None:
        """The label that stands for "not known"; None without a class condition."""
        return self.num_classes or None

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        mask_timestep: torch.Tensor | float | int | None = None,
        augmentation_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple:
        r"""
        Args:
            sample (`torch.Tensor` `[B, in_channels, H, W]`): Noisy joint sample, scaled as `scale_model_input` does.
            timestep (`torch.Tensor` `[B]`, `float` or `int`): Timestep of the radiograph, in [0, T).
            class_labels (`torch.Tensor` `[B]` int64, *optional*): In [0, num_class_embeds); `None` is the null label.
            mask_timestep (`torch.Tensor` `[B]`, `float` or `int`, *optional*):
                Timestep of the masks, 0 where they are given clean; `None` is the radiograph's.
            augmentation_labels (`torch.Tensor` `[B, augmentation_dim]`, *optional*): `None` is zero: no augmentation.

        Returns:
            [`UNet2DOutput`] or `tuple`: `[B, out_channels, H, W]`.

        Raises:
            ValueError: for a condition that this network was built without, and for sides that cannot be halved.
        """
        config = self.config
        batch_size, _, height, width = sample.shape
        multiple = config.patch_size * 2 ** (len(config.block_out_channels) - 1)
        if height % multiple or width % multiple:
            raise ValueError(f"A sample of {height}x{width} does not fit: both sides must be multiples of {multiple}.")
        if class_labels is not None and config.num_class_embeds is None:
            raise ValueError("class_labels were given to a network without class condition (num_class_embeds=None).")
        if mask_timestep is not None and not config.mask_timestep:
            raise ValueError("mask_timestep was given to a network without one (mask_timestep=False in its config).")
        if augmentation_labels is not None and not config.augmentation_dim:
            raise ValueError("augmentation_labels were given to a network without them (augmentation_dim=0).")

        # The parent would cut a Python float to a whole number.
        timestep = torch.as_tensor(timestep, device=sample.device).expand(batch_size)  # [B]
        conditions = torch.zeros(batch_size, self.time_embedding.linear_2.out_features, device=sample.device)
        conditions = conditions.to(self.dtype)  # [B, E]
        if config.num_class_embeds is not None:
            if class_labels is None:
                class_labels = torch.full((batch_size,), self.null_class_label, device=sample.device)
            conditions = conditions + self.label_embedding(class_labels).to(self.dtype)
        if config.mask_timestep:
            mask_timesteps = timestep if mask_timestep is None else mask_timestep
            mask_timesteps = torch.as_tensor(mask_timesteps, device=sample.device).expand(batch_size)
            conditions = conditions + self.mask_time_embedding(self.time_proj(mask_timesteps).to(self.dtype))
        if augmentation_labels is not None:
            conditions = conditions + self.augmentation_embedding(augmentation_labels.to(self.dtype))

        noisy = sample = hide_absent(sample, config)
        if config.mask_weighting == "input":
            sample = weigh(sample, config.channel_weights)
        patches = F.pixel_unshuffle(sample, config.patch_size)  # [B, C p^2, H / p, W / p]
        output = super().forward(patches, timestep, class_labels=conditions, return_dict=False)[0]
        output = F.pixel_shuffle(output, config.patch_size)  # [B, out_channels, H, W]
        output, deviation = output.split([config.out_channels, output.shape[1] - config.out_channels], dim=1)
        if config.detail_channels:
            embedding = self.time_embedding(self.time_proj(timestep).to(self.dtype)) + conditions  # [B, E]
            output = output + self.detail_head(torch.cat([sample, output], dim=1), embedding)
        if config.film_noise:
            film = self._with_film_noise(output[:, :1], deviation, noisy[:, :1], timestep)
            output = torch.cat([film, output[:, 1:].to(film.dtype)], dim=1)
        if self.learned_variance and config.bound_variance:
            prediction, v = output.chunk(2, dim=1)
            output = torch.cat([prediction, v.tanh()], dim=1)

        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _with_film_noise(
        self, estimate: torch.Tensor, deviation: torch.Tensor, noisy: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """Posterior mean of the clean film, from an estimate of it without noise and the noisy film: `[B, 1, H, W]` each."""
        last = len(self.log_sigmas) - 1
        # Fractional timesteps are visited, too: log sigma is interpolated, as schedulers do.
        below = timestep.floor().long().clamp(0, last)
        log_sigmas = self.log_sigmas.float()
        log_sigma = torch.lerp(log_sigmas[below], log_sigmas[(below + 1).clamp(max=last)], timestep.float() - below)
        variance = log_sigma.mul(2).exp()[:, None, None, None]  # [B, 1, 1, 1], sigma_t^2; 1 + sigma_t^2 = 1 / abar_t
        largest = self.config.film_noise * (self.config.channel_weights[0] if self.config.mask_weighting == "signal" else 1)
        film_variance = (largest * deviation.float().sigmoid()) ** 2
        gate = film_variance / (film_variance + variance)
        return torch.lerp(estimate.float(), noisy.float() * (1 + variance).sqrt(), gate).to(estimate.dtype)


class DetailHead(torch.nn.Module):
    """Three convolutions at full resolution that correct the output of a U-Net which works on patches.

    Zero at the start, so that a network with it begins as one without.

    Args:
        in_channels: of the noisy sample.
        out_channels: of the U-Net's output.
        channels: of the hidden layers.
        embedding_dim: of the embedding of timestep and conditions, which scales and shifts the first hidden layer.
    """

    def __init__(self, in_channels: int, out_channels: int, channels: int, embedding_dim: int):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(in_channels + out_channels, channels, kernel_size=3, padding=1)
        self.modulation = torch.nn.Linear(embedding_dim, 2 * channels)
        self.conv_hidden = torch.nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv_out = torch.nn.Conv2d(channels, out_channels, kernel_size=3, padding=1)
        torch.nn.init.zeros_(self.conv_out.weight)
        torch.nn.init.zeros_(self.conv_out.bias)

    def forward(self, sample_and_output: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map `[B, in_channels + out_channels, H, W]` and `[B, embedding_dim]` to a correction `[B, out_channels, H, W]`."""
        scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)  # [B, channels, 1, 1] each
        hidden = F.silu(self.conv_in(sample_and_output) * (1 + scale) + shift)
        return self.conv_out(F.silu(self.conv_hidden(hidden)))


def _set_attention_heads(model: torch.nn.Module, num_heads: int) -> None:
    """Give every attention layer the same number of heads; its weights are the same for any number."""
    for layer in model.modules():
        if isinstance(layer, Attention):
            if num_heads < 1 or layer.inner_dim % num_heads:
                raise ValueError(
                    f"num_attention_heads={num_heads} does not fit: it must divide the channels of all attention layers, "
                    f"here {layer.inner_dim}."
                )
            layer.heads = layer.sliceable_head_dim = num_heads
            layer.scale = (layer.inner_dim // num_heads) ** -0.5
