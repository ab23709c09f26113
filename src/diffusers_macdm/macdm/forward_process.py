"""The forward (noising) process and its algebra, with one timestep for a sample or one for each of its channels.

DDPM: Ho et al., arXiv 2006.11239. A timestep tensor is `[B]` (all channels alike) or `[B, C]` (MaC-DM here noises the
radiograph and its masks by separate timesteps, as UniDiffuser, arXiv 2303.06555, does with its two modalities).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .draws import Draws
from .joint_sample import ANATOMY_MASK, CHANNELS, MASK_CHANNELS, RADIOGRAPH


TASKS = ("pairs", "masks_to_image", "image_to_masks", "insertion")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class NoisySample:
    """A batch of joint samples at the noise levels drawn for it, made by `ForwardProcess.sample`; at least float32.

    Attributes:
        clean: `[B, C, H, W]`, `I_0`.
        noise: `[B, C, H, W]`, the standard normal `eps`.
        noisy: `[B, C, H, W]`, what the network is fed: `I_t` in the noised channels, `I_0` in the given ones.
        timesteps: int64 `[B]` or `[B, C]`.
        noised: bool `[B, C, 1, 1]` or `[B, C, H, W]`, False for what is given clean: a channel (masks -> image, image ->
            masks), or what lies outside the region of an insertion. It carries no loss.
        alphas_cumprod: float64 `[B, 1, 1, 1]` or `[B, C, 1, 1]`, `abar_t`.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor
    noised: torch.Tensor
    alphas_cumprod: torch.Tensor

    @property
    def noised_channels(self) -> torch.Tensor:
        """Bool `[B, C]`, False for a channel that is given clean as a whole."""
        return self.noised.flatten(2).any(dim=2)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of `values` `[B, C, H, W]` over the noised pixels of each channel -> `[B, C]`.

        A channel that is given clean has a mean that means nothing.
        """
        if self.noised.shape[2:] == (1, 1):
            return values.mean(dim=(2, 3))
        return (values * self.noised).sum(dim=(2, 3)) / self.noised.sum(dim=(2, 3)).clamp(min=1)

    def target(self, prediction_type: str) -> torch.Tensor:
        """Return what the network is to predict, `[B, C, H, W]`, without the division that `prediction_of` needs."""
        if prediction_type == "epsilon":
            return self.noise
        if prediction_type == "sample":
            return self.clean
        signal, sigma = _signal_and_sigma(self.alphas_cumprod, self.clean)
        return signal * self.noise - sigma * self.clean  # v: arXiv 2202.00512, app. D


def per_channel(values: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Look `values` `[T]` up at `timesteps` `[B]` or `[B, C]` -> `[B, 1, 1, 1]` or `[B, C, 1, 1]` for broadcasting."""
    picked = values.to(timesteps.device)[timesteps]
    if picked.ndim == 1:
        picked = picked[:, None]
    return picked[:, :, None, None]


