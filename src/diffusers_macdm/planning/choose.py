"""From a fingerprint and what the device measured to a plan. What is chosen here was settled by `docs/results/quality.md`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..progress import duration
from .expected import after_training, expected_seconds, training_seconds
from .fingerprint import RESOLUTIONS


FEWEST_CASES = 20  # of the train split
FEWEST_UPDATES = 20  # after which the first picture is due, and the time is known
MOST_UPDATES = 20000  # where a fast device would learn a small set by heart (pipelines/demo.py)
# Median lesion of the phantom at 48 px: learned there, in 92 % of the pairs that should have one (docs/results/quality.md).
ENOUGH_PIXELS = 19
ENOUGH_SAMPLES = 20000  # for more pixels than asked for; the benchmark's two minutes had 38,000
REFERENCE_SAMPLES = 150_000  # of the reference model, in 20 minutes
SPARE = 0.95  # of the time: what is measured is right to some percent
PICTURES = (0.01, 0.02, 0.05)  # of the training, before the regular ones
CLASSIFIER_SHARE, MOST_CLASSIFIER_UPDATES = 0.15, 5000
SMALL_AUDIT = {"embedding_steps": 100, "planted": 20}  # that of the demo
# Of the time: where they would take more, pictures are fewer and smaller, the audit is the demo's, checkpoints are fewer.
PICTURES_SHARE, AUDIT_SHARE, CHECKPOINTS_SHARE = 0.1, 0.2, 0.03
FEWEST_CHECKPOINTS, MOST_CHECKPOINTS = 5, 20


@dataclass(frozen=True)
class Preset:
    """What a preset stands for.

    Attributes:
        budget: seconds, where none is given.
        resolution: side in pixels where the lesions need no more.
        block_out_channels: of the denoiser.
        augment: whether the training augments; a short one has no time for it.
        num_per_class: pairs that are sampled at the end.
        audit: settings of the copy audit.
        more_pixels: whether time for more pixels than the lesions need goes into them.
        why: of the network, in a sentence.
    """

    budget: float
    resolution: int
    block_out_channels: tuple[int, ...]
    augment: bool
    num_per_class: int
    audit: Mapping[str, int]
    more_pixels: bool
    why: str


_REFERENCE = "Channels 96, 80, 96 are those of the reference model, which has whole bones after 20 minutes of one core."
PRESETS = {
    "quick": Preset(
        600.0,
        48,
        (64, 64, 96),
        False,
        16,
        SMALL_AUDIT,
        False,
        "Channels 64, 64, 96 are those of the demo, which learn most in few minutes; augmentation is off, as in the benchmark.",
    ),
    "default": Preset(3600.0, 64, (96, 80, 96), True, 32, {"embedding_steps": 400, "planted": 100}, False, _REFERENCE),
    "best": Preset(21600.0, 64, (96, 80, 96), True, 64, {"embedding_steps": 400, "planted": 100}, True, _REFERENCE),
}


def refuse_data(data: str, facts: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a set that nothing can be learned from."""
    known = [label for label in facts["labels"] if label != "none"]
    if len(known) < 2:
        has = f"the single class label {known[0]}" if known else "no class label"
        raise ValueError(
            f"{data}: the train split has {has}; at least two are needed: add normal films as label 0 and films with a lesion "
            "as label 1."
        )
    if facts["splits"]["train"] < FEWEST_CASES:
        raise ValueError(
            f"{data}: {facts['splits']['train']} cases in train are too few: at least {FEWEST_CASES} are needed, or the pairs "
            "would be copies of them; move cases from the other splits, or add some."
        )


def sides(facts: Mapping[str, Any], preset: Preset) -> list[int]:
    """Resolutions that come into question, ascending; the first one is taken whatever the time."""
    native = [side for side in RESOLUTIONS if side <= facts["side"]["median"]] or list(RESOLUTIONS[:1])
    base = max(side for side in native if side <= max(preset.resolution, native[0]))
    pixels = facts["lesion_pixels"]
    needed = base
    if pixels is not None:
        needed = next((side for side in native if pixels[str(side)] >= ENOUGH_PIXELS), native[-1])
    wanted = [side for side in native if base <= side <= max(base, needed)]
    more = [side for side in native if side > wanted[-1]][:1] if preset.more_pixels else []
    return [*wanted, *more]


