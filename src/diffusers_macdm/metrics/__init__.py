"""Metrics with intervals as modules of `evaluate`, which load without a network.

    dice = load_metric("dice")
    dice.compute(predictions=masks, references=masks_of_the_radiologist, patient_ids=ids)

Each is a folder with a script that `evaluate.load` takes by its path, too, and that `macdm push-metric` publishes as a Space of
the Hub. Published scripts import this module alone (those of 0.1.0 `diffusers_macdm.evaluation.metrics` as well): the names
`PatientMetric`, `compute_with_interval` and `measures` are theirs. The numbers come from `statistics/measures.py`, the
intervals from `statistics/bootstrap.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..statistics import measures
from ..statistics.bootstrap import Statistic, patient_bootstrap


__all__ = ["METRICS", "PatientMetric", "compute_with_interval", "load_metric", "measures", "metric_folder"]

# Every folder NAME with a script NAME.py is a metric.
METRICS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*/*.py") if path.stem == path.parent.name))


def __getattr__(name: str):
    if name == "PatientMetric":  # not before it is asked for: it needs `evaluate`
        return importlib.import_module(".base", __name__).PatientMetric
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def metric_folder(name: str) -> Path:
    """Return the folder of a metric's script and card.

    Raises:
        ValueError: for a name that is none.
    """
    if name not in METRICS:
        raise ValueError(f"{name!r} is no metric of this package: {', '.join(METRICS)}.")
    return Path(__file__).parent / name


def load_metric(name: str):
    """Load the `evaluate.Metric` of this name.

    Raises:
        ValueError: for a name that is none.
    """
    import evaluate

    return evaluate.load(str(metric_folder(name)))


def compute_with_interval(
    name: str,
    statistic: Statistic,
    num_cases: int,
    patient_ids: Sequence | None,
    num_resamples: int,
    seed: int,
    rests_on: Sequence[np.ndarray],
) -> dict:
    """Return what a metric's `compute` returns: its value, the 95 % interval over patients, and their number.

    Args:
        statistic, rests_on: as in `patient_bootstrap`.
        patient_ids: of each case; each case is a patient of its own when None, and so is a case with None.

    Raises:
        ValueError: where there is not one patient id for each case, and as `patient_bootstrap`.
    """
    ids = range(num_cases) if patient_ids is None else patient_ids
    if len(ids) != num_cases:
        raise ValueError(f"{len(ids)} patient_ids for {num_cases} cases: one for each case is needed.")
    estimate = patient_bootstrap(statistic, ids, num_resamples=num_resamples, seed=seed, rests_on=rests_on).to_dict()
    return {name: estimate["value"], "interval": estimate["interval"], "num_patients": estimate["num_patients"]}
