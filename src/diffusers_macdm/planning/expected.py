"""How long a plan takes, from what was measured: the one place that adds up seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan_file import setting_of


PAGES = 0.5  # of the time that a process takes to start: the pages and the card, most of it the import of what draws them
PLANTED_KINDS = 9  # of planted copies, in the audit


def training_seconds(plan: Mapping[str, Any], measured: Mapping[str, Any], part: str) -> dict[str, float]:
    """Seconds of a training: `start` (process and data), `updates`, `rest` (checkpoints, pictures, the written network).

    Args:
        plan: whose part is trained.
        measured: see `measuring.measure_device`.
        part: "denoiser" or "classifier".
    """
    speed, steps = measured[part], setting_of(plan, part, "max_train_steps")
    checkpoints = steps // setting_of(plan, part, "checkpointing_steps") + 1
    rest = (checkpoints + 1) * speed["checkpoint"]
    if part == "denoiser":
        rest += len(picture_steps(plan)) * speed["picture"]
    start = measured["start"] + speed["case"] * plan["data"]["splits"]["train"]
    return {"start": start, "updates": steps * speed["update"], "rest": rest}


def picture_steps(plan: Mapping[str, Any]) -> list[int]:
    """The updates after which the denoiser's training draws a grid of samples."""
    steps, each = setting_of(plan, "denoiser", "max_train_steps"), setting_of(plan, "denoiser", "validation_steps")
    early = setting_of(plan, "denoiser", "early_validation_steps")
    return sorted({*range(each, steps + 1, each), *(step for step in early if step <= steps)})


def expected_seconds(plan: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each stage of `macdm train` after its plan: `classifier`, `denoiser`, `samples`, `audit`, `pages`."""
    parts = {
        part: sum(training_seconds(plan, measured, part).values()) if plan.get(part) is not None else 0.0
        for part in ("classifier", "denoiser")
    }
    return {**parts, **after_training(plan, measured)}


def after_training(plan: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of the stages that follow the trainings."""
    evaluations = 2 if setting_of(plan, "samples", "classifier_free_guidance_scale") != 1 else 1
    evaluations += 2 if plan.get("classifier") is not None and setting_of(plan, "samples", "guidance_scale") else 0
    pairs = num_pairs(plan)
    each = measured["denoiser"]["picture"] / (
        setting_of(plan, "denoiser", "num_validation_samples") * setting_of(plan, "denoiser", "ddpm_num_inference_steps")
    )
    samples = pairs * evaluations * setting_of(plan, "samples", "num_inference_steps") * each
    return {"samples": samples, "audit": _audit_seconds(plan, measured, pairs), "pages": PAGES * measured["start"]}


def num_pairs(plan: Mapping[str, Any]) -> int:
    """Pairs that are sampled after the training, of all classes."""
    classes = len([label for label in plan["data"]["labels"] if label != "none"])
    return classes * setting_of(plan, "samples", "num_per_class")


def _audit_seconds(plan: Mapping[str, Any], measured: Mapping[str, Any], pairs: int) -> float:
    if plan.get("audit") is None:
        return 0.0
    speed, splits = measured["audit"], plan["data"]["splits"]
    planted = PLANTED_KINDS * min(setting_of(plan, "audit", "planted"), splits["train"])
    compared = pairs + splits["validation"] + splits.get("test", 0) + planted
    return setting_of(plan, "audit", "embedding_steps") * speed["step"] + speed["gallery"] + compared * speed["image"]
