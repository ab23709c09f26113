"""MaC-DM (masked conditional diffusion, arXiv 2311.13688) as an extension of diffusers.

Importing the package is cheap: the four classes are loaded when they are asked for, and neither torch nor diffusers before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import macdm
from .registration import register_with_diffusers


if TYPE_CHECKING:
    from .macdm import GuidanceClassifier, MaCDMPipeline, MaCDMPipelineOutput, MaCDMUNet2DModel

__version__ = "0.1.0"
__all__ = ["GuidanceClassifier", "MaCDMPipeline", "MaCDMPipelineOutput", "MaCDMUNet2DModel", "__version__"]


def __getattr__(name: str):
    if name in __all__:
        return getattr(macdm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_with_diffusers()
