"""MaC-DM beside other generative models: same data, same budget, same evaluation."""

from __future__ import annotations


def compare(real, out, *, progress: bool = True, **settings) -> dict:
    """Train generative models on the same cases with the same budget, and compare what their pairs are good for.

    Args:
        real, out, settings: the fields of `settings.Settings`.
        progress: whether to show on stderr how far the work is.

    Returns:
        What `comparison.json` says.
    """
    from .run import run
    from .settings import Settings

    return run(Settings(real, out, **settings), show_progress=progress)
