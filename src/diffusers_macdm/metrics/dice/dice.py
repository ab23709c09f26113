"""Mean Dice coefficient of masks, with an interval over patients, as a module of `evaluate`."""

import numpy as np

from diffusers_macdm.metrics import PatientMetric, measures


class Dice(PatientMetric):
    key = "dice"
    description = """
Mean over cases of the Dice coefficient 2 |A and B| / (|A| + |B|) of two masks, with a 95 % interval over patients. Cases in
which both masks are empty are left out and counted; where one of them is empty the coefficient is 0.
"""
    arguments = """    predictions: masks `[N, H, W]` of 0 and 1.
    references: masks `[N, H, W]` of 0 and 1.
    both_empty (`float` or None): what counts where both masks are empty, 1 say; such cases are left out if None."""
    takes_masks = True
    returns = """dice (`float` or None): mean over cases in [0, 1], None where none is left.
    num_left_out (`int`): cases with two empty masks."""
    example = """>>> masks = [[[1, 1], [0, 0]], [[0, 1], [0, 1]]]
    >>> load_metric("dice").compute(predictions=masks, references=[[[1, 0], [0, 0]], [[0, 1], [0, 1]]])["dice"]
    0.8333333333333333"""
    citation = """
@article{dice1945,
  title={Measures of the Amount of Ecologic Association Between Species},
  author={Dice, Lee R.},
  journal={Ecology}, volume={26}, number={3}, pages={297--302}, year={1945}
}
"""

    def _compute(self, predictions, references, patient_ids=None, both_empty=None, num_resamples=2000, seed=0):
        values = measures.dice_per_case(predictions, references)
        left_out = int(np.isnan(values).sum())
        if both_empty is not None:
            values, left_out = np.nan_to_num(values, nan=both_empty), 0
        return {**self.mean_over_patients(values, patient_ids, num_resamples, seed), "num_left_out": left_out}
