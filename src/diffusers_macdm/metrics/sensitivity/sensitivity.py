"""Sensitivity, with an interval over patients, as a module of `evaluate`."""

import datasets
import evaluate
import numpy as np

from diffusers_macdm.metrics import compute_with_interval, measures


_DESCRIPTION = """
Share of the cases with a lesion (1) that are called so, with a 95 % interval over patients.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: `[N]` of 0 (normal) and 1 (with a lesion).
    references: `[N]` of 0 and 1.
    patient_ids: of each case, of any kind; cases of one patient are drawn together. Each case is a patient of its own if None.
    num_resamples (`int`): draws of patients.
    seed (`int`): of the draws.
Returns:
    sensitivity (`float` or None): in [0, 1], None without a case with a lesion.
    interval (`list` of two `float`, or None): 95 %, percentile bootstrap over patients; None where there is none to estimate
        (a single patient, or resamples that do not vary, for all cases are right).
    num_patients (`int`).

Examples:
    >>> from diffusers_macdm.metrics import load_metric
    >>> load_metric("sensitivity").compute(predictions=[0, 1, 1, 0, 0], references=[0, 1, 0, 1, 0])["sensitivity"]
    0.5
"""

_CITATION = """
@article{altman1994,
  title={Diagnostic Tests 1: Sensitivity and Specificity},
  author={Altman, Douglas G. and Bland, J. Martin},
  journal={BMJ}, volume={308}, number={6943}, pages={1552}, year={1994}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Sensitivity(evaluate.Metric):
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
            "sensitivity",
            lambda cases: measures.sensitivity(predictions[cases], references[cases]),
            len(references),
            patient_ids,
            num_resamples,
            seed,
            [references == 1],
        )
