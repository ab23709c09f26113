"""The networks that are trained, what both are built alike with, and the noise that both are trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from ..checks import check_weights
from ..conversion.guided_diffusion import load_guided_diffusion, without_class_labels
from ..conversion.plain_unet import from_plain, from_unet2d
from ..hub.loading import network_folder
from ..macdm import GuidanceClassifier, MaCDMUNet2DModel
from ..macdm.forward_process import ForwardProcess, lognormal_timesteps
from ..macdm.joint_sample import CHANNELS, MASKS, masks_of
from ..macdm.saved_folder import CONFIG, check_config, check_network, read_object
from .formulations import largest_film_noise
from .settings import ClassifierSettings, DenoiserSettings, TrainingSettings


logger = logging.getLogger("macdm.training")

OF_THE_OPTIONS = "The network that the options ask for"


def network_arguments(settings: TrainingSettings, masks: Sequence[str] = MASKS) -> dict[str, Any]:
    """What the denoiser and the classifier are built alike with, for a set with these masks."""
    levels = len(settings.block_out_channels)
    has_attention = [level >= levels - settings.attention_levels for level in range(levels)]
    return {
        "sample_size": settings.resolution,
        "block_out_channels": tuple(settings.block_out_channels),
        "down_block_types": tuple("AttnDownBlock2D" if attention else "DownBlock2D" for attention in has_attention),
        "layers_per_block": settings.layers_per_block,
        "attention_head_dim": settings.attention_head_dim,
        "norm_num_groups": settings.norm_num_groups,
        "resnet_time_scale_shift": settings.resnet_time_scale_shift,
        "dropout": settings.dropout,
        "channel_weights": tuple(settings.channel_weights),
        "mask_weighting": settings.mask_weighting,
        "mask_timestep": True,
        "masks": tuple(masks),
        "patch_size": settings.patch_size,
    }


def training_scheduler(
    settings: TrainingSettings, prediction_type: str = "epsilon", learned_variance: bool = True
) -> DDPMScheduler | DPMSolverMultistepScheduler:
    """The process that is trained, with the settings that sampling starts from."""
    process = {
        "num_train_timesteps": settings.ddpm_num_steps,
        "beta_schedule": settings.ddpm_beta_schedule,
        "prediction_type": prediction_type,
        "timestep_spacing": "trailing",  # sampling starts at the noisiest level whatever the number of steps
    }
    if learned_variance:
        largest = max(settings.channel_weights) if settings.mask_weighting == "signal" else 1.0
        return DDPMScheduler(**process, clip_sample_range=largest, variance_type="learned_range")
    # Second order, with steps where edges and film noise are made: DDIM in equal timesteps takes two below sigma = 0.1 and
    # blurs. The noise of each step corrects errors of the steps before, and the last one adds none
    # (docs/results/quality.md).
    solver = {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}
    # The cosine schedule ends at a sigma in the thousands, where solvers of this kind fail; the linear one ends before.
    return DPMSolverMultistepScheduler(**process, **solver, lambda_min_clipped=-5.1)


def timestep_probabilities(settings: TrainingSettings, process: ForwardProcess) -> torch.Tensor | None:
    """How often each timestep is drawn, `[T]`; None is all alike."""
    if settings.noise_levels == "uniform":
        return None
    return lognormal_timesteps(process, settings.noise_level_mean, settings.noise_level_std)


def check_same_process(settings: TrainingSettings, scheduler_config: Path) -> None:
    """Raise `ValueError` where this file records another noise schedule than that of this run."""
    theirs = read_object(scheduler_config) if scheduler_config.is_file() else {}
    for option, name in {"ddpm_num_steps": "num_train_timesteps", "ddpm_beta_schedule": "beta_schedule"}.items():
        ours = getattr(settings, option)
        if theirs.get(name, ours) != ours:
            raise ValueError(
                f"{scheduler_config} records training with --{option} {theirs[name]}, this run has {ours}: denoiser and "
                "guidance classifier must see the same noise."
            )


def build_classifier(settings: ClassifierSettings, num_classes: int, masks: Sequence[str] = MASKS) -> GuidanceClassifier:
    config = {**network_arguments(settings, masks), "in_channels": len(CHANNELS), "num_classes": num_classes}
    check_config(OF_THE_OPTIONS, config, GuidanceClassifier)
    return GuidanceClassifier(**config)


def build_unet(
    settings: DenoiserSettings, num_classes: int, augmentation_dim: int, masks: Sequence[str] = MASKS
) -> MaCDMUNet2DModel:
    """The denoiser: from a configuration, from other weights, or from the options; for a set with these masks."""
    if settings.pretrained_unet:
        overrides = {
            "in_channels": len(CHANNELS),
            "out_channels": len(CHANNELS) * (2 if settings.learned_variance else 1),
            "num_class_embeds": num_classes + 1,
            "augmentation_dim": augmentation_dim,
            "sample_size": settings.resolution,
            "patch_size": settings.patch_size,
            "channel_weights": tuple(settings.channel_weights),
            "mask_weighting": settings.mask_weighting,
            "masks": tuple(masks),
        }
        if Path(settings.pretrained_unet).is_file():
            plain, weights = _load_guided_diffusion(settings, num_classes)
            unet = from_plain(plain, weights, **overrides)
        else:
            unet = _load_unet(settings.pretrained_unet)
            if not isinstance(unet, MaCDMUNet2DModel):
                unet = from_unet2d(unet, **overrides)
    elif settings.model_config_name_or_path:
        unet = MaCDMUNet2DModel.from_config(_load_config(settings.model_config_name_or_path))
    else:
        network, film_noise = network_arguments(settings, masks), largest_film_noise(settings)
        up_block_types = tuple(name.replace("Down", "Up") for name in reversed(network["down_block_types"]))
        config = {
            **network,
            "up_block_types": up_block_types,
            "out_channels": len(CHANNELS) * (2 if settings.learned_variance else 1),
            "detail_channels": settings.detail_channels,
            "film_noise": film_noise,
            "num_train_timesteps": settings.ddpm_num_steps if film_noise else None,
            "beta_schedule": settings.ddpm_beta_schedule if film_noise else "linear",
            "num_class_embeds": num_classes + 1,
            "augmentation_dim": augmentation_dim,
        }
        check_config(OF_THE_OPTIONS, config, MaCDMUNet2DModel)
        unet = MaCDMUNet2DModel(**config)
    if settings.pretrained_unet:
        check_weights(f"--pretrained_unet {settings.pretrained_unet}", unet)
    needed = {
        "sample_size": settings.resolution,
        "in_channels": len(CHANNELS),
        "out_channels": len(CHANNELS) * (2 if settings.learned_variance else 1),
        "num_class_embeds": num_classes + 1,
        "augmentation_dim": augmentation_dim,
        "channel_weights": tuple(settings.channel_weights),
        "mask_weighting": settings.mask_weighting,
        "masks": tuple(masks),
    }
    for name, value in needed.items():
        found = unet.config[name]
        if (tuple(found) if isinstance(found, list | tuple) else found) != value:
            hint = " (with or without --learned_variance)" if name == "out_channels" else ""
            raise ValueError(f"The denoiser given has {name}={found}, but the data and the options need {value}{hint}.")
    _check_film_noise(unet, settings)
    return unet


def _check_film_noise(unet: MaCDMUNet2DModel, settings: DenoiserSettings) -> None:
    """Raise `ValueError` where a network that models film noise was made for another noise or prediction than the options'."""
    if not unet.config.film_noise:
        return
    for option, ours, theirs in (
        ("prediction_type", settings.prediction_type, "sample"),
        ("ddpm_num_steps", settings.ddpm_num_steps, unet.config.num_train_timesteps or 1000),
        ("ddpm_beta_schedule", settings.ddpm_beta_schedule, unet.config.beta_schedule),
    ):
        if ours != theirs:
            raise ValueError(
                f"--{option} {ours} does not fit the denoiser given, which models film noise "
                f"(film_noise={unet.config.film_noise}) and needs {theirs}."
            )


