"""The measures under the name by which published metrics of the Hub import them; they stand in `statistics.measures`."""

from ..statistics.measures import (
    accuracy,
    balanced_accuracy,
    dice_per_case,
    hausdorff95_per_case,
    mean_of_defined,
    roc_auc,
    sensitivity,
    specificity,
)


__all__ = [
    "accuracy",
    "balanced_accuracy",
    "dice_per_case",
    "hausdorff95_per_case",
    "mean_of_defined",
    "roc_auc",
    "sensitivity",
    "specificity",
]
