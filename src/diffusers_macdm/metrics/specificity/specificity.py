"""Specificity, with an interval over patients, as a module of `evaluate`."""

import numpy as np

from diffusers_macdm.metrics import PatientMetric, measures


class Specificity(PatientMetric):
    key = "specificity"
    description = """
Share of the normal cases (0) that are called so, with a 95 % interval over patients.
"""
    returns = "specificity (`float` or None): in [0, 1], None without a normal case."
    example = """>>> load_metric("specificity").compute(predictions=[0, 1, 1, 0, 0], references=[0, 1, 0, 1, 0])["specificity"]
    0.6666666666666666"""
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
            lambda cases: measures.specificity(predictions[cases], references[cases]),
            [references == 0],
            patient_ids,
            num_resamples,
            seed,
        )
