"""Balanced accuracy, with an interval over patients, as a module of `evaluate`."""

import numpy as np

from diffusers_macdm.metrics import PatientMetric, measures


class BalancedAccuracy(PatientMetric):
    key = "balanced_accuracy"
    description = """
Mean of sensitivity and specificity, with a 95 % interval over patients.
"""
    returns = "balanced_accuracy (`float` or None): in [0, 1], None where a class is missing."
    example = """
    >>> load_metric("balanced_accuracy").compute(predictions=[0, 1, 1, 0, 0], references=[0, 1, 0, 1, 0])["balanced_accuracy"]
    0.5833333333333333"""
    citation = """
@inproceedings{brodersen2010,
  title={The Balanced Accuracy and Its Posterior Distribution},
  author={Brodersen, Kay Henning and Ong, Cheng Soon and Stephan, Klaas Enno and Buhmann, Joachim M.},
  booktitle={International Conference on Pattern Recognition}, pages={3121--3124}, year={2010}
}
"""

    def _compute(self, predictions, references, patient_ids=None, num_resamples=2000, seed=0):
        predictions, references = (np.asarray(values, dtype=float) for values in (predictions, references))
        return self.over_patients(
            lambda cases: measures.balanced_accuracy(predictions[cases], references[cases]),
            [references == 1, references == 0],
            patient_ids,
            num_resamples,
            seed,
        )
