"""Schedulers of diffusers: which can sample from the model, how, and why others cannot."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import logging

from .forward_process import PREDICTION_TYPES, ForwardProcess
from .joint_sample import signal_weights


logger = logging.get_logger("diffusers.macdm.schedulers")


@dataclass(frozen=True)
class Traits:
    """Properties of a scheduler class that neither its tables nor its signature tell.

    Attributes:
        refused: Why it cannot sample from this model, although it has the right tables (`betas`, `alphas_cumprod`).
        starts_from_noise: Why it cannot start half-way, from a real case.
        takes_variance: Its step uses a variance, the learned one if asked to (others ignore it, broadcast it or slice it off),
            and draws noise of it in the last step, too, unless that is at t = 0.
        steps_back_evenly: Its step goes from t to t - T // n instead of to the next timestep of the schedule.
        fewest_steps: Fewer it cannot be set to, or not step through.
    """

    refused: str | None = None
    starts_from_noise: str | None = None
    takes_variance: bool = False
    steps_back_evenly: bool = False
    fewest_steps: int = 1


# By class name: a class that has no row has no such property. Subclasses are as their base.
SCHEDULERS = {
    "DDPMScheduler": Traits(takes_variance=True),
    "DDPMParallelScheduler": Traits(takes_variance=True),
    "DDIMScheduler": Traits(steps_back_evenly=True),
    "DDIMParallelScheduler": Traits(steps_back_evenly=True),
    "PNDMScheduler": Traits(starts_from_noise="its warm-up steps are those of pure noise", fewest_steps=4),
    "KDPM2AncestralDiscreteScheduler": Traits(fewest_steps=3),
    "LCMScheduler": Traits(refused="it needs a network distilled for consistency"),
    "TCDScheduler": Traits(refused="it needs a network distilled for consistency"),
    "SCMScheduler": Traits(refused="it needs a network distilled for consistency"),
    "DDIMInverseScheduler": Traits(refused="it runs from the image to noise"),
    "DPMSolverMultistepInverseScheduler": Traits(refused="it runs from the image to noise"),
    "DPMSolverSDEScheduler": Traits(refused="it draws its noise outside of `generator`, so no sample could be made again"),
    "RePaintScheduler": Traits(
        refused="it takes further arguments in every step; give the known channels to the pipeline instead"
    ),
    "UnCLIPScheduler": Traits(refused="it has a process of its own for image embeddings"),
    "CogVideoXDDIMScheduler": Traits(refused="it has a process of its own for video"),
    "CogVideoXDPMScheduler": Traits(refused="it has a process of its own for video"),
    "DDPMWuerstchenScheduler": Traits(refused="it has a process of its own with continuous timesteps"),
}

# Of the schedulers that take one: what their step makes of it is finite and what the network was trained for.
VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "learned_range")
REFUSED_VARIANCE_TYPES = {  # the reason, and what to use instead
    "learned": (
        "the network predicts the interpolation between the bounds (Improved DDPM eq. 15)",
        "variance_type='learned_range'",
    ),
    "fixed_large_log": (
        "its step takes that logarithm for the variance itself and puts out NaN",
        "variance_type='fixed_large', the same variance",
    ),
}

# The noise schedules of all schedulers that the pipeline takes follow from the same keys of their configurations.
NOISE_SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)


def traits(scheduler: SchedulerMixin | type) -> Traits:
    """Return the row of `SCHEDULERS` for a scheduler or its class."""
    cls = scheduler if isinstance(scheduler, type) else type(scheduler)
    return next((SCHEDULERS[base.__name__] for base in cls.__mro__ if base.__name__ in SCHEDULERS), Traits())


@dataclass(frozen=True)
class TrainedSchedule:
    """Noise schedule and prediction type that a denoiser was trained with, as far as they are known.

    Attributes:
        alphas_cumprod: `[T]`, or None.
        prediction_type: one of `PREDICTION_TYPES`, or None.
    """

    alphas_cumprod: torch.Tensor | None = None
    prediction_type: str | None = None

    @classmethod
    def of(cls, scheduler: SchedulerMixin | None) -> TrainedSchedule:
        """Take both from the scheduler of a checkpoint."""
        if scheduler is None:
            return cls()
        return cls(getattr(scheduler, "alphas_cumprod", None), scheduler.config.get("prediction_type"))

    @classmethod
    def from_config(cls, config: Mapping) -> TrainedSchedule:
        """Take both from the configuration of any scheduler of the same process."""
        return cls.of(DDPMScheduler(**{key: config[key] for key in NOISE_SCHEDULE_KEYS if key in config}))


def keep_values(scheduler: SchedulerMixin) -> None:
    """Let `OtherScheduler.from_config(scheduler.config)` take over every value of this scheduler.

    It drops the values listed in `_use_default_values` in favour of the *other* class's defaults, betas included. The values
    a denoiser was trained with are no such defaults.
    """
    if scheduler.config.get("_use_default_values"):
        scheduler._internal_dict = FrozenDict({**scheduler.config, "_use_default_values": []})


def scheduler_named(name: str) -> type:
    """Return the scheduler of diffusers with this class name.

    Raises:
        ValueError: when there is none, or it cannot sample from a model of this package.
    """
    scheduler_class = getattr(diffusers, name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise ValueError(
            f"scheduler={name!r} is no scheduler class of diffusers; for example DDPMScheduler, DDIMScheduler, "
            "DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler."
        )
    if traits(scheduler_class).refused:
        raise ValueError(f"scheduler={name!r} cannot sample from this model: {traits(scheduler_class).refused}.")
    return scheduler_class


def set_scheduler(pipe, name: str | None) -> None:
    """Give the pipeline the scheduler of diffusers with this class name, on the model's noise schedule; None keeps its own.

    Raises:
        ValueError: when diffusers has no such scheduler, or it cannot sample from this model.
    """
    if name is not None and name != type(pipe.scheduler).__name__:
        scheduler_class = scheduler_named(name)
        try:
            pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config)
        except Exception as error:  # schedulers of other processes fail on the configuration in many ways
            raise ValueError(f"scheduler={name!r} cannot take over the noise schedule of this model: {error}") from error
    try:
        pipe.check_scheduler()
    except ValueError as error:
        raise ValueError(str(error) if name is None else f"scheduler={name!r}: {error}") from error


def takes_learned_variance(scheduler: SchedulerMixin) -> bool:
    """Return whether the scheduler's step wants the learned variance behind the prediction."""
    return traits(scheduler).takes_variance and scheduler.config.variance_type == "learned_range"


