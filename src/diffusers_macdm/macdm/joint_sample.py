"""The joint clean sample `I_0 = (x_0, b_0, c_0)` of MaC-DM: channel order, ranges and channel weights.

Everything that has to know which channel is which, what range it lives in, or where the weights `w1, w2, w3` act, asks
this file (MaC-DM, arXiv 2311.13688, sec. 2: "I_t = concat(w1 x_t, w2 b_t, w3 c_t)").

A network of a set with one mask has the three channels too: that of the mask which the set lacks is background in training and
sampling, carries no loss, and is never put out (`masks` in the network's configuration names those that it knows).

Ranges: radiograph file -> [0, 1] -> [-1, 1] -> file; mask file {0, non-zero} -> {-1, 1} -> {0, 255}.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


RADIOGRAPH, ANATOMY_MASK, LESION_MASK = 0, 1, 2
CHANNELS = ("radiograph", "anatomy_mask", "lesion_mask")
MASK_CHANNELS = slice(ANATOMY_MASK, None)
MASKS = CHANNELS[MASK_CHANNELS]
MASK_WORDS = {"anatomy_mask": "anatomy masks", "lesion_mask": "lesion outlines"}  # how sentences call those of a set
BACKGROUND = -1.0

MASK_WEIGHTINGS = ("input", "signal")
NORMAL_LABEL = 0  # the class without a lesion; every other class label has one


def join(radiograph: torch.Tensor, anatomy_mask: torch.Tensor | None, lesion_mask: torch.Tensor | None) -> torch.Tensor:
    """Stack a radiograph and its two masks into one joint sample.

    Args:
        radiograph: `[..., H, W]` in [0, 1].
        anatomy_mask, lesion_mask: `[..., H, W]`, 0 or non-zero; None, where there is none, gives background.

    Returns:
        `[..., 3, H, W]` float32 in [-1, 1].
    """
    masks = [torch.zeros_like(radiograph) if mask is None else mask for mask in (anatomy_mask, lesion_mask)]
    masks = [(mask != 0).float() for mask in masks]
    return torch.stack([radiograph.float(), *masks], dim=-3) * 2 - 1


def split(joint_sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The inverse of `join`: `[..., 3, H, W]` in [-1, 1] -> radiograph, soft anatomy mask, soft lesion mask, each
    `[..., H, W]`, mapped to [0, 1] and clipped to it. Threshold the masks at 0.5 (see `refinement`)."""
    unit = (joint_sample.float() / 2 + 0.5).clamp(0, 1)
    return unit.unbind(dim=-3)


def check_masks(masks: Sequence[str], num_channels: int = len(CHANNELS)) -> None:
    """Raise `ValueError` unless these are masks that a network of this number of channels can know: both, or one of `MASKS`."""
    masks = tuple(masks)
    if masks != MASKS and (len(masks) != 1 or masks[0] not in MASKS or num_channels != len(CHANNELS)):
        raise ValueError(
            f"masks={masks} is not allowed: {MASKS}, or one of the two, in the channels of the other one's network "
            f"({len(CHANNELS)}; here {num_channels})."
        )


def masks_of(config) -> tuple[str, ...]:
    """Return which of `MASKS` a network knows, by its configuration; those of earlier versions know both."""
    return tuple(getattr(config, "masks", None) or MASKS)


def known_channels(config) -> tuple[int, ...]:
    """Return the channels of the joint sample that a network knows: the radiograph, and the masks of its training set."""
    return (RADIOGRAPH, *(CHANNELS.index(mask) for mask in masks_of(config)))


def absent_channels(config) -> tuple[int, ...]:
    """Return the channels of the joint sample that a network does not know."""
    return tuple(channel for channel in range(len(CHANNELS)) if channel not in known_channels(config))


def hide_absent(joint_sample: torch.Tensor, config) -> torch.Tensor:
    """Make the channels that a network does not know background, whatever it is fed there: `[B, 3, H, W]`."""
    absent = absent_channels(config)
    if not absent:
        return joint_sample
    return joint_sample.index_fill(1, torch.tensor(absent, device=joint_sample.device), BACKGROUND)


def check_channel_weights(channel_weights: Sequence[float], num_channels: int, mask_weighting: str) -> None:
    """Raise `ValueError` unless there is one positive weight for each channel and the reading of the formula is known."""
    if mask_weighting not in MASK_WEIGHTINGS:
        raise ValueError(f"mask_weighting={mask_weighting!r} is not known; allowed are {', '.join(MASK_WEIGHTINGS)}.")
    if len(channel_weights) != num_channels or not all(weight > 0 for weight in channel_weights):
        raise ValueError(
            f"channel_weights={tuple(channel_weights)} does not fit: one positive number for each of the "
            f"{num_channels} channels is needed (w1 for the radiograph, then one for each mask)."
        )


def weigh(joint_sample: torch.Tensor, channel_weights: Sequence[float]) -> torch.Tensor:
    """Multiply each channel of `[B, C, H, W]` by its weight: `concat(w1 x, w2 b, w3 c)`."""
    weights = torch.tensor(channel_weights, dtype=joint_sample.dtype, device=joint_sample.device)
    return joint_sample * weights[:, None, None]


def signal_weights(config) -> tuple[float, ...] | None:
    """The weights that scale the *clean* sample before the noise, or None where the weights act on the network's input.

    `mask_weighting="input"` rescales the noisy channels inside the network and leaves the forward process alone.
    `mask_weighting="signal"` scales the clean channels, which changes their signal-to-noise ratio at every timestep
    ("analog bits", arXiv 2208.04202); the network then takes its input as it is.
    """
    return tuple(config.channel_weights) if config.mask_weighting == "signal" else None


def to_signal(joint_sample: torch.Tensor, config) -> torch.Tensor:
    """Clean joint sample in [-1, 1] -> the clean sample that the forward process of `config` noises."""
    weights = signal_weights(config)
    return joint_sample if weights is None else weigh(joint_sample, weights)


def from_signal(joint_sample: torch.Tensor, config) -> torch.Tensor:
    """The inverse of `to_signal`."""
    weights = signal_weights(config)
    return joint_sample if weights is None else weigh(joint_sample, [1 / weight for weight in weights])
