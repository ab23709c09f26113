"""Filters of synthetic pairs, with networks whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import tiny_pipeline

from diffusers_macdm.data.cases import Cases
from diffusers_macdm.evaluation.filters import MaskSampler, agrees_with_label, dice_of_masks, reaches, thresholds_of
from diffusers_macdm.evaluation.predictions import predict_masks


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
    found = thresholds_of(dice_of_masks(ThresholdSegmenter(), REAL))
    # The bright corner counts as lesion and anatomy of the film: 10 pixels of mask, 11 of prediction.
    assert found["lesion"] == pytest.approx(np.quantile([2 * overlap / 21 for overlap in (4, 6, 8, 10)], 0.05))
    assert found["anatomy"] == pytest.approx(np.quantile([200 / 201] * 4 + [1], 0.05))
    assert thresholds_of(dice_of_masks(ThresholdSegmenter(), REAL.select([4])))["lesion"] == 0


def test_what_a_filter_keeps():
    assert agrees_with_label(BrightnessClassifier(), SYNTHETIC).tolist() == [True, False, True, True, False]
    found = dice_of_masks(ThresholdSegmenter(), SYNTHETIC)
    assert found["lesion"] == pytest.approx([18 / 21, 18 / 20, 6 / 21, np.nan, np.nan], nan_ok=True)
    thresholds = {"anatomy": 0.9, "lesion": 0.5}
    assert reaches(found, thresholds).tolist() == [True, True, False, True, True]
    assert not reaches(found, {"anatomy": 1.1, "lesion": 0.0}).any()


def test_a_lesion_that_only_the_label_knows_does_not_pass():
    samples = SYNTHETIC.joint_samples.clone()
    samples[0, 2] = -1.0
    found = dice_of_masks(ThresholdSegmenter(), Cases.of(samples, SYNTHETIC.class_labels))
    assert found["lesion"][0] == 0 and not reaches(found, {"anatomy": 0.0, "lesion": 0.1})[0]


def test_masks_of_the_generative_model_itself():
    """What the pipeline gives for one radiograph, whatever stands beside it in the batch."""
    pipe = tiny_pipeline()
    for steps, sampler in ((25, MaskSampler(pipe)), (4, MaskSampler(pipe, num_inference_steps=4))):
        masks = predict_masks(sampler, SYNTHETIC)
        for index in (0, 3):
            generator = torch.Generator().manual_seed(0)
            image = SYNTHETIC.radiographs[index : index + 1] / 2 + 0.5
            alone = pipe(image=image, num_inference_steps=steps, generator=[generator], output_type="np")
            for channel, expected in enumerate((alone.anatomy_masks, alone.lesion_masks)):
                assert np.array_equal(masks[index, channel], expected.reshape(16, 16) > 0)
    larger = torch.nn.functional.interpolate(SYNTHETIC.joint_samples, (32, 32))
    assert predict_masks(MaskSampler(pipe), Cases.of(larger, SYNTHETIC.class_labels)).shape == (5, 2, 32, 32)
