"""Guidance as pure functions around the noise prediction; no scheduler and no sampler is touched.

Every function works on the *noise* prediction of the sample that the network sees (`scheduler.scale_model_input(x, t)`),
in float32. Other prediction types are converted before and after (`forward_process.noise_of`, `prediction_of`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def classifier_gradient(
    classifier: Callable[..., torch.Tensor], model_input: torch.Tensor, class_labels: torch.Tensor, **conditions
) -> torch.Tensor:
    """`grad_{I_t} log p_phi(y | I_t, t)` (Dhariwal and Nichol, arXiv 2105.05233, sec. 4.1).

    Args:
        classifier: called as `classifier(model_input, **conditions)`, returns logits `[B, K]`.
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
        log_probabilities = classifier(model_input, **conditions).float().log_softmax(dim=-1)  # [B, K]
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
