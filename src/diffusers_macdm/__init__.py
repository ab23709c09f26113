"""MaC-DM (masked conditional diffusion, arXiv 2311.13688) as an extension of diffusers."""

import diffusers
import diffusers.pipelines

from . import macdm
from .macdm import GuidanceClassifier, MaCDMPipeline, MaCDMPipelineOutput, MaCDMUNet2DModel


__version__ = "0.1.0"

# diffusers finds the components of a saved pipeline in `diffusers.pipelines.<name>` and the pipeline class itself in
# `diffusers`; with these two lines `from_pretrained` works from a folder and from the Hub without `trust_remote_code`.
diffusers.pipelines.macdm = macdm
diffusers.MaCDMPipeline = MaCDMPipeline

__all__ = ["GuidanceClassifier", "MaCDMPipeline", "MaCDMPipelineOutput", "MaCDMUNet2DModel", "__version__"]
