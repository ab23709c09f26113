"""The variational bound of a denoiser with a learned variance, and the densities that it is made of.

diffusers samples with a learned variance (`DDPMScheduler(variance_type="learned_range")`) but has no loss that trains
one. `vlb_term` does, for any `UNet2DModel` with 2C output channels (prediction, then the interpolated log-variance `v`)
and any `DDPMScheduler` (`ForwardProcess.from_scheduler`). With C output channels the variance is the fixed posterior
variance.

Sources: DDPM, Ho et al., arXiv 2006.11239; Improved DDPM, Nichol and Dhariwal, arXiv 2102.09672.
The bound is in bits per dimension, densities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .forward_process import ForwardProcess, NoisySample, clean_of, per_channel


def normal_kl(
    mean1: torch.Tensor, log_variance1: torch.Tensor, mean2: torch.Tensor, log_variance2: torch.Tensor
) -> torch.Tensor:
    """`KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2)))` in nats, elementwise with broadcasting."""
    difference = log_variance2 - log_variance1
    return 0.5 * (difference - 1 + torch.exp(-difference) + (mean1 - mean2) ** 2 * torch.exp(-log_variance2))


def discretized_gaussian_log_likelihood(
    x: torch.Tensor, means: torch.Tensor, log_scales: torch.Tensor, num_bins: int = 256
) -> torch.Tensor:
    """Log-probability of the bin of `x` under `N(means, exp(log_scales)^2)` (DDPM eq. 13), in nats, elementwise.

    Exact, also for bins hundreds of standard deviations away, where a difference of CDFs is 0: it is taken in
    float64, on the side of the mean where the CDF is small, with the exponential factored out.

    Args:
        x: values in [-1, 1] on the grid of `num_bins` equally spaced values from -1 to 1.
        means, log_scales: broadcast against `x`; `log_scales` is the log of the *standard deviation*.
        num_bins: at least 2; 256 for 8-bit images. The first and the last bin are open: they reach to infinity.

    Returns:
        Log-probabilities, of the shape that the three broadcast to and the dtype of `x` (at least float32).
    """
    if num_bins < 2:
        raise ValueError(f"num_bins={num_bins} is too small; at least 2 are needed.")
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, means, log_scales = torch.broadcast_tensors(x.double(), means.double(), log_scales.double())
    half_bin = 1 / (num_bins - 1)
    first, last = x < -1 + half_bin, x > 1 - half_bin

    # The Gaussian is symmetric: mirror each bin to the right of the mean (open bins so that they reach to +infinity).
    distance = (x - means) * torch.exp(-log_scales)
    half_width = half_bin * torch.exp(-log_scales)
    distance = torch.where(first, -distance, torch.where(last, distance, distance.abs()))
    lower = distance - half_width  # the bin is [lower, lower + 2 half_width], or [lower, inf) where it is open
    is_open = first | last

    # The mean lies in the bin: the probability is not small, a difference of CDFs is exact.
    inside = lower.clamp(max=0)
    beyond = torch.where(is_open, 0.0, torch.special.ndtr(-inside - 2 * half_width))
    log_inside = torch.log(torch.special.ndtr(-inside) - beyond)

    # The bin lies in the tail: 1 - Phi(z) = exp(-z^2 / 2) erfcx(z / sqrt 2) / 2; the exponential stays a logarithm.
    tail = lower.clamp(min=0)
    decay = torch.exp(-2 * half_width * (tail + half_width))
    beyond = torch.where(is_open, 0.0, decay * torch.special.erfcx((tail + 2 * half_width) / math.sqrt(2)))
    log_tail = torch.log((torch.special.erfcx(tail / math.sqrt(2)) - beyond) / 2) - tail**2 / 2

    return torch.where(lower > 0, log_tail, log_inside).to(dtype)


def split_learned_variance(model_output: torch.Tensor, num_channels: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`[B, 2C, H, W]` -> prediction and `v`, each `[B, C, H, W]`; `[B, C, H, W]` -> prediction and None.

    Raises:
        ValueError: the output has neither C nor 2C channels (diffusers' schedulers broadcast some of these silently).
    """
    out_channels = model_output.shape[1]
    if out_channels == num_channels:
        return model_output, None
    if out_channels == 2 * num_channels:
        return model_output[:, :num_channels], model_output[:, num_channels:]
    raise ValueError(
        f"The model output has {out_channels} channels; for samples of {num_channels} channels it needs "
        f"{num_channels} (fixed variance) or {2 * num_channels} (learned variance)."
    )


