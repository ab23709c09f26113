"""Real networks, small enough for a test: random weights, also where training starts at zero, so that no output is trivial."""

import torch
from diffusers import DDPMScheduler

from diffusers_macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel


TINY_UNET = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
TINY_CLASSIFIER = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Redraw every weight; the zeros that some layers start from would hide what they do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            is_matrix = parameter.ndim > 1
            scale = parameter[0].numel() ** -0.5 if is_matrix else 0.1
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise if is_matrix else parameter + noise)
    return module.eval()


def seeded(model_class, config: dict, seed: int) -> torch.nn.Module:
    """The same weights whatever was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomised(model_class(**config), seed)


def tiny_unet(seed: int = 0, **overrides) -> MaCDMUNet2DModel:
    return seeded(MaCDMUNet2DModel, {**TINY_UNET, **overrides}, seed)


def tiny_classifier(seed: int = 1, **overrides) -> GuidanceClassifier:
    return seeded(GuidanceClassifier, {**TINY_CLASSIFIER, **overrides}, seed)


def tiny_scheduler(**overrides) -> DDPMScheduler:
    return DDPMScheduler(**{"variance_type": "learned_range", "timestep_spacing": "trailing", **overrides})


def tiny_pipeline(with_classifier: bool = True, **unet_overrides) -> MaCDMPipeline:
    pipe = MaCDMPipeline(
        unet=tiny_unet(**unet_overrides),
        scheduler=tiny_scheduler(),
        guidance_classifier=tiny_classifier() if with_classifier else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
