"""Mean 95th-percentile Hausdorff distance of masks, with an interval over patients, as a module of `evaluate`."""

import datasets
import evaluate
import numpy as np

from diffusers_macdm.metrics import compute_with_interval, measures


_DESCRIPTION = """
Mean over cases of the 95th-percentile Hausdorff distance between the outlines of two masks (MONAI's), the larger one of both
directions, with a 95 % interval over patients. Cases in which a mask is empty have no distance: they are left out and counted.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: masks `[N, H, W]` of 0 and 1.
    references: masks `[N, H, W]` of 0 and 1.
    spacing (`float` or two): side of a pixel, or its height and width; 1 gives pixels.
    patient_ids: of each case, of any kind; cases of one patient are drawn together. Each case is a patient of its own if None.
    num_resamples (`int`): draws of patients.
    seed (`int`): of the draws.
Returns:
    hausdorff95 (`float` or None): mean over cases, in the unit of `spacing`, None where none is left.
    num_left_out (`int`): cases in which a mask is empty.
    interval (`list` of two `float`, or None): 95 %, percentile bootstrap over patients; None where there is none to estimate
        (a single patient, or resamples that do not vary, for all cases are right).
    num_patients (`int`).

Examples:
    >>> from diffusers_macdm.metrics import load_metric
    >>> masks = [[[1, 0, 0], [1, 0, 0]]]
    >>> load_metric("hausdorff95").compute(predictions=masks, references=[[[0, 0, 1], [0, 0, 1]]], spacing=0.5)["hausdorff95"]
    1.0
"""

_CITATION = """
@article{huttenlocher1993,
  title={Comparing Images Using the {H}ausdorff Distance},
  author={Huttenlocher, Daniel P. and Klanderman, Gregory A. and Rucklidge, William J.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume={15}, number={9}, pages={850--863}, year={1993}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Hausdorff95(evaluate.Metric):
    def _info(self):
        masks = datasets.List(datasets.List(datasets.Value("float32")))  # values other than 0 and 1 have to be seen
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(predictions=masks, references=masks),
        )

    def _compute(self, predictions, references, patient_ids=None, spacing=1.0, num_resamples=2000, seed=0):
        values = measures.hausdorff95_per_case(predictions, references, spacing)
        result = compute_with_interval(
            "hausdorff95",
            lambda cases: measures.mean_of_defined(values[cases]),
            len(values),
            patient_ids,
            num_resamples,
            seed,
            [~np.isnan(values)],
        )
        return {**result, "num_left_out": int(np.isnan(values).sum())}
