"""Balanced accuracy, with an interval over patients, as a module of `evaluate`."""

import datasets
import evaluate
import numpy as np

from diffusers_macdm.metrics import compute_with_interval, measures


_DESCRIPTION = """
Mean of sensitivity and specificity, with a 95 % interval over patients.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: `[N]` of 0 (normal) and 1 (with a lesion).
    references: `[N]` of 0 and 1.
    patient_ids: of each case, of any kind; cases of one patient are drawn together. Each case is a patient of its own if None.
    num_resamples (`int`): draws of patients.
    seed (`int`): of the draws.
Returns:
    balanced_accuracy (`float` or None): in [0, 1], None where a class is missing.
    interval (`list` of two `float`, or None): 95 %, percentile bootstrap over patients; None where there is none to estimate
        (a single patient, or resamples that do not vary, for all cases are right).
    num_patients (`int`).

Examples:
    >>> from diffusers_macdm.metrics import load_metric
    >>> load_metric("balanced_accuracy").compute(predictions=[0, 1, 1, 0, 0], references=[0, 1, 0, 1, 0])["balanced_accuracy"]
    0.5833333333333333
"""

_CITATION = """
@inproceedings{brodersen2010,
  title={The Balanced Accuracy and Its Posterior Distribution},
  author={Brodersen, Kay Henning and Ong, Cheng Soon and Stephan, Klaas Enno and Buhmann, Joachim M.},
  booktitle={International Conference on Pattern Recognition}, pages={3121--3124}, year={2010}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BalancedAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(predictions=datasets.Value("float64"), references=datasets.Value("float64")),
        )

    def _compute(self, predictions, references, patient_ids=None, num_resamples=2000, seed=0):
        predictions, references = (np.asarray(values, dtype=float) for values in (predictions, references))
        return compute_with_interval(
            "balanced_accuracy",
            lambda cases: measures.balanced_accuracy(predictions[cases], references[cases]),
            len(references),
            patient_ids,
            num_resamples,
            seed,
            [references == 1, references == 0],
        )
