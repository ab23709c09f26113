"""Formulations of the method: what `--formulation` and the options that are not given stand for, decided by
`benchmarks/quality.py`.
"""

from __future__ import annotations

from ..macdm.loss import HybridLoss


# What differs from the defaults of `DenoiserSettings`.
FORMULATIONS: dict[str, dict] = {
    "clean": {},
    "paper": {
        "prediction_type": "epsilon",
        "learned_variance": True,
        "noise_levels": "uniform",
        "loss_channel_weights": (1.0, 1.0, 1.0),
        "task_probabilities": (0.7, 0.15, 0.15),
        "ddpm_num_inference_steps": 50,
    },
}

FILM_NOISE = 0.025  # 3 gray levels of 8 bits, as much as radiographs at 48 to 96 px have in most places


def largest_film_noise(settings) -> float:
    """Return `--film_noise` of `DenoiserSettings`, or what it stands for when not given."""
    if settings.film_noise is None:
        return FILM_NOISE if settings.prediction_type == "sample" else 0.0
    return settings.film_noise


def hybrid_loss(settings) -> HybridLoss:
    """Return the loss that the options of `DenoiserSettings` ask for."""
    loss_space = settings.loss_space
    if loss_space is None and settings.prediction_type == "sample" and settings.snr_gamma is None:
        loss_space = "v_prediction"  # the plain error leaves the low noise levels without weight
    return HybridLoss(
        lambda_vlb=settings.lambda_vlb,
        lambda_perceptual=settings.lambda_perceptual,
        channel_weights=tuple(settings.loss_channel_weights),
        lesion_region_weight=settings.lesion_region_weight,
        lesion_region_radius=settings.lesion_region_radius,
        radiograph_region_weight=settings.radiograph_region_weight,
        min_snr_gamma=settings.snr_gamma,
        prediction_type=settings.prediction_type,
        loss_space=loss_space,
        sigma_floor=settings.sigma_floor,
    )
