"""The hybrid loss of MaC-DM: `L_simple + lambda_vlb L_vlb (+ lambda_perceptual L_perceptual)`.

diffusers samples with a learned variance (`DDPMScheduler(variance_type="learned_range")`) but has no loss that trains
one. The functions here do, for any `UNet2DModel` with 2C output channels (prediction, then the interpolated
log-variance `v`) and any `DDPMScheduler` (`ForwardProcess.from_scheduler`). With C output channels the variance is
the fixed posterior variance.

Sources: DDPM, Ho et al., arXiv 2006.11239; Improved DDPM, Nichol and Dhariwal, arXiv 2102.09672.

Shapes: samples are `[B, C, H, W]`; timesteps are int64, `[B]` or one for each channel, `[B, C]`. Input of less than
float32 is taken to float32, float64 stays float64. The variational bound is in bits per dimension, densities are in
nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .forward_process import PREDICTION_TYPES, ForwardProcess, clean_of, per_channel
from .joint_sample import CHANNELS, LESION_MASK, RADIOGRAPH


# ----------------------------------------------------------------------------------------------------- densities


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


# ------------------------------------------------------------------------------------------------ learned variance


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
    v = _at_least_float32(v)
    log_beta = per_channel(process.betas.log(), timesteps).to(v)
    log_posterior = per_channel(process.posterior_log_variance, timesteps).to(v)
    fraction = (v + 1) / 2
    return fraction * log_beta + (1 - fraction) * log_posterior


# ------------------------------------------------------------------------------------------------ variational bound


def vlb_term(
    process: ForwardProcess,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    prediction: torch.Tensor,
    v: torch.Tensor | None,
    prediction_type: str = "epsilon",
    clip_sample_range: float | None = None,
    channel_scale: Sequence[float] | None = None,
    num_bins: int = 256,
) -> torch.Tensor:
    """One term of the variational bound (DDPM eq. 5) for each channel.

    `KL(q(I_{t-1} | I_t, I_0) || p(I_{t-1} | I_t))` for t > 0, and for t = 0 the decoder `-log p(I_0 | I_1)` (DDPM eq.
    13), averaged over the pixels.

    Args:
        clean, noisy: `[B, C, H, W]`, `I_0` and `I_t`.
        timesteps: `[B]` or `[B, C]`.
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
    clean, noisy, prediction = (_at_least_float32(tensor) for tensor in (clean, noisy, prediction))
    scale = torch.ones(()).to(clean) if channel_scale is None else torch.tensor(channel_scale)[:, None, None].to(clean)

    predicted_clean = clean_of(prediction, noisy, per_channel(process.alphas_cumprod, timesteps), prediction_type)
    if clip_sample_range is not None:
        predicted_clean = (predicted_clean / scale).clamp(-clip_sample_range, clip_sample_range) * scale
    mean = process.posterior_mean(predicted_clean, noisy, timesteps)
    posterior_log_variance = per_channel(process.posterior_log_variance, timesteps).to(clean)
    log_variance = posterior_log_variance if v is None else interpolated_log_variance(v, timesteps, process)
    log_variance = log_variance.expand_as(mean)

    posterior_mean = process.posterior_mean(clean, noisy, timesteps)
    nats = normal_kl(posterior_mean, posterior_log_variance, mean, log_variance).mean(dim=(2, 3))  # [B, C]

    first = (timesteps if timesteps.ndim == 2 else timesteps[:, None]).expand_as(nats) == 0
    if first.any():  # the decoder costs more than the rest together, and is for one timestep in a thousand
        log_likelihood = discretized_gaussian_log_likelihood(
            (clean / scale)[first], (mean / scale)[first], (0.5 * log_variance - scale.log())[first], num_bins
        )
        nats = nats.clone()
        nats[first] = -log_likelihood.to(nats).mean(dim=(1, 2))
    return nats / math.log(2)


def prior_term(process: ForwardProcess, clean: torch.Tensor) -> torch.Tensor:
    """`KL(q(I_T | I_0) || N(0, 1))`, the term of the bound that no network can change; `[B, C]`, bits per dimension."""
    clean = _at_least_float32(clean)
    abar = process.alphas_cumprod[-1]
    zero = torch.zeros(()).to(clean)
    log_variance = torch.log(1 - abar).to(clean)
    return normal_kl(abar.sqrt().to(clean) * clean, log_variance, zero, zero).mean(dim=(2, 3)) / math.log(2)


@dataclass(frozen=True)
class VariationalBound:
    """The variational bound on `-log2 p(I_0)` of each sample of a batch, in bits per dimension.

    Attributes:
        total: `[B]`, `terms.sum(1) + prior`.
        terms: `[B, T]`, `terms[:, t]` is the decoder for t = 0 and the divergence at t otherwise.
        prior: `[B]`.
    """

    total: torch.Tensor
    terms: torch.Tensor
    prior: torch.Tensor