def _load_guided_diffusion(settings: DenoiserSettings, num_classes: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    plain, weights = load_guided_diffusion(
        settings.pretrained_unet,
        num_heads=settings.pretrained_num_heads,
        num_head_channels=settings.pretrained_num_head_channels,
        use_new_attention_order=settings.pretrained_new_attention_order or None,
    )
    if plain["num_class_embeds"] not in (None, num_classes):  # ImageNet's, which mean nothing here
        logger.info(f"The {plain['num_class_embeds']} classes of {settings.pretrained_unet} become one: their mean.")
        plain, weights = without_class_labels(plain, weights)
    return plain, weights


def _load_unet(name: str) -> UNet2DModel | MaCDMUNet2DModel:
    """The network of `--pretrained_unet`, a folder or a repository of the Hub, from safetensors that fit its configuration."""
    try:
        folder = network_folder(name)
        of_macdm = read_object(folder / CONFIG).get("_class_name") == MaCDMUNet2DModel.__name__
        network_class = MaCDMUNet2DModel if of_macdm else UNet2DModel
        check_network(folder, network_class)
    except (ValueError, OSError) as error:
        raise type(error)(f"--pretrained_unet {name}: no model can be read here ({error})") from error
    return network_class.from_pretrained(folder, use_safetensors=True)


def _load_config(name: str) -> dict[str, Any]:
    """The configuration of `--model_config_name_or_path`: a file, or in a folder or a repository of the Hub."""
    try:
        path = Path(name) if Path(name).is_file() else network_folder(name, weights=False) / CONFIG
        config = read_object(path)
        known = {key: value for key, value in config.items() if key != "_class_name"}  # a plain one will do
        check_config(path, known, MaCDMUNet2DModel)
    except (ValueError, OSError) as error:
        raise type(error)(f"--model_config_name_or_path {name}: no model can be read here ({error})") from error
    return config


def find_classifier(settings: DenoiserSettings, num_classes: int, masks: Sequence[str] = MASKS) -> GuidanceClassifier | None:
    """The trained guidance classifier, if there is one, checked to be fed as the denoiser is."""
    folders = [Path(settings.output_dir)] if settings.guidance_classifier is None else [Path(settings.guidance_classifier)]
    folders.append(folders[0] / "guidance_classifier")
    found = [folder for folder in folders if _is_classifier(folder)]
    if not found:
        if settings.guidance_classifier is not None:
            raise FileNotFoundError(
                f"--guidance_classifier {settings.guidance_classifier}: there is no trained classifier here."
            )
        if settings.lambda_perceptual:
            raise ValueError(f"--lambda_perceptual {settings.lambda_perceptual} needs --guidance_classifier for its features.")
        return None
    check_network(found[0], GuidanceClassifier)
    classifier = GuidanceClassifier.from_pretrained(found[0], use_safetensors=True)
    check_weights(str(found[0]), classifier)
    config = classifier.config
    for name in ("channel_weights", "mask_weighting"):
        theirs, ours = getattr(config, name), getattr(settings, name)
        if (tuple(theirs) if name == "channel_weights" else theirs) != ours:
            raise ValueError(f"{found[0]} was trained with --{name} {theirs}, this run has {ours}: both must be fed alike.")
    if config.sample_size != settings.resolution:
        raise ValueError(f"{found[0]} was trained at {config.sample_size} px, this run is at {settings.resolution} px.")
    if config.num_classes != num_classes:
        raise ValueError(f"{found[0]} tells {config.num_classes} classes apart, the data have {num_classes}.")
    if masks_of(config) != tuple(masks):
        raise ValueError(f"{found[0]} was trained with {' and '.join(masks_of(config))}, the data have {' and '.join(masks)}.")
    check_same_process(settings, found[0] / "scheduler_config.json")
    check_same_process(settings, found[0].parent / "scheduler" / "scheduler_config.json")
    return classifier.requires_grad_(False).eval()


def _is_classifier(folder: Path) -> bool:
    config = folder / CONFIG
    return config.is_file() and read_object(config).get("_class_name") == GuidanceClassifier.__name__
