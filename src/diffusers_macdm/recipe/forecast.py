"""How long the whole will take, once a training is under way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..planning.choose import FEWEST_UPDATES
from ..planning.expected import after_training, picture_steps
from ..planning.plan_file import setting_of


PROBED = 10  # updates that the probe's measurement counts as, beside those of the training itself


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a training's log; the last one of a killed training may be torn."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def seconds_left(plan: Mapping[str, Any], measured: Mapping[str, Any], rows: list[dict], begun: int) -> float | None:
    """Seconds from the last line of the denoiser's log to the end of everything; None before 20 updates of this call.

    An update takes what those between the lines of this call took, the first line left out, which has the start in it, and
    what the probe measured. Grids of samples and checkpoints are taken out of the former, and added for what is to come.

    Args:
        plan: whose denoiser is trained.
        measured: by the probe of this device.
        rows: of the log.
        begun: the update that this call went on from.
    """
    rows = [row for row in rows if row["step"] > begun]
    if len(rows) < 2 or rows[-1]["step"] - begun < FEWEST_UPDATES:
        return None
    speed, steps = measured["denoiser"], setting_of(plan, "denoiser", "max_train_steps")
    pictures, every = picture_steps(plan), setting_of(plan, "denoiser", "checkpointing_steps")

    def others(first: int, last: int) -> float:
        """Seconds of the grids and checkpoints of the updates first, ..., last - 1, which are made after their lines."""
        grids = sum(first <= step < last for step in pictures)
        return grids * speed["picture"] + (len(range(0, last, every)) - len(range(0, first, every))) * speed["checkpoint"]

    cases = setting_of(plan, "denoiser", "train_batch_size") * setting_of(plan, "denoiser", "gradient_accumulation_steps")
    first, last = rows[0]["step"], rows[-1]["step"]
    pairs = zip(rows, rows[1:], strict=False)
    seconds = sum((after["step"] - before["step"]) * cases / after["samples_per_second"] for before, after in pairs)
    seconds = max(0.0, seconds - others(first, last))
    update = (seconds + PROBED * speed["update"]) / (last - first + PROBED)
    to_come = (steps - last) * update + others(last, steps + 1) + 2 * speed["checkpoint"]
    return to_come + sum(after_training(plan, measured).values())