@torch.no_grad()
def variational_bound(
    model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    clean: torch.Tensor,
    process: ForwardProcess,
    generator: torch.Generator | None = None,
    prediction_type: str = "epsilon",
    clip_sample_range: float | None = None,
    channel_scale: Sequence[float] | None = None,
    num_bins: int = 256,
) -> VariationalBound:
    """Evaluate the bound (DDPM eq. 5) at every timestep: T calls of the model, one draw of the noise for each.

    Args:
        model: `model(noisy [B, C, H, W], timesteps [B])` -> `[B, C or 2C, H, W]`, a tensor or an output of diffusers
            with the field `sample`. Bind class labels beforehand.
        clean: `[B, C, H, W]` in [-1, 1] (times `channel_scale`).
        generator: of the noise, on the CPU or on the device of `clean`.

    The other arguments are those of `vlb_term`.
    """
    noise_device = clean.device if generator is None else generator.device
    terms = []
    for t in reversed(range(process.num_timesteps)):
        timesteps = torch.full((len(clean),), t, dtype=torch.int64, device=clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=noise_device, dtype=clean.dtype).to(clean.device)
        noisy = process.add_noise(clean, noise, timesteps)
        output = model(noisy, timesteps)
        prediction, v = split_learned_variance(getattr(output, "sample", output), clean.shape[1])
        term = vlb_term(
            process,
            clean,
            noisy,
            timesteps,
            prediction,
            v,
            prediction_type=prediction_type,
            clip_sample_range=clip_sample_range,
            channel_scale=channel_scale,
            num_bins=num_bins,
        )
        terms.append(term.mean(dim=1))
    terms = torch.stack(terms[::-1], dim=1)  # [B, T]
    prior = prior_term(process, clean).mean(dim=1)  # [B]
    return VariationalBound(total=terms.sum(dim=1) + prior, terms=terms, prior=prior)


# ----------------------------------------------------------------------------------------------------- weights


def min_snr_weight(
    process: ForwardProcess, timesteps: torch.Tensor, gamma: float, prediction_type: str = "epsilon"
) -> torch.Tensor:
    """Min-SNR weight of the squared error of a prediction (Hang et al., arXiv 2303.09556, sec. 3.4).

    `min(SNR, gamma)` for `sample`, divided by `SNR` for `epsilon` and by `SNR + 1` for `v_prediction`.

    Returns:
        float32, of the shape of `timesteps`.
    """
    snr = process.snr.to(timesteps.device)[timesteps]
    if prediction_type == "epsilon":
        weight = (gamma / snr).clamp(max=1)  # 1, not 0 / 0, where no signal is left
    elif prediction_type == "v_prediction":
        weight = snr.clamp(max=gamma) / (snr + 1)
    elif prediction_type == "sample":
        weight = snr.clamp(max=gamma)
    else:
        raise ValueError(f"prediction_type={prediction_type!r} is not known; allowed are {', '.join(PREDICTION_TYPES)}.")
    return weight.float()


def region_weights(
    lesion_mask: torch.Tensor,
    weight: float,
    radius: int,
    radiograph_weight: float = 1.0,
    num_channels: int = len(CHANNELS),
) -> torch.Tensor:
    """Weights of the squared error, larger in the neighbourhood of the lesion.

    A lesion covers a few tenths of a percent of a film; under a plain mean the best answer to it is none at all. The
    weights are *not* renormalised to mean 1: the error outside the neighbourhood keeps its weight, and a normal case
    is untouched. They depend on the clean sample, so the network leans to "lesion" where it is unsure whether there
    is one: wanted here.

    Args:
        lesion_mask: `[B, H, W]`, 0 or non-zero.
        weight: in the neighbourhood, in the lesion mask's channel.
        radius: the neighbourhood reaches this many pixels beyond the lesion (a square of side `2 radius + 1`).
        radiograph_weight: in the neighbourhood, in the radiograph's channel.

    Returns:
        `[B, num_channels, H, W]` float32, 1 elsewhere.
    """
    neighbourhood = (lesion_mask != 0).float()[:, None]  # [B, 1, H, W]
    neighbourhood = F.max_pool2d(neighbourhood, kernel_size=2 * radius + 1, stride=1, padding=radius)
    excess = torch.zeros(num_channels, device=lesion_mask.device)
    excess[RADIOGRAPH] = radiograph_weight - 1
    excess[LESION_MASK] = weight - 1
    return 1 + neighbourhood * excess[:, None, None]


# ----------------------------------------------------------------------------------------------------- perceptual term


