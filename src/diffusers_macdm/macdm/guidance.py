"""Guidance as pure functions around the noise prediction, and `GuidedDenoiser`, which composes them around a network.

Every function works on the *noise* prediction of the sample that the network sees, in float32 (what it sees is
`scheduler.scale_model_input(x, t)`). `GuidedDenoiser` converts other prediction types before and after.

Why this does not subclass the `guiders/` of diffusers: they combine several predictions of one network, classifier-free
guidance and its relatives. The guidance of MaC-DM adds the gradient of another network, which they have no place for, and
needs the noise level to do so, in float32 for every prediction type; and they are marked as experimental.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .forward_process import ForwardProcess, noise_of, prediction_of
from .joint_sample import masks_of, signal_weights


def logits_of(output) -> torch.Tensor:
    """Return the logits `[B, K]` in what a classifier puts out: an output of diffusers' kind, a tuple, or the logits alone."""
    return output if torch.is_tensor(output) else output[0]


def classifier_gradient(
    classifier: Callable[..., torch.Tensor], model_input: torch.Tensor, class_labels: torch.Tensor, **conditions
) -> torch.Tensor:
    """`grad_{I_t} log p_phi(y | I_t, t)` (Dhariwal and Nichol, arXiv 2105.05233, sec. 4.1).

    Args:
        classifier: called as `classifier(model_input, **conditions)`, returns logits `[B, K]`, or an output
            whose first field they are.
        model_input: `[B, C, H, W]`, what the denoiser sees.
        class_labels: `[B]` int64 in [0, K). A label outside (the null label) has the gradient 0.

    Returns:
        `[B, C, H, W]` float32.
    """
    # Copies: what was made under `torch.inference_mode` cannot take part in a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        class_labels = class_labels.clone()
        conditions = {name: x.clone() if torch.is_tensor(x) else x for name, x in conditions.items()}
        model_input = model_input.detach().float().clone().requires_grad_(True)
        log_probabilities = logits_of(classifier(model_input, **conditions)).float().log_softmax(dim=-1)  # [B, K]
        known = (class_labels >= 0) & (class_labels < log_probabilities.shape[-1])
        picked = log_probabilities.gather(1, class_labels.where(known, 0)[:, None])[:, 0] * known  # [B]
        return torch.autograd.grad(picked.sum(), model_input)[0]


def classifier_guided_noise(
    noise: torch.Tensor, gradient: torch.Tensor, alphas_cumprod: torch.Tensor | float, guidance_scale: float
) -> torch.Tensor:
    """ADM algorithm 2 (arXiv 2105.05233): `eps_hat = eps - sqrt(1 - abar_t) g grad_{I_t} log p_phi(y | I_t, t)`.

    Additive, so `guidance_scale` = 0 is off.
    """
    sigma = (1 - torch.as_tensor(alphas_cumprod, dtype=torch.float64, device=noise.device)).sqrt().float()
    return noise.float() - sigma * guidance_scale * gradient.float()


