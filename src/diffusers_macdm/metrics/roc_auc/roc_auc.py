"""Area under the ROC curve, with an interval over patients, as a module of `evaluate`."""

import numpy as np

from diffusers_macdm.metrics import PatientMetric, measures


class RocAuc(PatientMetric):
    key = "roc_auc"
    description = """
Area under the ROC curve: how often a case with a lesion (1) has a higher score than a normal one (0), ties counting half, with
a 95 % interval over patients. Scores of different classifiers (folds of a cross-validation) are compared within `strata` alone.
"""
    arguments = """    predictions: scores `[N]`, the higher the likelier a lesion.
    references: `[N]` of 0 and 1.
    strata: of each case, the number of its fold say; only pairs within one stratum count. All count if None."""
    returns = "roc_auc (`float` or None): in [0, 1], None where no stratum has both classes."
    example = """>>> load_metric("roc_auc").compute(predictions=[0.1, 0.4, 0.35, 0.8], references=[0, 0, 1, 1])["roc_auc"]
    0.75"""
    citation = """
@article{hanley1982,
  title={The Meaning and Use of the Area under a Receiver Operating Characteristic ({ROC}) Curve},
  author={Hanley, James A. and McNeil, Barbara J.},
  journal={Radiology}, volume={143}, number={1}, pages={29--36}, year={1982}
}
"""

    def _compute(self, predictions, references, patient_ids=None, strata=None, num_resamples=2000, seed=0):
        predictions, references = (np.asarray(values, dtype=float) for values in (predictions, references))
        of_case = np.zeros(len(references)) if strata is None else np.asarray(strata)
        if len(of_case) != len(references):
            raise ValueError(f"{len(of_case)} strata for {len(references)} cases: one for each case is needed.")
        return self.over_patients(
            lambda cases: measures.roc_auc(predictions[cases], references[cases], of_case[cases]),
            [references == 1, references == 0],
            patient_ids,
            num_resamples,
            seed,
        )
