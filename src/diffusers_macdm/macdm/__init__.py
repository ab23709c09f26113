"""The components of `MaCDMPipeline`.

`model_index.json` records this subpackage's name: diffusers writes the *short* name `macdm` for the classes below because
`diffusers.pipelines` has an attribute of that name (set in `diffusers_macdm/__init__.py`), and looks them up there when a
checkpoint is loaded. The name and the exports are part of the file format; `tests/macdm/test_file_format.py` freezes them.
"""

from .guidance_classifier import GuidanceClassifier
from .pipeline import MaCDMPipeline, MaCDMPipelineOutput
from .unet import MaCDMUNet2DModel


__all__ = ["GuidanceClassifier", "MaCDMPipeline", "MaCDMPipelineOutput", "MaCDMUNet2DModel"]
