"""The base class of the metrics: what they share in inputs, description and intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import datasets
import evaluate
import numpy as np

from ..statistics import measures
from ..statistics.bootstrap import Statistic
from . import compute_with_interval


DESCRIPTION = """
Args:
{arguments}
    patient_ids: of each case, of any kind; cases of one patient are drawn together. Each case is a patient of its own if None.
    num_resamples (`int`): draws of patients.
    seed (`int`): of the draws.
Returns:
    {returns}
    interval (`list` of two `float`, or None): 95 %, percentile bootstrap over patients; None where there is none to estimate
        (a single patient, or resamples that do not vary, for all cases are right).
    num_patients (`int`).

Examples:
    >>> from diffusers_macdm.metrics import load_metric
    {example}
"""
LABELS = """    predictions: `[N]` of 0 (normal) and 1 (with a lesion).
    references: `[N]` of 0 and 1."""
MASKS = """    predictions: masks `[N, H, W]` of 0 and 1.
    references: masks `[N, H, W]` of 0 and 1."""


class PatientMetric(evaluate.Metric, ABC):
    """A metric with a 95 % interval over patients.

    A subclass is the script of one metric, which published copies on the Hub keep as it is: what it uses here must stay.
    It is abstract, for `evaluate` takes the first class of a script that is not for the metric.

    Attributes:
        key: name of the value in the result.
        description, citation: as in `evaluate.MetricInfo`.
        arguments: lines that describe the inputs of its own, indented by four.
        returns: lines that describe the value, from its name on.
        example: lines of a doctest.
        takes_masks: whether a case is a mask `[H, W]`, or else a number.
    """

    key: ClassVar[str]
    description: ClassVar[str]
    citation: ClassVar[str]
    arguments: ClassVar[str] = LABELS
    returns: ClassVar[str]
    example: ClassVar[str]
    takes_masks: ClassVar[bool] = False

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64")
        if self.takes_masks:
            value = datasets.List(datasets.List(datasets.Value("float32")))  # values other than 0 and 1 have to be seen
        of_class = type(self)
        return evaluate.MetricInfo(
            description=of_class.description,
            citation=of_class.citation,
            inputs_description=DESCRIPTION.format(
                arguments=of_class.arguments, returns=of_class.returns, example=of_class.example.strip()
            ),
            features=datasets.Features(predictions=value, references=value),
        )

    @abstractmethod
    def _compute(self, predictions, references, patient_ids=None, num_resamples=2000, seed=0) -> dict:
        """Return the value under `key`, its `interval` and `num_patients`."""

    def over_patients(
        self, statistic: Statistic, rests_on: Sequence[np.ndarray], patient_ids: Sequence | None, num_resamples: int, seed: int
    ) -> dict:
        """Compute a statistic of the cases with its interval over patients (see `compute_with_interval`).

        Args:
            statistic: indices of cases -> value.
            rests_on: groups of cases, bool `[N]` each, without which there is no value.
        """
        return compute_with_interval(self.key, statistic, len(rests_on[0]), patient_ids, num_resamples, seed, rests_on)

    def mean_over_patients(self, values: np.ndarray, patient_ids: Sequence | None, num_resamples: int, seed: int) -> dict:
        """Compute the mean of `values`, `[N]`, with its interval; NaN is left out."""
        return self.over_patients(
            lambda cases: measures.mean_of_defined(values[cases]), [~np.isnan(values)], patient_ids, num_resamples, seed
        )
