"""Metrics against scikit-learn, MONAI and distances by scipy, and what happens to empty masks and missing classes."""

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric
from scipy import ndimage
from sklearn import metrics as sklearn_metrics

from diffusers_macdm.statistics.measures import (
    accuracy,
    balanced_accuracy,
    dice_per_case,
    hausdorff95_per_case,
    mean_of_defined,
    roc_auc,
    sensitivity,
    specificity,
)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def masks(generator):
    """Smooth blobs and the same ones after a change, `[8, 24, 32]` each."""
    fields = ndimage.gaussian_filter(generator.normal(size=(2, 8, 24, 32)), (0, 0, 3, 3))
    return (fields[0] > 0.03).astype(np.uint8), (fields[0] + 0.5 * fields[1] > 0.03).astype(np.uint8)


def blank(*shape):
    return np.zeros(shape, dtype=np.uint8)


def test_dice_is_monais(masks):
    metric = DiceMetric(reduction="none", ignore_empty=True)
    expected = metric(*(torch.from_numpy(mask)[:, None] for mask in masks))[:, 0].numpy()
    assert dice_per_case(*masks) == pytest.approx(expected, abs=1e-6)


def test_dice_of_empty_masks():
    predictions, references = blank(4, 4, 4), blank(4, 4, 4)
    predictions[1, 0, 0] = references[2, 1, 1] = 1
    predictions[3, :2] = references[3, 1:3] = 1
    assert dice_per_case(predictions, references) == pytest.approx([np.nan, 0, 0, 0.5], nan_ok=True)
    assert dice_per_case(predictions.astype(bool), references.astype(float))[3] == 0.5
    assert mean_of_defined(dice_per_case(predictions, references)) == pytest.approx(0.5 / 3)
    assert np.isnan(mean_of_defined(np.array([np.nan])))


def outline(mask):
    return mask.astype(bool) & ~ndimage.binary_erosion(mask)


@pytest.mark.parametrize("spacing", [1.0, (2.0, 0.5)])
def test_hausdorff95_is_the_percentile_of_distances_between_outlines(masks, spacing):
    sampling = np.broadcast_to(spacing, 2)
    expected = []
    for pair in zip(*masks, strict=True):
        one, other = map(outline, pair)
        directed = [
            np.percentile(ndimage.distance_transform_edt(~end, sampling=sampling)[start], 95)
            for start, end in ((one, other), (other, one))
        ]
        expected.append(max(directed))
    assert hausdorff95_per_case(*masks, spacing=spacing) == pytest.approx(expected, rel=1e-5)


def test_hausdorff95_of_shifted_squares_and_of_empty_masks():
    predictions, references = blank(4, 16, 16), blank(4, 16, 16)
    predictions[:3, 4:8, 2:6] = references[1:, 4:8, 7:11] = 1
    references[0], predictions[2] = 0, references[2]
    distances = hausdorff95_per_case(predictions, references, spacing=0.2)
    assert distances == pytest.approx([np.nan, 1.0, 0.0, np.nan], nan_ok=True)
    assert np.isnan(hausdorff95_per_case(blank(1, 4, 4), blank(1, 4, 4))).all()


def test_rates_are_sklearns(generator):
    references, predictions = generator.integers(0, 2, (2, 60))
    recall = sklearn_metrics.recall_score
    assert sensitivity(predictions, references) == pytest.approx(recall(references, predictions))
    assert specificity(predictions, references) == pytest.approx(recall(references, predictions, pos_label=0))
    expected = sklearn_metrics.balanced_accuracy_score(references, predictions)
    assert balanced_accuracy(predictions, references) == pytest.approx(expected)
    assert accuracy(predictions, references) == pytest.approx(sklearn_metrics.accuracy_score(references, predictions))


def test_a_missing_class_is_undefined():
    ones, zeros = np.ones(3, dtype=int), np.zeros(3, dtype=int)
    assert sensitivity(ones, ones) == 1 and specificity(zeros, zeros) == 1
    undefined = [specificity(ones, ones), sensitivity(ones, zeros), balanced_accuracy(ones, ones), roc_auc(ones, ones)]
    assert np.isnan(undefined).all()


@pytest.mark.parametrize("decimals", [1, 8])
def test_auc_is_sklearns(generator, decimals):
    references = generator.integers(0, 2, 80)
    scores = (references + generator.normal(size=80)).round(decimals)  # ties with one decimal
    assert roc_auc(scores, references) == pytest.approx(sklearn_metrics.roc_auc_score(references, scores))


def test_auc_within_strata(generator):
    references, strata = generator.integers(0, 2, 90), generator.integers(0, 3, 90)
    scores = references + generator.normal(size=90) + 100 * strata
    pairs = [
        (scores[lesion] > scores[normal]) + 0.5 * (scores[lesion] == scores[normal])
        for lesion in np.flatnonzero(references)
        for normal in np.flatnonzero(references == 0)
        if strata[lesion] == strata[normal]
    ]
    assert roc_auc(scores, references, strata) == pytest.approx(np.mean(pairs))
    assert roc_auc(scores, references, strata) > roc_auc(scores, references) + 0.1
    assert roc_auc(scores, references, strata.astype(str)) == roc_auc(scores, references, strata)
    assert np.isnan(roc_auc(scores, references, references))  # no stratum has both classes


@pytest.mark.parametrize(
    "function, arguments, message",
    [
        (dice_per_case, (blank(2, 4, 4), blank(3, 4, 4)), r"\(2, 4, 4\) and \(3, 4, 4\)"),
        (dice_per_case, (blank(4, 4), blank(4, 4)), r"must be \[N, H, W\]"),
        (dice_per_case, (blank(1, 4, 4) + 255, blank(1, 4, 4)), "predictions hold 255: 0 and 1"),
        (hausdorff95_per_case, (blank(1, 4, 4), blank(1, 4, 4) + 0.5), "references hold 0.5: 0 and 1"),
        (hausdorff95_per_case, (blank(1, 4, 4), blank(1, 4, 4), 0), "spacing=0"),
        (hausdorff95_per_case, (blank(1, 4, 4), blank(1, 4, 4), (1, 1, 1)), r"spacing=\(1, 1, 1\)"),
        (sensitivity, ([0, 1], [0, 1, 1]), r"\(2,\) and \(3,\)"),
        (specificity, ([0, 2], [0, 1]), "predictions hold 2: 0 and 1"),
        (accuracy, ([0, np.nan], [0, 1]), "predictions hold nan: 0 and 1"),
        (roc_auc, ([0.1, 0.2], [0, 2]), "references hold 2: 0 and 1"),
        (roc_auc, ([0.1, 0.2], [0, 1, 1]), r"\(2,\) scores, \(3,\) references"),
        (roc_auc, ([0.1, 0.2], [0, 1], [0]), r"\(1,\) strata"),
        (roc_auc, ([0.1, np.nan], [0, 1]), "not all finite"),
    ],
)
def test_bad_input(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