def perceptual_distance(features_a: Sequence[torch.Tensor], features_b: Sequence[torch.Tensor]) -> torch.Tensor:
    """LPIPS without learned weights (Zhang et al., arXiv 1801.03924, eq. 1).

    Each feature vector is scaled to length 1; squared difference, summed over the features, mean over space, mean over
    the layers.

    Args:
        features_a, features_b: one `[B, F, h, w]` for each layer.

    Returns:
        `[B]`, between 0 and 4.
    """
    distances = []
    for a, b in zip(features_a, features_b, strict=True):
        difference = F.normalize(_at_least_float32(a), dim=1) - F.normalize(_at_least_float32(b), dim=1)
        distances.append(difference.pow(2).sum(dim=1).mean(dim=(1, 2)))
    return torch.stack(distances).mean(dim=0)


# ----------------------------------------------------------------------------------------------------- hybrid loss


@dataclass(frozen=True)
class LossTerms:
    """What `HybridLoss` returns.

    Attributes:
        total: scalar, to be differentiated.
        simple: `[B, C]`, mean squared error without any weight, for logs; NaN where the channel carries no loss.
        vlb: `[B, C]`, bits per dimension of *one* term of the bound (not times T); NaN where the channel carries no
            loss. None if it was not evaluated.
        perceptual: `[B]`, weighted by `abar_t`. None if it was not evaluated.
    """

    total: torch.Tensor
    simple: torch.Tensor
    vlb: torch.Tensor | None = None
    perceptual: torch.Tensor | None = None


