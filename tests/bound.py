"""The process in float64 and its constants in numpy, and the whole variational bound of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDPMScheduler

from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.macdm.variational_bound import normal_kl, split_learned_variance, vlb_term


# Two vectors with the moments of independent standard normals (mean square 1, mean product 0) and no sampling error: a mean
# over these four pixels *is* the expectation of any quadratic form.
PIXELS_DATA = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
PIXELS_NOISE = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)


def exact_process(**config):
    """The process with `abar` in float64."""
    betas = DDPMScheduler(**config).betas.double()
    return ForwardProcess(betas, torch.cumprod(1 - betas, dim=0))


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(*shape, seed=0, num_bins=256):
    """Values of the 8-bit grid in [-1, 1]."""
    bins = torch.randint(num_bins, shape, generator=torch.Generator().manual_seed(seed))
    return bins.double() / (num_bins - 1) * 2 - 1


class Constants:
    """The constants of the process in numpy, written out here once more."""

    def __init__(self, process):
        self.betas = process.betas.numpy()
        self.abar = np.cumprod(1 - self.betas)
        self.abar_previous = np.append(1.0, self.abar[:-1])
        self.posterior = self.betas * (1 - self.abar_previous) / (1 - self.abar)
        self.posterior[0] = self.posterior[1]
        self.on_clean = self.betas * np.sqrt(self.abar_previous) / (1 - self.abar)
        self.on_noisy = np.sqrt(1 - self.betas) * (1 - self.abar_previous) / (1 - self.abar)

    def variance(self, v):
        """`[T]`, Improved DDPM eq. 15, as a product of powers."""
        return self.betas ** ((1 + v) / 2) * self.posterior ** ((1 - v) / 2)

    def divergence(self, squared_error, variance):
        """`[T]`, bits: divergence for a mean squared error of the clean prediction and a variance of the model."""
        ratio = self.posterior / variance
        return 0.5 * (ratio - 1 - np.log(ratio) + self.on_clean**2 * squared_error / variance) / np.log(2)


def prior_term(process: ForwardProcess, clean: torch.Tensor) -> torch.Tensor:
    """`KL(q(I_T | I_0) || N(0, 1))`, the term of the bound that no network can change; `[B, C]`, bits per dimension."""
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
        sample = process.sample(clean, timesteps, noise=noise)
        output = model(sample.noisy, timesteps)
        prediction, v = split_learned_variance(getattr(output, "sample", output), clean.shape[1])
        term = vlb_term(
            process,
            sample,
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
