"""The audit in words: from the numbers of `audit.json` to a few sentences that claim no more than they show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..statistics.proportions import proportion
from .copies import copies_too_often


# Share of planted copies that must be found for the audit to be relied on.
MIN_SENSITIVITY = 0.8
# Harder than what a model does by itself: reported, but the audit does not stand or fall with it.
NOT_REQUIRED = ("combined",)
# Share of images that lie outside the range of real films, beyond which finding no copies says nothing.
MAX_FAR = 0.5
# The model copies; the audit finds too few planted copies; the samples are no films; no more copies than chance gives.
OUTCOMES = ("copies", "unreliable", "far", "chance")


def is_reliable(sensitivity: dict) -> bool:
    """Return whether enough planted copies of each required kind were found."""
    return all(share["value"] >= MIN_SENSITIVITY for kind, share in sensitivity.items() if kind not in NOT_REQUIRED)


def outcome(result: dict) -> str:
    """Return what the audit shows: one of `OUTCOMES`."""
    if copies_too_often(result):
        return "copies"
    if not result["reliable"]:
        return "unreliable"
    return "far" if result["far_rate"]["value"] > MAX_FAR else "chance"


def verdict(result: dict) -> str:
    """Say the audit in a few sentences, from `audit.json`'s numbers alone."""
    rate, sensitivity = result["copy_rate"], result["sensitivity"]
    required = {kind: share for kind, share in sensitivity.items() if kind not in NOT_REQUIRED}
    found, total = (sum(share[key] for share in required.values()) for key in ("found", "total"))
    sentence = (
        f"{rate['copies']} of {rate['total']} synthetic images lie closer to a training image than 95 % of validation images "
        f"do; the audit finds {100 * found / total:.0f} % of planted copies"
    )
    harder = [f"{sensitivity[kind]['value']:.0%} of {kind} ones" for kind in NOT_REQUIRED if kind in sensitivity]
    sentence += f" with a single alteration, {', '.join(harder)}." if harder else "."
    if not result["reliable"]:
        missed = ", ".join(
            f"{kind} {share['value']:.0%}" for kind, share in required.items() if share["value"] < MIN_SENSITIVITY
        )
        sentence += f" The audit cannot be relied on: it misses too many planted copies ({missed} found)."
    far, chance = result["far_rate"], result["nominal_false_alarm_rate"]
    beyond = f"{far['far']} of {far['total']} synthetic images lie farther from every training film than real films are"
    if result["outcome"] == "far":
        return f"{beyond} (95 % of the validation images): this says nothing about copying. {sentence}"
    if far["interval"][0] > chance["interval"][1]:
        sentence += f" {beyond}: of these it says nothing about copying."
    if result["outcome"] == "copies":
        sentence += " That is more than chance gives: the model copies its training images."
    elif result["outcome"] == "chance":
        sentence += f" That is no more than chance gives ({100 * chance['value']:.0f} %)."
    return sentence


def far_note(whose: str, far: int, total: int) -> str | None:
    """Say of films most of which are farther from every training film than real ones that few copies say nothing.

    Args:
        whose: how the sentence calls whoever made them.
        far: number of films that are farther (see `CopyDetector.is_far`).
        total: number of films.
    """
    if far <= MAX_FAR * total:
        return None
    return (
        f"{far} of {total} films of {whose} lie farther from every training film than 95 % of real films do: how "
        "many of them are copies says nothing about copying."
    )


def named(share: dict, name: str) -> dict:
    """Return a `proportion` whose `count` is called `name`."""
    return {name if key == "count" else key: value for key, value in share.items()}


def copy_rates(keys: Sequence, copies: np.ndarray) -> dict:
    """Return the copy rate for each value of a column; None ("not given", "pure noise") is last and called "none"."""
    known = sorted({key for key in keys if key is not None})
    groups = [*known, None] if any(key is None for key in keys) else known
    return {
        "none" if group is None else str(group): named(
            proportion([copy for key, copy in zip(keys, copies, strict=True) if key == group]), "copies"
        )
        for group in groups
    }
