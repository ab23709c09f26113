"""Why a plan is what it is, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..progress import duration
from .choose import ENOUGH_PIXELS, MOST_UPDATES, PRESETS


def reasons(plan: Mapping[str, Any], seconds_of: Mapping[int, float], precisions: Mapping[str, float]) -> list[str]:
    """Sentences about a plan that is complete.

    Args:
        plan: with its lengths and what is expected of it.
        seconds_of: seconds of an update by resolution, as far as measured.
        precisions: seconds of an update by precision, as far as measured.
    """
    facts, denoiser, expected = plan["data"], plan["denoiser"], plan["expected"]
    side, pixels = denoiser["resolution"], facts["lesion_pixels"]
    said = []
    if pixels is None:
        said.append(f"{side} px: no case has a lesion outline, so the size is that of the preset.")
    else:
        enough = "enough" if pixels[str(side)] >= ENOUGH_PIXELS else "few"
        said.append(
            f"{side} px: the median lesion has {pixels[str(side)]:g} pixels there, {enough} beside the {ENOUGH_PIXELS} of the "
            "phantom at 48 px, which were learned in 92 % of the pairs that should have a lesion (docs/results/quality.md)."
        )
    for other, seconds in sorted(seconds_of.items()):
        if other > side:
            said.append(f"Not {other} px: an update takes {seconds:.2g} s there, too long for enough of them in the time.")
    said += [
        "Patches of 4 px let the benchmark see 2.6 times as many samples as patches of 2 px in the same time, at a lower KID.",
        PRESETS[plan["preset"]].why,
        "Batches of 32 and a learning rate of 0.0012 that falls as a cosine are those of the benchmark and of the reference.",
        "A fifth of the training practises the insertion of a lesion, a tenth the masks of a film and the film of masks.",
    ]
    if len(precisions) > 1:
        times = " and ".join(
            f"{seconds:.3g} s in {name if name != 'no' else 'float32'}" for name, seconds in precisions.items()
        )
        said.append(f"Precision {denoiser['mixed_precision']}: an update takes {times}.")
    else:
        said.append("Precision float32: this device does not compute in bf16.")
    said.append(
        "Pairs are sampled by classifier-free guidance of 1.5 in 25 steps of DPM-Solver++, which brought a lesion into all "
        "pairs that should have one, and into no other"
        + (
            "; the classifier is trained for other uses."
            if plan.get("classifier") is not None
            else "; no classifier is needed."
        )
    )
    steps = denoiser["max_train_steps"]
    why = "more would learn a small set by heart" if steps == MOST_UPDATES else "as many as fit the time"
    said.append(
        f"{steps:,} updates, {expected['samples']:,} samples: {why}, {duration(plan['time_budget_seconds'])}. The benchmark's "
        "two minutes had 38,000 samples, the reference model 154,000."
    )
    if plan.get("audit") is None:
        said.append("No copy audit: it needs at least two validation cases of other patients than those of the train split.")
    return said
