"""Sensitivity, with an interval over patients, as a module of `evaluate`."""

import numpy as np

from diffusers_macdm.metrics import PatientMetric, measures


class Sensitivity(PatientMetric):
    key = "sensitivity"
    description = """
Share of the cases with a lesion (1) that are called so, with a 95 % interval over patients.
"""
    returns = "sensitivity (`float` or None): in [0, 1], None without a case with a lesion."
    example = """>>> load_metric("sensitivity").compute(predictions=[0, 1, 1, 0, 0], references=[0, 1, 0, 1, 0])["sensitivity"]
    0.5"""
    citation = """
@article{altman1994,
  title={Diagnostic Tests 1: Sensitivity and Specificity},
  author={Altman, Douglas G. and Bland, J. Martin},
  journal={BMJ}, volume={308}, number={6943}, pages={1552}, year={1994}
}
"""

    def _compute(self, predictions, references, patient_ids=None, num_resamples=2000, seed=0):
        predictions, references = (np.asarray(values, dtype=float) for values in (predictions, references))
        return self.over_patients(
            lambda cases: measures.sensitivity(predictions[cases], references[cases]),
            [references == 1],
            patient_ids,
            num_resamples,
            seed,
        )
