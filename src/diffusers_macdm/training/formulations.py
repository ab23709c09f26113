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

FILM_NOISE = 0.04  # 5 gray levels of 8 bits: radiographs at 48 to 96 px have 1 to 4 in most places


def largest_film_noise(settings) -> float:
    """Return `--film_noise` of `DenoiserSettings`, or what it stands for when not given."""
    if settings.film_noise is None:
        return FILM_NOISE if settings.prediction_type == "sample" else 0.0
    return settings.film_noise


def hybrid_loss(settings) -> HybridLoss:
    """Return the loss that the options of `DenoiserSettings` ask for."""
    loss_space, sigma_floor = settings.loss_space, settings.sigma_floor
    if loss_space is None and settings.prediction_type == "sample" and settings.snr_gamma is None:
        loss_space = "v_prediction"  # the plain error leaves the low noise levels without weight
    if sigma_floor is None:
        # A network that models the film's noise errs less the less noise there is; another one cannot, and would strain at it.
        sigma_floor = 0.01 if largest_film_noise(settings) else HybridLoss.sigma_floor
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
        sigma_floor=sigma_floor,
    )
