"""The copy audit: does a synthetic set hold copies of training images?"""

from __future__ import annotations


def audit(real, synthetic, out, *, progress: bool = True, **settings) -> dict:
    """Audit a synthetic set for copies of the images that its model was trained on.

    Args:
        real, synthetic, out, settings: the fields of `settings.Settings`.
        progress: whether to show on stderr how far the work is.

    Returns:
        What `audit.json` says.
    """
    from .run import run
    from .settings import Settings

    return run(Settings(real, synthetic, out, **settings), show_progress=progress)
