"""Synthetic data sets from a trained model: `macdm generate`."""

from __future__ import annotations


def generate(model, out, num_per_class: int, *, progress: bool = True, **settings) -> dict:
    """Write a synthetic data set into the folder `out`, or go on with one that was interrupted.

    Args:
        model, out, num_per_class, settings: the fields of `settings.Settings`.
        progress: whether to show on stderr how far the work is.

    Returns:
        What `run.run` returns.
    """
    from .run import run
    from .settings import Settings

    return run(Settings(model, out, num_per_class, **settings), show_progress=progress)
