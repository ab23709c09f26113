"""The metrics of the evaluation as plain functions of numpy arrays; nan stands for what is not defined.

Masks are `[N, H, W]` of 0 and 1 (or bool). Class labels are `[N]` of 0 (normal) and 1 (with a lesion).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np


def dice_per_case(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of each pair of masks, float64 `[N]` in [0, 1].

    nan where both masks are empty: nothing was to be found and nothing was. 0 where one of them is.

    Raises:
        ValueError: for masks of different shapes, that are not `[N, H, W]`, or with other values than 0 and 1.
    """
    predictions, references = _masks(predictions, references)
    overlap = (predictions & references).sum(axis=(1, 2))  # [N]
    sizes = predictions.sum(axis=(1, 2)) + references.sum(axis=(1, 2))  # [N]
    return np.divide(2 * overlap, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)


def hausdorff95_per_case(predictions: np.ndarray, references: np.ndarray, spacing: float | Sequence[float] = 1.0) -> np.ndarray:
    """95th-percentile Hausdorff distance of each pair of masks, float64 `[N]`: the larger one of both directions.

    By MONAI, between the outlines of the masks. nan where a mask is empty: from nothing there is no distance. A method that
    misses lesions is not punished for it here, so the number of these cases belongs beside the mean.

    Args:
        spacing: side of a pixel, or its height and width; the distance is in the same unit (pixels by default).

    Raises:
        ValueError: as `dice_per_case`, and for a spacing that is not positive.
    """
    predictions, references = _masks(predictions, references)
    sides = np.atleast_1d(np.asarray(spacing, dtype=float))
    if sides.shape not in ((1,), (2,)) or not (np.isfinite(sides).all() and (sides > 0).all()):
        raise ValueError(f"spacing={spacing!r} is not allowed: a positive number, or one for each axis (height, width).")
    distances = np.full(len(predictions), np.nan)
    both = predictions.any(axis=(1, 2)) & references.any(axis=(1, 2))
    if both.any():
        import torch
        from monai.metrics import compute_hausdorff_distance

        pair = (torch.from_numpy(masks[both])[:, None].float() for masks in (predictions, references))  # [M, 1, H, W] each
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI's, of an argument that it gives itself
            found = compute_hausdorff_distance(
                *pair, include_background=True, percentile=95, spacing=np.broadcast_to(sides, 2).tolist()
            )  # [M, 1]
        distances[both] = found[:, 0].double().numpy()
    return distances


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are not nan, or nan where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of cases with the right label.

    Raises:
        ValueError: for labels of different numbers, or other ones than 0 and 1.
    """
    predictions, references = _labels(predictions, references)
    return mean_of_defined((predictions == references).astype(float))


def sensitivity(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of the cases with a lesion (1) that are called so; nan without such cases. Raises as `accuracy`."""
    predictions, references = _labels(predictions, references)
    return mean_of_defined(predictions[references].astype(float))


def specificity(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of the normal cases (0) that are called so; nan without such cases. Raises as `accuracy`."""
    predictions, references = _labels(predictions, references)
    return mean_of_defined((~predictions[~references]).astype(float))


def balanced_accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Mean of sensitivity and specificity; nan where a class is missing. Raises as `accuracy`."""
    return (sensitivity(predictions, references) + specificity(predictions, references)) / 2


def roc_auc(scores: np.ndarray, references: np.ndarray, strata: Sequence | None = None) -> float:
    """Area under the ROC curve: how often a case with a lesion has a higher score than a normal one, ties counting half.

    scikit-learn's value, by counting, which is a hundred times faster in a bootstrap.

    Args:
        scores: `[N]`, the higher the likelier a lesion.
        references: `[N]` of 0 and 1.
        strata: of each case, the fold of a cross-validation say: only pairs of cases within a stratum count, for scores of
            different classifiers cannot be compared.

    Returns:
        Between 0 and 1; nan where no pair of a case with and one without a lesion is in the same stratum.

    Raises:
        ValueError: for different numbers of scores, references and strata, scores that are not finite, and other references
            than 0 and 1.
    """
    scores = np.asarray(scores, dtype=float)
    strata = None if strata is None else np.asarray(strata)
    references = _zeros_and_ones(references, "references")
    if scores.ndim != 1 or scores.shape != references.shape or (strata is not None and strata.shape != scores.shape):
        lengths = f"{scores.shape} scores, {references.shape} references" + (
            "" if strata is None else f", {strata.shape} strata"
        )
        raise ValueError(f"{lengths}: one score, one reference and one stratum are needed for each case.")
    if not np.isfinite(scores).all():
        raise ValueError("The scores are not all finite numbers.")
    parts = [slice(None)] if strata is None else [strata == stratum for stratum in np.unique(strata)]
    higher = pairs = 0.0
    for part in parts:
        normal, lesion = (np.sort(scores[part][references[part] == label]) for label in (False, True))
        higher += np.searchsorted(normal, lesion, "left").sum() + np.searchsorted(normal, lesion, "right").sum()
        pairs += len(normal) * len(lesion)
    return float(higher / 2 / pairs) if pairs else np.nan


def _masks(predictions, references) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool `[N, H, W]`."""
    predictions, references = _zeros_and_ones(predictions, "predictions"), _zeros_and_ones(references, "references")
    if predictions.ndim != 3 or predictions.shape != references.shape:
        raise ValueError(f"Masks of shapes {predictions.shape} and {references.shape}: both must be [N, H, W] alike.")
    return predictions, references


def _labels(predictions, references) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool `[N]`."""
    predictions, references = _zeros_and_ones(predictions, "predictions"), _zeros_and_ones(references, "references")
    if predictions.ndim != 1 or predictions.shape != references.shape:
        raise ValueError(f"Labels of shapes {predictions.shape} and {references.shape}: one for each case is needed in both.")
    return predictions, references


def _zeros_and_ones(values, name: str) -> np.ndarray:
    try:
        values = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name} are of different sizes: all must be alike.") from error
    if values.dtype == bool:
        return values
    is_one = values == 1
    strange = ~(is_one | (values == 0))
    if strange.any():
        raise ValueError(f"{name} hold {values[strange].flat[0]}: 0 and 1 are allowed.")
    return is_one