def classifier_free_guided_noise(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance (arXiv 2207.12598) as diffusers scales it: `eps_u + s (eps_c - eps_u)`; s = 1 is off."""
    return torch.lerp(unconditional.float(), conditional.float(), scale)


def autoguided_noise(strong: torch.Tensor, weak: torch.Tensor, scale: float) -> torch.Tensor:
    """Autoguidance (Karras et al., arXiv 2406.02507, eq. 3): `D_weak + s (D_strong - D_weak)`; s = 1 is off.

    The weak model is an earlier or smaller one of the same kind with the same conditions; linear in the denoised sample,
    hence in the noise as well.
    """
    return torch.lerp(weak.float(), strong.float(), scale)


def in_guidance_interval(timestep: float, num_train_timesteps: int, guidance_interval: tuple[float, float]) -> bool:
    """Whether guidance acts at this noise level (Kynkaanniemi et al., arXiv 2404.07724).

    `guidance_interval` = (lo, hi) are fractions of the noise levels, 0 clean and 1 pure noise: lo <= t / (T - 1) <= hi.
    """
    low, high = guidance_interval
    return low <= float(timestep) / (num_train_timesteps - 1) <= high


@dataclass(frozen=True)
class Guidance:
    """Kinds and strengths of guidance; they add up. The defaults are off.

    Attributes:
        guidance_scale: Scale of classifier guidance; 0 is off.
        guidance_interval: Noise levels at which guidance of any kind acts; see `in_guidance_interval`.
        classifier_free_guidance_scale: Scale of classifier-free guidance; 1 is off.
        autoguidance_scale: Scale of autoguidance; 1 is off.
    """

    guidance_scale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    classifier_free_guidance_scale: float = 1.0
    autoguidance_scale: float = 1.0

    def __post_init__(self):
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale={self.guidance_scale} is not allowed: 0 is off, larger is stronger.")
        for name in ("classifier_free_guidance_scale", "autoguidance_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: a finite number, 1 is off.")
        interval = self.guidance_interval
        if not isinstance(interval, Sequence) or len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance_interval={interval} is not allowed: (lo, hi) with 0 <= lo <= hi <= 1.")

    @property
    def is_on(self) -> bool:
        return (self.guidance_scale, self.classifier_free_guidance_scale, self.autoguidance_scale) != (0, 1, 1)


@dataclass(frozen=True)
class GuidedDenoiser:
    """The denoiser with guidance around it: sample, timesteps and labels -> prediction and learned variance.

    Attributes:
        unet: `MaCDMUNet2DModel`.
        process: The process that the sampler integrates.
        prediction_type: Type of the prediction of `unet` and `weak_unet`; see `forward_process.noise_of`.
        guidance: Kinds and strengths of guidance.
        guidance_classifier: `GuidanceClassifier`, needed for `guidance_scale` other than 0.
        weak_unet: An early snapshot of the denoiser, needed for `autoguidance_scale` other than 1.
    """

    unet: torch.nn.Module
    process: ForwardProcess
    prediction_type: str = "epsilon"
    guidance: Guidance = Guidance()
    guidance_classifier: torch.nn.Module | None = None
    weak_unet: torch.nn.Module | None = None

    def __post_init__(self):
        """Refuse guidance by a network that is not there, or that was not trained on what the denoiser was trained on."""
        unet, classifier, weak_unet = self.unet, self.guidance_classifier, self.weak_unet
        scale = self.guidance.guidance_scale
        if scale != 0 and classifier is None:
            raise ValueError(
                f"guidance_scale={scale} needs a guidance_classifier, which this pipeline lacks: train one with "
                "training/train_guidance_classifier.py, or set guidance_scale=0."
            )
        # A class that only one of the two knows would be steered towards nothing, or towards the null label.
        if scale != 0 and classifier.config.get("num_classes") not in (None, unet.num_classes):
            raise ValueError(
                f"The guidance_classifier knows {classifier.config.num_classes} classes and the unet "
                f"{unet.num_classes}: they must be the same."
            )
        if scale != 0 and _weighting(classifier) != _weighting(unet):
            raise ValueError(
                f"The guidance_classifier was trained with {_weighting(classifier)} and the unet with "
                f"{_weighting(unet)} (channel weights, mask weighting): both must be fed alike."
            )
        if scale != 0:
            _refuse_other_masks("guidance_classifier", classifier, unet)
        scale = self.guidance.autoguidance_scale
        if scale != 1 and weak_unet is None:
            raise ValueError(
                f"autoguidance_scale={scale} needs a weak_unet (an early snapshot of the denoiser), which "
                "this pipeline lacks; set autoguidance_scale=1 to switch it off."
            )
        if scale != 1 and signal_weights(weak_unet.config) != signal_weights(unet.config):
            raise ValueError(
                f"The weak_unet was trained with {_weighting(weak_unet)} and the unet with {_weighting(unet)} "
                "(channel weights, mask weighting): their noisy samples are not the same."
            )
        if scale != 1:
            _refuse_other_masks("weak_unet", weak_unet, unet)

    def with_guidance_scale(self, scale: float) -> GuidedDenoiser:
        """Return the same denoiser with another scale of classifier guidance; itself when it has this one."""
        if scale == self.guidance.guidance_scale:
            return self
        return replace(self, guidance=replace(self.guidance, guidance_scale=scale))

    def __call__(
        self, model_input: torch.Tensor, t: torch.Tensor | float, class_labels: torch.Tensor, **timesteps
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Predict, guided where `t` lies in the interval.

        Args:
            model_input: `[B, C, H, W]`, the sample that the network sees.
            t: noise level of the channels that are sampled, a timestep.
            class_labels: int64 `[B]`; the null label stands for "not known".
            timesteps: `timestep` and, for the masks, `mask_timestep`, as the networks take them (0 for a given channel).

        Returns:
            The prediction and, where the network has one, the learned variance `v`; each float32 `[B, C, H, W]`.
        """
        prediction, variance = _predict(self.unet, model_input, class_labels, timesteps)
        guidance = self.guidance
        if not guidance.is_on or not in_guidance_interval(t, self.process.num_timesteps, guidance.guidance_interval):
            return prediction, variance

        abar = self.process.alphas_cumprod_at(t)
        eps = noise_of(prediction, model_input, abar, self.prediction_type)  # [B, C, H, W]
        # Each kind of guidance is an addition to the prediction, so they can be used together.
        shift = torch.zeros_like(eps)  # [B, C, H, W]
        if guidance.classifier_free_guidance_scale != 1:
            null_labels = torch.full_like(class_labels, self.unet.null_class_label)
            unconditional = self._noise(self.unet, model_input, null_labels, abar, timesteps)
            shift += classifier_free_guided_noise(eps, unconditional, guidance.classifier_free_guidance_scale) - eps
        if guidance.autoguidance_scale != 1:
            weak = self._noise(self.weak_unet, model_input, class_labels, abar, timesteps)
            shift += autoguided_noise(eps, weak, guidance.autoguidance_scale) - eps
        if guidance.guidance_scale != 0:
            gradient = classifier_gradient(self.guidance_classifier, model_input, class_labels, **timesteps)
            shift += classifier_guided_noise(eps, gradient, abar, guidance.guidance_scale) - eps
        return prediction_of(eps + shift, model_input, abar, self.prediction_type), variance

    def _noise(self, unet, model_input, class_labels, abar, timesteps) -> torch.Tensor:
        prediction, _ = _predict(unet, model_input, class_labels, timesteps)
        return noise_of(prediction, model_input, abar, self.prediction_type)


def _predict(unet, model_input, class_labels, timesteps) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prediction `[B, C, H, W]` and, where the network has one, the learned variance `[B, C, H, W]`; float32."""
    labels = {} if unet.config.num_class_embeds is None else {"class_labels": class_labels}
    output = unet(model_input.to(unet.dtype), **timesteps, **labels).sample.float()  # [B, C or 2C, H, W]
    return tuple(output.chunk(2, dim=1)) if unet.learned_variance else (output, None)


def _refuse_other_masks(name: str, network, unet) -> None:
    theirs, ours = masks_of(network.config), masks_of(unet.config)
    if theirs != ours:
        raise ValueError(
            f"The {name} was trained with {' and '.join(theirs)} and the unet with {' and '.join(ours)} (masks in their "
            "configurations): both must know the same."
        )


def _weighting(model) -> tuple:
    return tuple(model.config.channel_weights), model.config.mask_weighting
