"""The options of `macdm train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..checks import check_at_least
from ..planning.settings import Preset, seconds_of_budget


@dataclass(frozen=True)
class Settings:
    """From a data folder to a model: plan, training, samples, copy audit, model card, and a page that links them.

    Called again it goes on where it was interrupted or killed.

    Attributes:
        data: Folder in the project's layout.
        out: New folder, one with a plan of `macdm plan`, or one that was interrupted.
        time_budget: How long all of it may take, as 6h or 10m; 10m, 1h, 6h for the presets when not given.
        preset: See `macdm plan`; default when not given.
        plan: Follow this plan.json, instead of making one.
        with_classifier: Train a guidance classifier, too.
        processes: Processes of the trainings: GPUs, or parts of the CPU's cores. They share the batch of the plan.
        seed: Everything random follows from it.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    time_budget: Annotated[str | None, tyro.conf.arg(metavar="TIME")] = None
    preset: Preset | None = None
    plan: Annotated[Path | None, tyro.conf.arg(metavar="plan.json")] = None
    with_classifier: bool = False
    processes: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    seed: int = 0

    def __post_init__(self):
        check_at_least(self, processes=1, seed=0)
        if self.time_budget is not None:
            seconds_of_budget(self.time_budget)
        if self.plan is not None:
            for name in ("time_budget", "preset", "with_classifier", "seed"):
                if getattr(self, name):
                    raise ValueError(f"{name}={getattr(self, name)} does not go with plan: the plan says it.")