@dataclass(frozen=True)
class ForwardProcess:
    """The constants of `q(I_t | I_0)` and `q(I_{t-1} | I_t, I_0)` for every timestep, kept in float64.

    Attributes:
        betas: `[T]`, the variance added at each step.
        alphas_cumprod: `[T]`, `abar_t`, the share of the signal's power left at each step.
    """

    betas: torch.Tensor
    alphas_cumprod: torch.Tensor

    @classmethod
    def from_scheduler(cls, scheduler) -> ForwardProcess:
        """Take the process from any diffusers scheduler that has `betas` and `alphas_cumprod`.

        `abar` is multiplied up again in float64: the scheduler's float32 has lost three digits of `1 - abar` at small t.
        """
        betas = scheduler.betas.double().cpu()
        abar = torch.cumprod(1 - betas, dim=0)
        # Where the betas leave no signal (zero terminal SNR), some schedulers keep a trace of it, 2^-24.
        return cls(betas, torch.where(abar > 0, abar, scheduler.alphas_cumprod.double().cpu()))

    def to(self, device: torch.device | str) -> ForwardProcess:
        """The same process with its tables on `device`, so that looking them up in training copies nothing."""
        return ForwardProcess(self.betas.to(device), self.alphas_cumprod.to(device))

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    @property
    def alphas_cumprod_previous(self) -> torch.Tensor:
        """`[T]`, `abar_{t-1}`, 1 at t = 0."""
        return torch.cat([torch.ones_like(self.alphas_cumprod[:1]), self.alphas_cumprod[:-1]])

    @property
    def posterior_variance(self) -> torch.Tensor:
        """`[T]`, `beta~_t` of DDPM eq. 7; 0 at t = 0."""
        return self.betas * (1 - self.alphas_cumprod_previous) / (1 - self.alphas_cumprod)

    @property
    def posterior_log_variance(self) -> torch.Tensor:
        """`[T]`, `log beta~_t`; the value of t = 1 stands at t = 0, where the variance is 0 (Improved DDPM's clipping)."""
        variance = self.posterior_variance
        return torch.cat([variance[1:2], variance[1:]]).log()

    @property
    def snr(self) -> torch.Tensor:
        """`[T]`, signal-to-noise ratio `abar_t / (1 - abar_t)`."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """DDPM eq. 4: `I_t = sqrt(abar_t) I_0 + sqrt(1 - abar_t) eps`; `clean`, `noise` `[B, C, H, W]`."""
        abar = per_channel(self.alphas_cumprod, timesteps)
        return abar.sqrt().to(clean.dtype) * clean + (1 - abar).sqrt().to(clean.dtype) * noise

    def sample(
        self,
        clean: torch.Tensor,
        timesteps: torch.Tensor,
        noised: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ) -> NoisySample:
        """Noise a batch, and keep together what its losses are computed from.

        Args:
            clean: `[B, C, H, W]`.
            timesteps: int64 `[B]` or `[B, C]`, 0 for a given channel.
            noised: bool `[B, C]` or, for single pixels, `[B, C, H, W]`; None is all True.
            noise: `[B, C, H, W]`; None draws it from torch's global generator.
        """
        clean = clean.to(torch.promote_types(clean.dtype, torch.float32))
        noise = torch.randn_like(clean) if noise is None else noise.to(clean.dtype)
        noisy = self.add_noise(clean, noise, timesteps)
        if noised is None:
            noised = torch.ones(*clean.shape[:2], 1, 1, dtype=torch.bool, device=clean.device)
        else:
            noised = noised[:, :, None, None] if noised.ndim == 2 else noised
            noisy = torch.where(noised, noisy, clean)
        abar = per_channel(self.alphas_cumprod, timesteps)
        return NoisySample(clean, noise, noisy, timesteps, noised, abar)

    def posterior_mean(self, clean: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """DDPM eq. 7, the mean of `q(I_{t-1} | I_t, I_0)`; tensors `[B, C, H, W]`."""
        abar = self.alphas_cumprod
        abar_previous = self.alphas_cumprod_previous
        on_clean = per_channel(self.betas * abar_previous.sqrt() / (1 - abar), timesteps).to(clean.dtype)
        on_noisy = per_channel((1 - self.betas).sqrt() * (1 - abar_previous) / (1 - abar), timesteps).to(clean.dtype)
        return on_clean * clean + on_noisy * noisy

    def alphas_cumprod_at(self, timestep: float) -> float:
        """`abar` at a possibly fractional timestep (sigma-type schedulers visit such ones), by linear interpolation of
        `log(1/abar - 1)`, as these schedulers interpolate log sigma between timesteps."""
        position = min(max(float(timestep), 0.0), self.num_timesteps - 1.0)
        below = int(position)
        if position == below:
            return float(self.alphas_cumprod[below])
        above = min(below + 1, self.num_timesteps - 1)
        log_sigma = torch.lerp(-self.snr[below].log(), -self.snr[above].log(), position - below)
        return float(torch.sigmoid(-log_sigma))


def noise_of(
    prediction: torch.Tensor, noisy: torch.Tensor, alphas_cumprod: torch.Tensor | float, prediction_type: str
) -> torch.Tensor:
    """Any prediction -> the noise prediction `eps` of the same clean sample.

    `epsilon` predicts `eps`; `v_prediction` predicts `sqrt(abar) eps - sqrt(1 - abar) I_0` (arXiv 2202.00512, app. D);
    `sample` predicts `I_0`. `alphas_cumprod` is a number or broadcasts against `noisy`.
    """
    signal, sigma = _signal_and_sigma(alphas_cumprod, noisy)
    if prediction_type == "epsilon":
        return prediction
    if prediction_type == "v_prediction":
        return signal * prediction + sigma * noisy
    if prediction_type == "sample":
        return (noisy - signal * prediction) / sigma
    raise ValueError(f"prediction_type={prediction_type!r} is not known; allowed are {', '.join(PREDICTION_TYPES)}.")


def prediction_of(
    noise: torch.Tensor, noisy: torch.Tensor, alphas_cumprod: torch.Tensor | float, prediction_type: str
) -> torch.Tensor:
    """The inverse of `noise_of`: the prediction of type `prediction_type` that says the same as `noise`."""
    signal, sigma = _signal_and_sigma(alphas_cumprod, noisy)
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return (noise - sigma * noisy) / signal
    if prediction_type == "sample":
        return (noisy - sigma * noise) / signal
    raise ValueError(f"prediction_type={prediction_type!r} is not known; allowed are {', '.join(PREDICTION_TYPES)}.")


def clean_of(
    prediction: torch.Tensor, noisy: torch.Tensor, alphas_cumprod: torch.Tensor | float, prediction_type: str
) -> torch.Tensor:
    """Any prediction -> the clean sample `I_0` that it implies."""
    # Not by way of the noise: that divides by `sqrt(abar)`, which is small near pure noise and 0 at zero terminal SNR.
    signal, sigma = _signal_and_sigma(alphas_cumprod, noisy)
    if prediction_type == "sample":
        return prediction
    if prediction_type == "v_prediction":
        return signal * noisy - sigma * prediction
    return prediction_of(noise_of(prediction, noisy, alphas_cumprod, prediction_type), noisy, alphas_cumprod, "sample")


def _signal_and_sigma(alphas_cumprod: torch.Tensor | float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    abar = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device=like.device)
    return abar.sqrt().to(like.dtype), (1 - abar).sqrt().to(like.dtype)


def lognormal_timesteps(process: ForwardProcess, mean: float, std: float) -> torch.Tensor:
    """Probabilities of the timesteps for noise levels whose logarithm is normal (EDM, arXiv 2206.00364, table 1).

    Uniform timesteps spend most of a training where nothing can be seen (linear schedule: 43 % above sigma = 5) and little
    where edges are made. Here `log sigma ~ N(mean, std^2)` with `sigma = sqrt((1 - abar) / abar)`, taken to the timestep of
    the nearest `log sigma`.

    Args:
        mean: of the natural logarithm of sigma, where the clean sample lies in [-1, 1].
        std: its standard deviation, above 0.

    Returns:
        `[T]` float64 that sums to 1.
    """
    log_sigma = -0.5 * process.snr.clamp(min=1e-12).log()  # [T], rising; at zero terminal SNR the last one is infinite
    between = (log_sigma[1:] + log_sigma[:-1]) / 2
    below = torch.special.ndtr((between - mean) / std)  # [T - 1], probability of what lies below each border
    ends = torch.tensor([0.0, 1.0], dtype=below.dtype, device=below.device)
    return torch.cat([ends[:1], below, ends[1:]]).diff()


def check_task_probabilities(task_probabilities: Sequence[float]) -> None:
    """Raise `ValueError` unless there is a probability for each of `TASKS`; the last ones may be left out."""
    num_given, total = len(task_probabilities), sum(task_probabilities)
    if not 3 <= num_given <= len(TASKS) or min(task_probabilities) < 0 or abs(total - 1) > 1e-6:
        raise ValueError(
            f"task_probabilities={tuple(task_probabilities)} is not allowed: {len(TASKS)} numbers of at least 0 "
            f"that sum to 1 ({', '.join(TASKS)}); without the last, nothing is inserted."
        )


def draw_timesteps(
    batch_size: int,
    num_timesteps: int,
    task_probabilities: Sequence[float],
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    timestep_probabilities: torch.Tensor | None = None,
    draws: Draws | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw what each sample of a training batch practises, and its timesteps.

    One network learns all uses (as UniDiffuser, arXiv 2303.06555, with the marginals left out): *pairs* (`t_mask =
    t_image`), *masks -> image* (`t_mask = 0`), *image -> masks* (`t_image = 0`) and *insertion*: film and lesion mask are
    noised in a region alone (`training_losses.insertion_regions`), in half of the cases the film alone (`t_mask = 0`). A
    given channel is fed clean.

    Args:
        task_probabilities: of `TASKS`; they sum to 1.
        timestep_probabilities: `[T]`, such as `lognormal_timesteps`; None is uniform.
        draws: where the numbers come from, instead of `generator`.

    Returns:
        timesteps, int64 `[B, 3]` (0 for given channels), noised_channels, bool `[B, 3]` (False for given channels), and
        inserted, bool `[B]`, which is True where the rest of the film is given.
    """
    check_task_probabilities(task_probabilities)
    probabilities = torch.tensor(task_probabilities, dtype=torch.float32, device=device)
    draws = draws or Draws(batch_size, device, generator)
    task = draws.choice(probabilities)  # [B]
    inserted = task == TASKS.index("insertion")
    masks_given = task == TASKS.index("masks_to_image")
    if len(task_probabilities) > TASKS.index("insertion"):
        masks_given |= inserted & (draws.uniform() < 0.5)
    noised_channels = torch.ones(batch_size, len(CHANNELS), dtype=torch.bool, device=device)
    noised_channels[:, MASK_CHANNELS] = ~masks_given[:, None]
    noised_channels[:, RADIOGRAPH] = task != TASKS.index("image_to_masks")
    if timestep_probabilities is None:
        drawn = draws.integer(num_timesteps)  # [B]
    else:
        drawn = draws.choice(timestep_probabilities.float())
    timesteps = drawn[:, None] * noised_channels
    noised_channels[:, ANATOMY_MASK] &= ~inserted  # given clean, although the masks' timestep is that of the lesion mask
    return timesteps, noised_channels, inserted