@dataclass(frozen=True)
class HybridLoss:
    """`L_simple + lambda_vlb L_vlb + lambda_perceptual L_perceptual` (MaC-DM; Improved DDPM eq. 16).

    `L_simple` is the weighted mean squared error of the prediction. `L_vlb` estimates the whole variational bound in
    bits per dimension, T times the term of the drawn timestep, and trains the variance alone: the mean is detached in
    it. So `lambda_vlb` = 0.001 means what it means in Improved DDPM. A model without a learned variance has nothing
    for `L_vlb` to train; the term is left out. `L_perceptual` compares features of the predicted with those of the
    true clean sample.

    A plain model of C channels and no lesion mask takes `channel_weights=(1,) * C` and both region weights 1.

    Attributes:
        lambda_vlb, lambda_perceptual: 0 is off.
        channel_weights: `[C]`, weights of the channels in `L_simple`.
        lesion_region_weight, lesion_region_radius, radiograph_region_weight: see `region_weights`; 1 is off.
        min_snr_gamma: see `min_snr_weight`; None is off, 5 is the paper's.
        prediction_type: `epsilon`, `v_prediction` or `sample`.
    """

    lambda_vlb: float = 1e-3
    lambda_perceptual: float = 0.0
    channel_weights: tuple[float, ...] = (1.0,) * len(CHANNELS)
    lesion_region_weight: float = 10.0
    lesion_region_radius: int = 2
    radiograph_region_weight: float = 4.0
    min_snr_gamma: float | None = None
    prediction_type: str = "epsilon"

    def __post_init__(self):
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type={self.prediction_type!r} is not known; allowed are {', '.join(PREDICTION_TYPES)}."
            )
        for name in ("lambda_vlb", "lambda_perceptual", "lesion_region_weight", "radiograph_region_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; it must be 0 or more.")
        if not all(0 <= weight < math.inf for weight in self.channel_weights):
            raise ValueError(f"channel_weights={tuple(self.channel_weights)} are not allowed; each must be 0 or more.")
        if self.lesion_region_radius < 0:
            raise ValueError(f"lesion_region_radius={self.lesion_region_radius} is not allowed; it must be 0 or more.")
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise ValueError(f"min_snr_gamma={self.min_snr_gamma} is not allowed; it must be above 0, or None (off).")
        if self._has_regions and len(self.channel_weights) <= LESION_MASK:
            raise ValueError(
                f"Region weights need a lesion mask, channel {LESION_MASK}, but channel_weights has only "
                f"{len(self.channel_weights)} channels; set lesion_region_weight and radiograph_region_weight to 1."
            )

    @property
    def _has_regions(self) -> bool:
        return self.lesion_region_weight != 1 or self.radiograph_region_weight != 1

    def __call__(
        self,
        process: ForwardProcess,
        model_output: torch.Tensor,
        clean: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        noised_channels: torch.Tensor | None = None,
        channel_scale: Sequence[float] | None = None,
        perceptual_features: Callable[[torch.Tensor], Sequence[torch.Tensor]] | None = None,
    ) -> LossTerms:
        """Evaluate the loss of one batch.

        Args:
            model_output: `[B, C or 2C, H, W]`, of the model fed with `process.add_noise(clean, noise, timesteps)`.
            clean: `[B, C, H, W]`, the joint sample that was noised.
            noise: `[B, C, H, W]`, standard normal.
            timesteps: `[B]` or `[B, C]`.
            noised_channels: bool `[B, C]`, False for a channel that was given clean (masks -> image, image -> masks).
                Such a channel carries no loss; the mean of a sample is over its other channels. None is all True.
            channel_scale: see `vlb_term`; needed with `mask_weighting="signal"`.
            perceptual_features: joint sample `[B, C, H, W]` -> list of `[B, F, h, w]`, frozen; needed if
                `lambda_perceptual` is not 0. The distance is weighted by `abar_t` (the lowest of the noised
                channels), so that guesses from pure noise do not dominate.
        """
        clean, noise, model_output = (_at_least_float32(tensor) for tensor in (clean, noise, model_output))
        batch_size, num_channels = clean.shape[:2]
        if len(self.channel_weights) != num_channels:
            raise ValueError(
                f"channel_weights={tuple(self.channel_weights)} does not fit samples of {num_channels} channels; one "
                "weight for each channel is needed."
            )
        prediction, v = split_learned_variance(model_output, num_channels)
        noisy = process.add_noise(clean, noise, timesteps)
        abar = per_channel(process.alphas_cumprod, timesteps)  # [B, 1 or C, 1, 1]
        if noised_channels is None:
            noised_channels = torch.ones(batch_size, num_channels, dtype=torch.bool, device=clean.device)

        target = _target(clean, noise, abar, self.prediction_type)
        squared_error = (prediction - target) ** 2  # [B, C, H, W]
        simple = squared_error.mean(dim=(2, 3))  # [B, C]
        weighted = simple
        if self._has_regions:
            regions = region_weights(
                clean[:, LESION_MASK] > 0,
                self.lesion_region_weight,
                self.lesion_region_radius,
                self.radiograph_region_weight,
                num_channels,
            )
            weighted = (regions * squared_error).mean(dim=(2, 3))
        weighted = weighted * torch.tensor(self.channel_weights).to(clean)
        if self.min_snr_gamma is not None:
            snr_weight = min_snr_weight(process, timesteps, self.min_snr_gamma, self.prediction_type)
            weighted = weighted * snr_weight.reshape(batch_size, -1)
        per_sample = _mean_where(weighted, noised_channels)  # [B]

        vlb = None
        if self.lambda_vlb and v is not None:
            # A given channel has the timestep 0; the costly decoder is not for it, its term is left out anyway.
            vlb_timesteps = torch.where(noised_channels, timesteps.reshape(batch_size, -1), 1)
            # Detached: L_simple alone shapes the mean (Improved DDPM sec. 3.1).
            vlb = vlb_term(
                process,
                clean,
                noisy,
                vlb_timesteps,
                prediction.detach(),
                v,
                prediction_type=self.prediction_type,
                channel_scale=channel_scale,
            )
            per_sample = per_sample + self.lambda_vlb * process.num_timesteps * _mean_where(vlb, noised_channels)

        perceptual = None
        if self.lambda_perceptual:
            if perceptual_features is None:
                raise ValueError(f"lambda_perceptual={self.lambda_perceptual} needs perceptual_features, which is None.")
            predicted_clean = clean_of(prediction, noisy, abar, self.prediction_type)
            predicted_clean = torch.where(noised_channels[:, :, None, None], predicted_clean, clean)
            with torch.no_grad():
                clean_features = perceptual_features(clean)
            distance = perceptual_distance(perceptual_features(predicted_clean), clean_features)  # [B]
            abar = abar[:, :, 0, 0].to(clean).expand_as(simple)
            perceptual = distance * torch.where(noised_channels, abar, 1).amin(dim=1)
            per_sample = per_sample + self.lambda_perceptual * perceptual

        no_loss = ~noised_channels
        return LossTerms(
            total=per_sample.mean(),
            simple=simple.detach().masked_fill(no_loss, math.nan),
            vlb=None if vlb is None else vlb.detach().masked_fill(no_loss, math.nan),
            perceptual=None if perceptual is None else perceptual.detach(),
        )


def _target(clean: torch.Tensor, noise: torch.Tensor, abar: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """What the network is to predict, without the division that `forward_process.prediction_of` needs."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return clean
    return abar.sqrt().to(clean.dtype) * noise - (1 - abar).sqrt().to(clean.dtype) * clean  # arXiv 2202.00512, app. D


def _mean_where(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean of `values` `[B, C]` over the channels where `where` is True -> `[B]`; 0 for a sample that has none."""
    return torch.where(where, values, 0).sum(dim=1) / where.sum(dim=1).clamp(min=1)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
