"""What the downstream networks say about cases, and what is measured on it, one number for each case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data.cases import Cases
from ..macdm.joint_sample import ANATOMY_MASK, CHANNELS
from ..statistics.measures import dice_per_case, hausdorff95_per_case, mean_of_defined
from .networks import DIAGNOSIS, SEGMENTATION


COLUMNS = {  # what `measure_diagnosis` and `measure_segmentation` return
    DIAGNOSIS: ("lesion_probability", "called_lesion"),
    SEGMENTATION: ("lesion_dice", "lesion_hausdorff95", "lesion_found", "anatomy_dice"),
}


@dataclass(frozen=True)
class Trained:
    """A network in the state that the validation cases chose.

    Attributes:
        network: network in evaluation mode.
        steps: optimisation steps that were made.
        best_step: the one after which the state was taken.
        validation_score: ROC AUC of lesion against normal, or Dice of the lesion, on the validation cases at that state; None
            without them, or where it is not defined for them.
        threshold: probability of a lesion from which a case counts as one, by Youden's index on the validation cases; 0.5
            where they do not tell. None for a segmenter.
        seconds: duration of the training.
    """

    network: torch.nn.Module
    steps: int
    best_step: int
    validation_score: float | None
    threshold: float | None
    seconds: float


def score_of_masks(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the score of a segmenter's state, and what decides between states.

    The mean over both masks decides, as the mean Dice of the foreground does elsewhere: by the lesion's Dice alone an untrained
    state that calls every pixel a lesion beats one that is still to find its first.

    Args:
        predicted, truth: bool `[N, 2, H, W]`, anatomy and lesion.

    Returns:
        Mean Dice of the lesion, over the cases that have one (nan without any); and the mean over both masks with that of the
        lesion, which decides where it is equal.
    """
    lesion, anatomy = (dice_per_case(predicted[:, mask], truth[:, mask]) for mask in (1, 0))
    of_lesion = mean_of_defined(lesion[truth[:, 1].any(axis=(1, 2))])
    return of_lesion, (mean_of_defined(np.array([of_lesion, mean_of_defined(anatomy)])), of_lesion)


def predict_probabilities(network: torch.nn.Module, cases: Cases, batch_size: int = 64) -> np.ndarray:
    """Return the probability of each class, float64 `[N, num_classes]`, by a network in evaluation mode."""
    return _predict(network, cases, batch_size, lambda batch: torch.softmax(network(batch).logits.double(), dim=1))


def predict_masks(network: torch.nn.Module, cases: Cases, batch_size: int = 64) -> np.ndarray:
    """Return anatomy and lesion mask that the segmenter sees in each radiograph, bool `[N, 2, H, W]`, in evaluation mode."""
    return _predict(network, cases, batch_size, lambda batch: network(batch) > 0)


@torch.no_grad()
def _predict(network, cases, batch_size, predict) -> np.ndarray:
    device = next(network.parameters()).device
    parts = [predict(batch.to(device)).cpu() for batch in cases.radiographs.split(batch_size)]  # of [B, 1, H, W]
    return torch.cat(parts).numpy()


def youden_threshold(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold with the largest sensitivity + specificity - 1, half-way between two neighbouring scores.

    Args:
        truth: bool `[N]` with both values in it.
        scores: `[N]`; a case counts as positive from the threshold on. Of several equally good thresholds the highest is taken.
    """
    values = np.unique(scores)
    candidates = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2])  # the first calls all positive
    positive = scores[None] >= candidates[:, None]  # [candidates, N]
    index = positive[:, truth].mean(axis=1) - positive[:, ~truth].mean(axis=1)
    return float(candidates[np.flatnonzero(index >= index.max() - 1e-12)[-1]])


def measure_diagnosis(trained: Trained, cases: Cases) -> dict[str, np.ndarray]:
    """Measure what the endpoints of the diagnosis are computed from, one number for each case.

    Returns:
        `lesion_probability` (1 - p(0)) and `called_lesion` (1 where it reaches the threshold, else 0), float64 `[N]` each.
    """
    lesion = 1 - predict_probabilities(trained.network, cases)[:, 0]
    return {"lesion_probability": lesion, "called_lesion": (lesion >= trained.threshold).astype(float)}


def measure_segmentation(trained: Trained, cases: Cases) -> dict[str, np.ndarray]:
    """Measure what the endpoints of the segmentation are computed from, one number for each case; nan where it has no meaning.

    Returns:
        `lesion_dice` and `lesion_hausdorff95` (pixels; nan also where no lesion was found) of cases with a lesion,
        `lesion_found` (1 where the normal case has a pixel of lesion, else 0) of normal ones, `anatomy_dice` of all (nan where
        the set has no anatomy masks); float64 `[N]` each.
    """
    predicted, truth = predict_masks(trained.network, cases), cases.masks.numpy()
    anatomy_dice = dice_per_case(predicted[:, 0], truth[:, 0])
    with_lesion = truth[:, 1].any(axis=(1, 2))
    found = predicted[:, 1].any(axis=(1, 2)).astype(float)
    return {
        "lesion_dice": np.where(with_lesion, dice_per_case(predicted[:, 1], truth[:, 1]), np.nan),
        "lesion_hausdorff95": np.where(with_lesion, hausdorff95_per_case(predicted[:, 1], truth[:, 1]), np.nan),
        "lesion_found": np.where(with_lesion, np.nan, found),
        "anatomy_dice": anatomy_dice if CHANNELS[ANATOMY_MASK] in cases.known_masks else np.full(len(cases), np.nan),
    }


def tested(task: str, trained: Trained, cases: Cases) -> dict:
    """Test a trained network on cases that neither trained nor chose it.

    Returns:
        JSON-ready: `steps`, `best_step`, `validation_score` and `seconds` of the training, and `columns`, of each name in
        `COLUMNS` one number for each case, None where it has no meaning.
    """
    columns = (measure_diagnosis if task == DIAGNOSIS else measure_segmentation)(trained, cases)
    return {
        "steps": trained.steps,
        "best_step": trained.best_step,
        "validation_score": trained.validation_score,
        "seconds": trained.seconds,
        "columns": {
            name: [None if np.isnan(value) else value for value in values.tolist()] for name, values in columns.items()
        },
    }
