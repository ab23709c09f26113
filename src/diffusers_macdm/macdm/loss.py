"""The hybrid loss of MaC-DM: `L_simple + lambda_vlb L_vlb (+ lambda_perceptual L_perceptual)`.

Sources: MaC-DM, arXiv 2311.13688; DDPM, Ho et al., arXiv 2006.11239; Improved DDPM, Nichol and Dhariwal, arXiv 2102.09672.

Shapes: samples are `[B, C, H, W]`; timesteps are int64, `[B]` or one for each channel, `[B, C]`. Input of less than
float32 is taken to float32, float64 stays float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .forward_process import PREDICTION_TYPES, ForwardProcess, NoisySample, clean_of
from .joint_sample import CHANNELS, LESION_MASK, RADIOGRAPH
from .variational_bound import split_learned_variance, vlb_term


Features = Callable[[torch.Tensor], Sequence[torch.Tensor]]  # joint sample [B, C, H, W] -> maps [B, F, h, w]


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


def loss_space_weight(
    alphas_cumprod: torch.Tensor, prediction_type: str, loss_space: str, sigma_floor: float = 0.3
) -> torch.Tensor:
    """Factor that turns the squared error of one kind of prediction into that of another of the same clean sample.

    A network can predict one thing and be judged by another ("Back to Basics", arXiv 2511.13720, table 1). An error of the
    clean sample is, divided by `1 - abar`, one of `v`, and, times `abar / (1 - abar)`, one of the noise; `1 - abar` is kept
    above `sigma_floor` squared, so that the cleanest levels do not outweigh all others.

    Args:
        alphas_cumprod: `abar_t`, any shape.
        prediction_type: `sample` or `v_prediction`; the error of `epsilon` would have to be divided by `abar`, which has no
            floor.
        loss_space: `sample`, `v_prediction` or `epsilon`.
        sigma_floor: smallest `sqrt(1 - abar)` that is divided by.

    Returns:
        float64, of the shape of `alphas_cumprod`.
    """
    variance = (1 - alphas_cumprod.double()).clamp(min=sigma_floor**2)
    of_clean = {"sample": torch.ones_like(variance), "v_prediction": 1 / variance, "epsilon": alphas_cumprod / variance}
    return of_clean[loss_space] / of_clean[prediction_type]


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


@dataclass(frozen=True)
class LossTerms:
    """Terms of `HybridLoss`.

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
        lambda_vlb: Weight of the variational bound, which trains the learned variance; 0 is off.
        lambda_perceptual: Weight of the perceptual distance between the predicted and the true clean sample; 0 is off.
        channel_weights: Weights of the squared errors of the radiograph, the anatomy mask and the lesion mask.
        lesion_region_weight: Weight of the lesion mask's squared error in the neighbourhood of the lesion; 1 is off.
        lesion_region_radius: The neighbourhood of the lesion reaches this many pixels beyond it.
        radiograph_region_weight: Weight of the radiograph's squared error in the neighbourhood of the lesion; 1 is off.
        min_snr_gamma: Bound on the signal-to-noise ratio by which a timestep is weighted (Min-SNR, arXiv 2303.09556,
            takes 5); None is off.
        prediction_type: What the network predicts: the noise (`epsilon`), `v_prediction` or the clean `sample`.
        loss_space: What the squared error is measured in (see `loss_space_weight`); None is the prediction itself.
        sigma_floor: See `loss_space_weight`. What is left to predict below it is mostly the film's own noise, which no
            network can: weighted as the error of `v` to the end, it drowns what shapes the bone.
    """

    lambda_vlb: float = 1e-3
    lambda_perceptual: float = 0.0
    channel_weights: tuple[float, ...] = (1.0,) * len(CHANNELS)
    lesion_region_weight: float = 1.0
    lesion_region_radius: int = 2
    radiograph_region_weight: float = 1.0
    min_snr_gamma: float | None = None
    prediction_type: str = "epsilon"
    loss_space: str | None = None
    sigma_floor: float = 0.3

    def __post_init__(self):
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type={self.prediction_type!r} is not known; allowed are {', '.join(PREDICTION_TYPES)}."
            )
        if self.loss_space not in (None, *PREDICTION_TYPES):
            raise ValueError(f"loss_space={self.loss_space!r} is not known; allowed are {', '.join(PREDICTION_TYPES)}, None.")
        if self._is_converted and self.prediction_type == "epsilon":
            raise ValueError(
                f"loss_space={self.loss_space!r} does not go with prediction_type='epsilon': an error of the noise is measured "
                "as it is. Predict the clean 'sample' or 'v_prediction'."
            )
        if self._is_converted and self.min_snr_gamma is not None:
            raise ValueError(
                f"loss_space={self.loss_space!r} and min_snr_gamma={self.min_snr_gamma} both weight the noise levels: use one."
            )
        for name in ("lambda_vlb", "lambda_perceptual", "lesion_region_weight", "radiograph_region_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; it must be 0 or more.")
        if not all(0 <= weight < math.inf for weight in self.channel_weights):
            raise ValueError(f"channel_weights={tuple(self.channel_weights)} are not allowed; each must be 0 or more.")
        if not 0 < self.sigma_floor <= 1:
            raise ValueError(f"sigma_floor={self.sigma_floor} is not allowed; it must be above 0 and at most 1.")
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
    def _is_converted(self) -> bool:
        return self.loss_space not in (None, self.prediction_type)

    @property
    def _has_regions(self) -> bool:
        return self.lesion_region_weight != 1 or self.radiograph_region_weight != 1

    def __call__(
        self,
        process: ForwardProcess,
        model_output: torch.Tensor,
        sample: NoisySample,
        channel_scale: Sequence[float] | None = None,
        perceptual_features: Features | None = None,
    ) -> LossTerms:
        """Evaluate the loss of one batch.

        Args:
            process: the process that noised the batch.
            model_output: `[B, C or 2C, H, W]`, of the model fed with `sample.noisy`.
            sample: the batch. The loss of a sample is the mean over its noised channels.
            channel_scale: see `vlb_term`; needed with `mask_weighting="signal"`.
            perceptual_features: joint sample `[B, C, H, W]` -> list of `[B, F, h, w]`, frozen; needed if
                `lambda_perceptual` is not 0.
        """
        num_channels = sample.clean.shape[1]
        if len(self.channel_weights) != num_channels:
            raise ValueError(
                f"channel_weights={tuple(self.channel_weights)} does not fit samples of {num_channels} channels; one "
                "weight for each channel is needed."
            )
        prediction, v = split_learned_variance(_at_least_float32(model_output), num_channels)  # [B, C, H, W] each
        noised, vlb, perceptual = sample.noised_channels, None, None
        squared_error = (prediction - sample.target(self.prediction_type)) ** 2  # [B, C, H, W]
        loss = _mean_where(self.simple(process, squared_error, sample), noised)  # [B]
        if self.lambda_vlb and v is not None:
            vlb = self.bound(process, prediction, v, sample, channel_scale)  # [B, C]
            loss = loss + self.lambda_vlb * process.num_timesteps * _mean_where(vlb, noised)
            vlb = vlb.detach().masked_fill(~noised, math.nan)
        if self.lambda_perceptual:
            perceptual = self.perceptual(prediction, sample, perceptual_features)  # [B]
            loss = loss + self.lambda_perceptual * perceptual
            perceptual = perceptual.detach()
        unweighted = sample.mean(squared_error.detach()).masked_fill(~noised, math.nan)  # [B, C]
        return LossTerms(loss.mean(), unweighted, vlb, perceptual)

    def simple(self, process: ForwardProcess, squared_error: torch.Tensor, sample: NoisySample) -> torch.Tensor:
        """`L_simple` (DDPM eq. 14) with the weights of regions, channels and timesteps: `[B, C, H, W]` -> `[B, C]`."""
        if self._has_regions:
            regions = region_weights(
                sample.clean[:, LESION_MASK] > 0,
                self.lesion_region_weight,
                self.lesion_region_radius,
                self.radiograph_region_weight,
                squared_error.shape[1],
            )
            squared_error = regions * squared_error
        weighted = sample.mean(squared_error) * torch.tensor(self.channel_weights).to(squared_error)  # [B, C]
        if self._is_converted:
            abar = sample.alphas_cumprod[:, :, 0, 0]
            weights = loss_space_weight(abar, self.prediction_type, self.loss_space, self.sigma_floor)
            return weighted * weights.to(weighted)
        if self.min_snr_gamma is None:
            return weighted
        snr_weight = min_snr_weight(process, sample.timesteps, self.min_snr_gamma, self.prediction_type)
        return weighted * snr_weight.reshape(len(weighted), -1)

    def bound(
        self,
        process: ForwardProcess,
        prediction: torch.Tensor,
        v: torch.Tensor,
        sample: NoisySample,
        channel_scale: Sequence[float] | None = None,
    ) -> torch.Tensor:
        """`L_vlb` (Improved DDPM eq. 16): the term of the drawn timestep, `[B, C]` in bits per dimension."""
        # Detached: L_simple alone shapes the mean (Improved DDPM sec. 3.1).
        return vlb_term(process, sample, prediction.detach(), v, self.prediction_type, channel_scale=channel_scale)

    def perceptual(self, prediction: torch.Tensor, sample: NoisySample, features: Features | None) -> torch.Tensor:
        """`L_perceptual`: distance of the predicted clean sample from the true one, `[B]`.

        It is weighted by `abar_t` (the lowest of the noised channels), so that guesses from pure noise do not dominate.
        """
        if features is None:
            raise ValueError(f"lambda_perceptual={self.lambda_perceptual} needs perceptual_features, which is None.")
        noised, abar = sample.noised_channels, sample.alphas_cumprod
        predicted_clean = clean_of(prediction, sample.noisy, abar, self.prediction_type)  # [B, C, H, W]
        predicted_clean = torch.where(sample.noised, predicted_clean, sample.clean)
        with torch.no_grad():
            clean_features = features(sample.clean)
        distance = perceptual_distance(features(predicted_clean), clean_features)  # [B]
        abar = abar[:, :, 0, 0].to(sample.clean).expand(noised.shape)  # [B, C]
        return distance * torch.where(noised, abar, 1).amin(dim=1)


def _mean_where(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean of `values` `[B, C]` over the channels where `where` is True -> `[B]`; 0 for a sample that has none."""
    return torch.where(where, values, 0).sum(dim=1) / where.sum(dim=1).clamp(min=1)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