def check_process(scheduler: SchedulerMixin, trained: TrainedSchedule, guided: bool) -> ForwardProcess:
    """Return the process that a scheduler integrates.

    Raises:
        ValueError: when it is not the process that the denoiser was trained on, with the scheduler's name and the reason.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if traits(scheduler).refused:
        raise ValueError(f"{name} cannot sample from this model: {traits(scheduler).refused}.")
    if getattr(scheduler, "alphas_cumprod", None) is None or getattr(scheduler, "betas", None) is None:
        raise ValueError(
            f"{name} cannot sample from this model: it does not integrate the variance-preserving process "
            "(betas, alphas_cumprod) that the denoiser was trained on."
        )
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES or config.get("use_flow_sigmas"):
        raise ValueError(
            f"{name} with prediction_type={prediction_type!r}, use_flow_sigmas={config.get('use_flow_sigmas')} cannot "
            f"sample from this model: allowed prediction types are {', '.join(PREDICTION_TYPES)}, without flow sigmas."
        )
    if trained.prediction_type not in (None, prediction_type):
        raise ValueError(
            f"{name} has prediction_type={prediction_type!r}, the denoiser was trained with "
            f"{trained.prediction_type!r}: make it with {name}.from_config(pipe.scheduler.config)."
        )
    own, current = trained.alphas_cumprod, scheduler.alphas_cumprod
    if own is not None and (own.shape != current.shape or not torch.allclose(own.cpu(), current.cpu(), rtol=1e-3, atol=1e-6)):
        raise ValueError(
            f"{name} has another noise schedule than the denoiser was trained with: make it with "
            f"{name}.from_config(pipe.scheduler.config)."
        )
    if len(current) != config.num_train_timesteps or not (current.isfinite() & (current >= 0) & (current <= 1)).all():
        raise ValueError(
            f"{name} has a noise schedule (betas) that is none: {config.num_train_timesteps} betas from 0 to 1 are needed."
        )
    process = ForwardProcess.from_scheduler(scheduler)
    if process.alphas_cumprod[-1] == 0 and (guided or prediction_type != "v_prediction"):
        raise ValueError(
            f"{name} with rescale_betas_zero_snr=True starts at pure noise, where the noise prediction says nothing "
            "about the sample: it works unguided with prediction_type='v_prediction' alone."
        )
    return process


def check_output(scheduler: SchedulerMixin, unet) -> None:
    """Raise `ValueError` when a scheduler cannot take what the denoiser puts out: its range and its learned variance."""
    name, config = type(scheduler).__name__, scheduler.config
    largest = max(signal_weights(unet.config) or [1.0])
    clips = config.get("clip_sample") and config.get("clip_sample_range", 1.0)
    if clips and clips < largest:
        raise ValueError(
            f"{name} with clip_sample=True, clip_sample_range={clips} would cut off the clean sample, which reaches "
            f"{largest} (channel_weights with mask_weighting='signal'): use clip_sample_range={largest}."
        )
    if takes_learned_variance(scheduler) and not unet.learned_variance:
        raise ValueError(
            f"{name} has variance_type={config.variance_type!r}, but the network has no learned variance "
            f"(out_channels={unet.config.out_channels}): use variance_type='fixed_small'."
        )
    if traits(scheduler).takes_variance and config.variance_type not in VARIANCE_TYPES:
        unknown = ("there is no such type", f"one of {', '.join(VARIANCE_TYPES)}")
        reason, instead = REFUSED_VARIANCE_TYPES.get(config.variance_type, unknown)
        raise ValueError(f"{name} has variance_type={config.variance_type!r}, but {reason}: use {instead}.")


def check_steps(scheduler: SchedulerMixin, num_inference_steps: int) -> None:
    """Raise `ValueError` for a number of steps that the scheduler or the training does not have."""
    most, fewest = scheduler.config.num_train_timesteps, traits(scheduler).fewest_steps
    if not isinstance(num_inference_steps, Integral) or not fewest <= num_inference_steps <= most:
        least = f"{fewest}, which {type(scheduler).__name__} needs," if fewest > 1 else "1"
        raise ValueError(
            f"num_inference_steps={num_inference_steps} is not allowed: a whole number from {least} to {most} (the training "
            "timesteps)."
        )


def set_timesteps(scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device | str | None = None) -> None:
    """Set the scheduler to its timesteps, with the first one as the next to step from."""
    # Anew in every call: multistep solvers keep state.
    scheduler.set_timesteps(num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        # Else it looks the first timestep up, and of two that are equal it takes the second: Karras and exponential sigmas
        # beyond the largest level of the training give such.
        scheduler.set_begin_index(0)
    num_train_timesteps = scheduler.config.num_train_timesteps
    lowest, highest = scheduler.timesteps.min().item(), scheduler.timesteps.max().item()
    if not 0 <= lowest <= highest <= num_train_timesteps - 1:
        raise ValueError(
            f"{type(scheduler).__name__} with num_inference_steps={num_inference_steps} and timestep_spacing="
            f"{scheduler.config.get('timestep_spacing')!r}, steps_offset={scheduler.config.get('steps_offset')} has timesteps "
            f"from {lowest:g} to {highest:g}; the model was trained from 0 to {num_train_timesteps - 1}."
        )
    if traits(scheduler).steps_back_evenly and num_train_timesteps % num_inference_steps:
        logger.warning(
            f"{type(scheduler).__name__} steps back by {num_train_timesteps} // num_inference_steps, whatever its timesteps "
            f"are: num_inference_steps={num_inference_steps} does not divide {num_train_timesteps} and is slightly wrong (the "
            "more so the larger it is); 25, 50, 100 or 250 are right."
        )


def begin_index(scheduler: SchedulerMixin, strength: float, num_inference_steps: int) -> int:
    """Return the index of the first timestep of the schedule that is at or below the level `Z = strength * T`.

    Second-order schedulers visit each timestep twice; sampling must begin at the first visit.

    Raises:
        ValueError: when the scheduler cannot start half-way, or all of its levels are above `Z`.
    """
    if traits(scheduler).starts_from_noise:
        raise ValueError(
            f"strength={strength}: {type(scheduler).__name__} cannot start from a real case: "
            f"{traits(scheduler).starts_from_noise}; use another scheduler."
        )
    num_train_timesteps = scheduler.config.num_train_timesteps
    levels = scheduler.timesteps[:: scheduler.order].double()  # [n]
    allowed = (levels <= strength * num_train_timesteps).nonzero()
    if not len(allowed):
        raise ValueError(
            f"strength={strength} lies below the lowest level of the schedule with "
            f"num_inference_steps={num_inference_steps}: use more steps, or a strength of at least "
            f"{levels.min().item() / num_train_timesteps:.4f}."
        )
    return int(allowed[0]) * scheduler.order


def step_arguments(scheduler: SchedulerMixin, **arguments) -> dict[str, Any]:
    """Return those of the arguments that the scheduler's step takes (`generator` and `eta` are not taken by all)."""
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in arguments.items() if name in accepted}


def take_step(
    scheduler: SchedulerMixin, output: torch.Tensor, t: torch.Tensor, latents: torch.Tensor, is_last: bool, **arguments
) -> torch.Tensor:
    """Step from level `t` to the next one of the schedule, or, in the last step, to the clean sample: `[B, C, H, W]`.

    Args:
        output: `[B, C or 2C, H, W]`, as the scheduler takes it.
        t: the element of `scheduler.timesteps`.
        latents: `[B, C, H, W]`.
        arguments: further ones of the scheduler's step; see `step_arguments`.
    """
    result = scheduler.step(output, t, latents, **arguments)
    # DDPM's mean is the clean prediction in the last step; it adds noise unless that is at t = 0, where
    # `timestep_spacing="trailing"` does not end.
    return result.pred_original_sample if is_last and traits(scheduler).takes_variance else result.prev_sample
