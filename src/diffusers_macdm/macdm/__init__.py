"""The method, MaC-DM: process, losses, networks, schedulers, pipeline. Nothing here imports another room of the package.

`model_index.json` records this subpackage's name: diffusers writes the *short* name `macdm` for the four classes below because
`diffusers.pipelines` has an attribute of that name (`diffusers_macdm.registration`), and looks them up there when a checkpoint
is loaded. The name and the classes are part of the file format; `tests/macdm/test_file_format.py` freezes them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .guidance_classifier import GuidanceClassifier
    from .pipeline import MaCDMPipeline, MaCDMPipelineOutput
    from .unet import MaCDMUNet2DModel

__all__ = ["GuidanceClassifier", "MaCDMPipeline", "MaCDMPipelineOutput", "MaCDMUNet2DModel"]

_MODULES = {
    "GuidanceClassifier": ".guidance_classifier",
    "MaCDMPipeline": ".pipeline",
    "MaCDMPipelineOutput": ".pipeline",
    "MaCDMUNet2DModel": ".unet",
    "check_folder": ".saved_folder",
}


def __getattr__(name: str):
    """Load what is asked for when it first is: torch and diffusers take seconds, which `macdm --help` need not wait for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