def chosen_side(facts: Mapping[str, Any], preset: Preset, seconds_of: Mapping[int, float], budget: float) -> int:
    """The resolution: of those in question the largest for which there is time.

    Args:
        seconds_of: seconds of an update by resolution, of those that the device can train.
        budget: seconds for the updates.
    """
    base, *others = sides(facts, preset)
    pixels = facts["lesion_pixels"]
    chosen = base
    for side in others:
        is_needed = pixels is not None and pixels[str(chosen)] < ENOUGH_PIXELS
        samples = 32 * budget / seconds_of[side] if side in seconds_of else 0
        if samples >= (ENOUGH_SAMPLES if is_needed else REFERENCE_SAMPLES):
            chosen = side
    return chosen


def refuse_vanishing(data: str, facts: Mapping[str, Any], trainable: list[int]) -> None:
    """Raise `ValueError` where the median lesion has less than a pixel at every resolution that the device can train."""
    pixels = facts["lesion_pixels"]
    if pixels is not None and pixels[str(trainable[-1])] < 1:
        raise ValueError(
            f"{data}: the median lesion has {pixels[str(trainable[-1])]:.2g} pixels at {trainable[-1]} px, the most that this "
            "device can train in the time: crop the films to the region around it, or give more time by --time-budget."
        )


def denoiser_settings(preset: Preset, side: int, precision: str, kind: str, cores: int, seed: int) -> dict[str, Any]:
    """Settings of the denoiser's training without its length, as a plan has them: those that differ from the defaults."""
    settings = {
        "resolution": side,
        "patch_size": 4,
        "block_out_channels": list(preset.block_out_channels),
        "layers_per_block": 1,
        "train_batch_size": 32,
        "learning_rate": 1.2e-3,
        "task_probabilities": [0.7, 0.05, 0.05, 0.2],
        "mixed_precision": precision,
        "audit_steps": 0,
        "report_to": "none",
        "logging_steps": 10,
        "checkpoints_total_limit": 1,
        **({} if preset.augment else {"augment": False}),
        **({"dataloader_num_workers": min(8, max(1, cores - 1))} if kind == "cuda" else {}),
        **({"seed": seed} if seed else {}),
    }
    return settings


def classifier_settings(side: int, precision: str, seed: int) -> dict[str, Any]:
    """Settings of the classifier's training without its length: those of the demo."""
    return {
        "resolution": side,
        "patch_size": 2,
        "block_out_channels": [32, 64, 96],
        "learning_rate": 1e-3,
        "mixed_precision": precision,
        "report_to": "none",
        "logging_steps": 10,
        "checkpoints_total_limit": 1,
        **({"seed": seed} if seed else {}),
    }


