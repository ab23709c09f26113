"""The grid of a sweep: which parameters take which values, and the settings of every point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any


SAMPLING = ("guidance_scale", "guidance_interval", "strength", "num_inference_steps")
RETRAINING = ("w2", "w3")
PARAMETERS = (*SAMPLING, *RETRAINING)


def parse_grid(texts: Sequence[str]) -> dict[str, list]:
    """`["guidance_scale=0,1,2", "guidance_interval=0:1,0.2:0.8"]` -> values by parameter.

    Raises:
        ValueError: for an unknown parameter, one that is given twice, and values that are not allowed.
    """
    grid: dict[str, list] = {}
    for text in texts:
        name, separator, values = text.partition("=")
        if not separator or name not in PARAMETERS:
            raise ValueError(f"--grid {text!r} is not allowed: NAME=VALUE,VALUE,... with one of {', '.join(PARAMETERS)}.")
        if name in grid:
            raise ValueError(f"--grid has {name} twice; its values go into one list.")
        try:
            grid[name] = [_parse(name, value) for value in values.split(",")]
        except ValueError as error:
            raise ValueError(f"--grid {text!r}: {error}") from error
        if len(set(grid[name])) < len(grid[name]):
            raise ValueError(f"--grid {text!r}: a value stands there twice.")
    return grid


def _parse(name: str, text: str):
    if name == "guidance_interval":
        try:
            ends = tuple(float(end) for end in text.split(":"))
        except ValueError:
            ends = ()
        if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
            raise ValueError(f"guidance_interval {text!r} is not allowed: lo:hi with 0 <= lo < hi <= 1.")
        return ends
    if name == "num_inference_steps":
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"num_inference_steps {text!r} is not allowed: a whole number of at least 1.")
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    allowed, words = {
        "guidance_scale": (value >= 0, "0 (off) or more"),
        "strength": (0 < value <= 1, "above 0, at most 1 (pure noise)"),
    }.get(name, (value > 0, "above 0"))
    if not (allowed and math.isfinite(value)):
        raise ValueError(f"{name} {text!r} is not allowed: {words}.")
    return value


def grid_points(grid: Mapping[str, Sequence], full_grid: bool) -> list[tuple[str | None, Any]]:
    """Parameter and value of each point: each parameter alone, or None and a dict of all of them for the product."""
    if full_grid:
        return [(None, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]
    return [(name, value) for name, values in grid.items() for value in values]


def runs_of(parameter: str | None, value, defaults: Mapping, train_seeds: Sequence[int]) -> list[dict]:
    """All settings of a point. One with a weight in it stands there once for each `train_seed`: the given model was trained
    otherwise, so that the default weights are trained anew, too."""
    varied = value if parameter is None else {parameter: value}
    run = {name: varied.get(name, defaults[name]) for name in SAMPLING}
    if not set(RETRAINING) & set(varied):
        return [run]
    weights = {name: varied.get(name, defaults[name]) for name in RETRAINING}
    return [{**run, **weights, "train_seed": seed} for seed in train_seeds]


def run_name(run: Mapping, defaults: Mapping) -> str:
    """What differs from the defaults, as the name of a file."""
    parts = []
    for name, value in run.items():
        if name not in SAMPLING or value != defaults[name]:
            parts.append(f"{name}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}")
    return ",".join(parts) or "defaults"
