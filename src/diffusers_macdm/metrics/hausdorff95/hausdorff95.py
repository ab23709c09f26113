"""Mean 95th-percentile Hausdorff distance of masks, with an interval over patients, as a module of `evaluate`."""

import numpy as np

from diffusers_macdm.metrics import PatientMetric, measures


class Hausdorff95(PatientMetric):
    key = "hausdorff95"
    description = """
Mean over cases of the 95th-percentile Hausdorff distance between the outlines of two masks (MONAI's), the larger one of both
directions, with a 95 % interval over patients. Cases in which a mask is empty have no distance: they are left out and counted.
"""
    arguments = """    predictions: masks `[N, H, W]` of 0 and 1.
    references: masks `[N, H, W]` of 0 and 1.
    spacing (`float` or two): side of a pixel, or its height and width; 1 gives pixels."""
    takes_masks = True
    returns = """hausdorff95 (`float` or None): mean over cases, in the unit of `spacing`, None where none is left.
    num_left_out (`int`): cases in which a mask is empty."""
    example = """>>> masks = [[[1, 0, 0], [1, 0, 0]]]
    >>> load_metric("hausdorff95").compute(predictions=masks, references=[[[0, 0, 1], [0, 0, 1]]], spacing=0.5)["hausdorff95"]
    1.0"""
    citation = """
@article{huttenlocher1993,
  title={Comparing Images Using the {H}ausdorff Distance},
  author={Huttenlocher, Daniel P. and Klanderman, Gregory A. and Rucklidge, William J.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume={15}, number={9}, pages={850--863}, year={1993}
}
"""

    def _compute(self, predictions, references, patient_ids=None, spacing=1.0, num_resamples=2000, seed=0):
        values = measures.hausdorff95_per_case(predictions, references, spacing)
        result = self.mean_over_patients(values, patient_ids, num_resamples, seed)
        return {**result, "num_left_out": int(np.isnan(values).sum())}
