"""What guidance, strength, steps and mask weights do to the pairs: `macdm sweep`."""

from __future__ import annotations


def sweep(model, real, out, grid, *, progress: bool = True, **settings) -> dict:
    """Measure the pairs of a model at each point of a grid, or go on with a run that was interrupted.

    Args:
        model, real, out, grid, settings: the fields of `settings.Settings`.
        progress: whether to show on stderr how far the work is.

    Returns:
        What `sweep.json` says.
    """
    from .run import run
    from .settings import Settings

    return run(Settings(model, real, out, grid, **settings), show_progress=progress)
