"""Filters of synthetic pairs, with networks whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusers_macdm.evaluation.cases import Cases
from diffusers_macdm.evaluation.filters import dice_thresholds, filtered


class BrightnessClassifier(torch.nn.Module):
    """Label 1 where the upper left pixel is bright."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, radiographs):
        logit = self.scale * radiographs[:, 0, 0, 0]
        return SimpleNamespace(logits=torch.stack([-logit, logit], dim=1))


class ThresholdSegmenter(torch.nn.Module):
    """Anatomy is what is not black, lesion what is white."""

    def __init__(self):
        super().__init__()
        self.levels = torch.nn.Parameter(torch.tensor([-0.9, 0.9]))

    def forward(self, radiographs):
        return torch.cat([radiographs - self.levels[0], radiographs - self.levels[1]], dim=1)


def pair(label, bright, overlap):
    """A film with 10 x 10 pixels of anatomy and, with a label, a lesion of 10 pixels, `overlap` of them where the mask says."""
    sample = torch.full((3, 16, 16), -1.0)
    sample[0, 4:14, 4:14] = 0.0
    sample[1, 4:14, 4:14] = 1.0
    sample[0, 0, 0] = 1.0 if bright else -1.0
    if label:
        sample[2, 6, 4:14] = 1.0
        sample[0, 6, 4 : 4 + overlap] = 1.0
        sample[0, 8, 4 : 14 - overlap] = 1.0
    return sample, label


def cases(*pairs):
    return Cases.of(torch.stack([sample for sample, _ in pairs]), [label for _, label in pairs])


REAL = cases(*(pair(1, True, overlap) for overlap in (4, 6, 8, 10)), pair(0, False, 0))
SYNTHETIC = cases(pair(1, True, 9), pair(1, False, 9), pair(1, True, 3), pair(0, False, 0), pair(0, True, 0))


def test_thresholds_are_what_95_percent_of_real_pairs_reach():
    found = dice_thresholds(ThresholdSegmenter(), REAL)
    # The bright corner counts as lesion and anatomy of the film: 10 pixels of mask, 11 of prediction.
    assert found["lesion"] == pytest.approx(np.quantile([2 * overlap / 21 for overlap in (4, 6, 8, 10)], 0.05))
    assert found["anatomy"] == pytest.approx(np.quantile([200 / 201] * 4 + [1], 0.05))
    assert dice_thresholds(ThresholdSegmenter(), REAL.select([4]))["lesion"] == 0


@pytest.mark.parametrize("name, expected", [("classifier", [0, 2, 3]), ("segmenter", [0, 1, 3, 4]), ("both", [0, 3])])
def test_what_a_filter_keeps(name, expected):
    segmenter = ThresholdSegmenter()
    found = filtered(name, SYNTHETIC, BrightnessClassifier(), segmenter, dice_thresholds(segmenter, REAL))
    assert found.names == SYNTHETIC.select(expected).names


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="filter 'all' is not allowed"):
        filtered("all", SYNTHETIC, BrightnessClassifier(), ThresholdSegmenter(), {})