def with_length(
    values: Mapping[str, Any], updates: int, checkpoints: int, pictures: int = 10, is_denoiser: bool = True
) -> dict[str, Any]:
    """Settings of a training of so many updates: warm-up, checkpoints and pictures go by its length."""
    every = max(1, math.ceil(updates / checkpoints))
    every = every if every < 10 else -(-every // 10) * 10  # so that checkpoints fall on lines of the log
    settings = {**values, "max_train_steps": updates, "checkpointing_steps": every}
    if updates < 1000:
        settings["lr_warmup_steps"] = max(1, updates // 10)
    settings["validation_steps"] = max(1, updates // pictures) if is_denoiser else updates  # of the classifier at its end
    if is_denoiser:
        settings["early_validation_steps"] = sorted({max(1, round(share * updates)) for share in PICTURES})
    return settings


def fit_length(
    plan: dict[str, Any], measured: Mapping[str, Any], seconds: float, budget_text: str, spent: float = 0.0
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Give the trainings of a plan the lengths that fit the time.

    Args:
        plan: with settings without their length.
        measured: of these very trainings.
        seconds: for all that `macdm train` does after its plan.
        budget_text: the time as it was given, for the sentence of an error.
        spent: seconds that the planning took of the time, for the same sentence.

    Returns:
        The plan, and what was measured, a smaller grid of samples put into it where the plan has one.

    Raises:
        ValueError: when there is no time for `FEWEST_UPDATES` updates.
    """
    plan, speed = dict(plan), measured["denoiser"]
    checkpoints = int(CHECKPOINTS_SHARE * seconds / speed["checkpoint"])
    checkpoints = min(MOST_CHECKPOINTS, max(FEWEST_CHECKPOINTS, checkpoints))
    if plan.get("classifier") is not None:
        updates = int(CLASSIFIER_SHARE * seconds / measured["classifier"]["update"])
        updates = min(MOST_CLASSIFIER_UPDATES, max(FEWEST_UPDATES, updates))
        plan["classifier"] = with_length(plan["classifier"], updates, checkpoints, is_denoiser=False)
    if plan.get("audit") is not None and after_training(plan, measured)["audit"] > AUDIT_SHARE * seconds:
        plan["audit"] = dict(SMALL_AUDIT)
    pictures = 10
    if (pictures + len(PICTURES)) * speed["picture"] > PICTURES_SHARE * seconds:
        pictures = 4
        plan["denoiser"] = {**plan["denoiser"], "num_validation_samples": 8}
        speed = {**speed, "picture": speed["picture"] / 2}
        measured = {**measured, "denoiser": speed}
    shortest = {**plan, "denoiser": with_length(plan["denoiser"], 100 * FEWEST_UPDATES, checkpoints, pictures)}
    parts = training_seconds(shortest, measured, "denoiser")
    fixed = parts["start"] + parts["rest"] + sum(after_training(plan, measured).values())
    if plan.get("classifier") is not None:
        fixed += sum(training_seconds(plan, measured, "classifier").values())
    update = speed["update"]
    updates = int((SPARE * seconds - fixed) / update)
    if updates < FEWEST_UPDATES:
        needed = spent + (fixed + FEWEST_UPDATES * update) / SPARE
        raise ValueError(
            f"time_budget={budget_text} is too short for a single picture: planning, starting, sampling and the audit alone "
            f"take {duration(spent + fixed)} here, so that at least {math.ceil(needed / 60)}m are needed"
            + ("." if plan["preset"] == "quick" else ", or less with --preset quick.")
        )
    updates = min(MOST_UPDATES, updates - updates % (100 if updates > 1000 else 20))  # that the regular pictures divide
    plan["denoiser"] = with_length(plan["denoiser"], updates, checkpoints, pictures)
    return plan, measured


def region_advice(facts: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Say whether the films should be cropped to a region of interest first, and why."""
    if facts["lesion_share"] is None:
        return {"advised": False, "why": "No case has a lesion outline, so nothing says where the region would be."}
    at = round(facts["lesion_share"] * side**2, 1)
    if at < ENOUGH_PIXELS:
        why = f"The median lesion has {at:g} pixels at {side} px, fewer than the {ENOUGH_PIXELS} that are known to be learned."
        if facts["side"]["median"] > side:
            return {"advised": True, "why": f"{why} Cropped to a region around it, the films would show it larger."}
        return {"advised": False, "why": f"{why} The films have no more pixels to crop to."}
    return {
        "advised": False,
        "why": f"The median lesion has {at:g} pixels at {side} px; {ENOUGH_PIXELS} are known to be learned.",
    }


def expectation(plan: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the plan will take: `seconds` in all and by stage (`parts`), `memory_gb`, `samples` that the training sees."""
    parts = expected_seconds(plan, measured)
    memory = measured["denoiser"]["memory"]
    denoiser = plan["denoiser"]
    return {
        "seconds": round(sum(parts.values()), 1),
        "parts": {name: round(value, 1) for name, value in parts.items()},
        "seconds_per_update": round(measured["denoiser"]["update"], 4),
        "samples": denoiser["max_train_steps"] * denoiser["train_batch_size"],
        "parameters": measured["denoiser"]["parameters"],
        "memory_gb": None if memory is None else round(memory / 1e9, 2),
    }
