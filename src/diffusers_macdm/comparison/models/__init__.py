"""The generative models of the comparison, by name."""

from __future__ import annotations

from ..model import GenerativeModel
from .classifier_free import ClassifierFreeDiffusion
from .conditional_gan import ConditionalGAN
from .guided_ddpm import GuidedDDPM
from .latent_diffusion import LatentDiffusion
from .macdm import MaCDM
from .mask_conditional import MaskConditionalDiffusion


MODELS: dict[str, type[GenerativeModel]] = {
    model.name: model
    for model in (
        MaCDM,
        ClassifierFreeDiffusion,
        LatentDiffusion,
        ConditionalGAN,
        MaskConditionalDiffusion,
        GuidedDDPM,
    )
}