def interpolated_log_variance(v: torch.Tensor, timesteps: torch.Tensor, process: ForwardProcess) -> torch.Tensor:
    """Improved DDPM eq. 15: `log Sigma = f log beta_t + (1 - f) log beta~_t` with `f = (v + 1) / 2`; `[B, C, H, W]`.

    `v` = -1 is the posterior variance and 1 is `beta_t`, as in `DDPMScheduler(variance_type="learned_range")`; `v` is
    not clipped. The posterior variance is 0 at t = 0, there the one of t = 1 stands in for it.
    """
    v = v.to(torch.promote_types(v.dtype, torch.float32))
    log_beta = per_channel(process.betas.log(), timesteps).to(v)
    log_posterior = per_channel(process.posterior_log_variance, timesteps).to(v)
    fraction = (v + 1) / 2
    return fraction * log_beta + (1 - fraction) * log_posterior


def vlb_term(
    process: ForwardProcess,
    sample: NoisySample,
    prediction: torch.Tensor,
    v: torch.Tensor | None,
    prediction_type: str = "epsilon",
    clip_sample_range: float | None = None,
    channel_scale: Sequence[float] | None = None,
    num_bins: int = 256,
) -> torch.Tensor:
    """One term of the variational bound (DDPM eq. 5) for each channel.

    `KL(q(I_{t-1} | I_t, I_0) || p(I_{t-1} | I_t))` for t > 0, and for t = 0 the decoder `-log p(I_0 | I_1)` (DDPM eq.
    13), averaged over the pixels. The value of a given channel means nothing.

    Args:
        sample: the batch that the network was fed with.
        prediction: `[B, C, H, W]`, of type `prediction_type`.
        v: `[B, C, H, W]`, the interpolated log-variance; None is a model of fixed variance, the posterior variance
            (`DDPMScheduler(variance_type="fixed_small")`).
        clip_sample_range: bound on the predicted clean sample, as in `DDPMScheduler`; None does not clip.
        channel_scale: `[C]`, the weights that the clean sample was multiplied with before the noise
            (`joint_sample.signal_weights`); the grid of the decoder and the clipping scale with it. None is 1.
        num_bins: values that a pixel of the clean sample can take; see `discretized_gaussian_log_likelihood`.

    Returns:
        `[B, C]`, bits per dimension.
    """
    clean, noisy = sample.clean, sample.noisy  # [B, C, H, W]
    prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    scale = torch.ones(()).to(clean) if channel_scale is None else torch.tensor(channel_scale)[:, None, None].to(clean)
    # A given channel has the timestep 0; the costly decoder is not for it, its term is left out anyway.
    timesteps = torch.where(sample.noised_channels, sample.timesteps.reshape(len(clean), -1), 1)  # [B, C]

    predicted_clean = clean_of(prediction, noisy, sample.alphas_cumprod, prediction_type)  # [B, C, H, W]
    if clip_sample_range is not None:
        predicted_clean = (predicted_clean / scale).clamp(-clip_sample_range, clip_sample_range) * scale
    mean = process.posterior_mean(predicted_clean, noisy, timesteps)  # [B, C, H, W]
    posterior_log_variance = per_channel(process.posterior_log_variance, timesteps).to(clean)  # [B, C, 1, 1]
    log_variance = posterior_log_variance if v is None else interpolated_log_variance(v, timesteps, process)
    log_variance = log_variance.expand_as(mean)

    posterior_mean = process.posterior_mean(clean, noisy, timesteps)
    nats = sample.mean(normal_kl(posterior_mean, posterior_log_variance, mean, log_variance))  # [B, C]

    first = timesteps == 0  # [B, C]
    if first.any():  # the decoder costs more than the rest together, and is for one timestep in a thousand
        log_likelihood = discretized_gaussian_log_likelihood(
            (clean / scale)[first], (mean / scale)[first], (0.5 * log_variance - scale.log())[first], num_bins
        )
        nats = nats.clone()
        where = sample.noised.expand_as(clean)[first]  # [n, H, W]
        nats[first] = -(log_likelihood.to(nats) * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp(min=1)
    return nats / math.log(2)
