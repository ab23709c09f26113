"""Mean Dice coefficient of masks, with an interval over patients, as a module of `evaluate`."""

import datasets
import evaluate
import numpy as np

from diffusers_macdm.metrics import compute_with_interval, measures


_DESCRIPTION = """
Mean over cases of the Dice coefficient 2 |A and B| / (|A| + |B|) of two masks, with a 95 % interval over patients. Cases in
which both masks are empty are left out and counted; where one of them is empty the coefficient is 0.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: masks `[N, H, W]` of 0 and 1.
    references: masks `[N, H, W]` of 0 and 1.
    both_empty (`float` or None): what counts where both masks are empty, 1 say; such cases are left out if None.
    patient_ids: of each case, of any kind; cases of one patient are drawn together. Each case is a patient of its own if None.
    num_resamples (`int`): draws of patients.
    seed (`int`): of the draws.
Returns:
    dice (`float` or None): mean over cases in [0, 1], None where none is left.
    num_left_out (`int`): cases with two empty masks.
    interval (`list` of two `float`, or None): 95 %, percentile bootstrap over patients; None where there is none to estimate
        (a single patient, or resamples that do not vary, for all cases are right).
    num_patients (`int`).

Examples:
    >>> from diffusers_macdm.metrics import load_metric
    >>> masks = [[[1, 1], [0, 0]], [[0, 1], [0, 1]]]
    >>> load_metric("dice").compute(predictions=masks, references=[[[1, 0], [0, 0]], [[0, 1], [0, 1]]])["dice"]
    0.8333333333333333
"""

_CITATION = """
@article{dice1945,
  title={Measures of the Amount of Ecologic Association Between Species},
  author={Dice, Lee R.},
  journal={Ecology}, volume={26}, number={3}, pages={297--302}, year={1945}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Dice(evaluate.Metric):
    def _info(self):
        masks = datasets.List(datasets.List(datasets.Value("float32")))  # values other than 0 and 1 have to be seen
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(predictions=masks, references=masks),
        )

    def _compute(self, predictions, references, patient_ids=None, both_empty=None, num_resamples=2000, seed=0):
        values = measures.dice_per_case(predictions, references)
        left_out = int(np.isnan(values).sum())
        if both_empty is not None:
            values, left_out = np.nan_to_num(values, nan=both_empty), 0
        result = compute_with_interval(
            "dice",
            lambda cases: measures.mean_of_defined(values[cases]),
            len(values),
            patient_ids,
            num_resamples,
            seed,
            [~np.isnan(values)],
        )
        return {**result, "num_left_out": left_out}
