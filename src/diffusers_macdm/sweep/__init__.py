"""What guidance, strength, steps and mask weights do to the pairs: `macdm sweep`."""

from __future__ import annotations

from collections.abc import Mapping


def sweep(model, real, out, grid, *, progress: bool = True, **settings) -> dict:
    """Measure the pairs of a model at each point of a grid, or go on with a run that was interrupted.

    Args:
        grid: values by parameter, `{"guidance_interval": [(0, 1), (0.2, 0.8)]}`, or the texts of `macdm sweep --grid`.
        model, real, out, settings: the other fields of `settings.Settings`.
        progress: whether to show on stderr how far the work is.

    Returns:
        What `sweep.json` says.
    """
    from .run import run
    from .settings import Settings

    if isinstance(grid, Mapping):
        grid = tuple(f"{name}={','.join(map(_text, values))}" for name, values in grid.items())
    return run(Settings(model, real, out, grid, **settings), show_progress=progress)


def _text(value) -> str:
    return ":".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
