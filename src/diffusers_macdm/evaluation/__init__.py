"""Do the pairs help: downstream networks under controls, realism, fit of masks and films."""

from __future__ import annotations


def evaluate(real, synthetic, out, *, progress: bool = True, **settings) -> dict:
    """Train and test the downstream networks in every arm, and say whether the synthetic pairs help.

    Args:
        real, synthetic, out, settings: the fields of `settings.Settings`.
        progress: whether to show on stderr how far the work is.

    Returns:
        What `evaluation.json` says.
    """
    from .run import run
    from .settings import Settings

    return run(Settings(real, synthetic, out, **settings), show_progress=progress)
