"""Counts of lesions that are drawn by hand."""

import json

import numpy as np
import pytest

from diffusers_macdm.quality.lesions import lesions
from diffusers_macdm.quality.sets import cases_of_arrays


def pairs(drawn, labels):
    """Lesion masks with these pixels, in an anatomy of rows 4 to 11."""
    masks = np.zeros((len(drawn), 16, 16), bool)
    for mask, pixels in zip(masks, drawn, strict=True):
        for row, column in pixels:
            mask[row, column] = True
    anatomy = np.zeros_like(masks)
    anatomy[:, 4:12] = True
    return cases_of_arrays(np.full(masks.shape, 100, np.uint8), anatomy, masks, labels)


def test_counts():
    drawn = [
        [(5, 5), (6, 6), (7, 7)],  # one piece: over corners too
        [(5, 5), (5, 6), (9, 9), (9, 10)],  # two pieces
        [(5, 5), (5, 6), (9, 9)],  # a piece and a speck
        [(5, 5)],  # a speck alone is no lesion
        [(3, 5), (4, 5), (5, 5), (6, 5)],  # a quarter outside
        [],
    ]
    found = lesions(pairs([*drawn, [(0, 0), (0, 1)], []], [1] * 6 + [0, 0]))
    assert json.loads(json.dumps(found)) == found
    one, normal = found["1"], found["0"]
    counts = {name: (one[name]["count"], one[name]["total"]) for name in one if isinstance(one[name], dict)}
    assert counts == {"with_lesion": (4, 6), "in_one_piece": (3, 4), "with_specks": (2, 6), "inside_anatomy": (3, 4)}
    assert one["median_area"] == 3.5 and one["pixels_inside_anatomy"] == pytest.approx((1 + 1 + 1 + 0.75) / 4)
    assert normal["with_lesion"]["count"] == 1 and normal["pixels_inside_anatomy"] == 0
    low, high = one["with_lesion"]["interval"]
    assert 0.25 < low < 4 / 6 < high < 0.95


def test_without_any_lesion_there_is_nothing_to_measure_of_it():
    found = lesions(pairs([[], []], [1, 1]))["1"]
    assert found["with_lesion"]["value"] == 0 and found["in_one_piece"]["value"] is None and found["median_area"] is None
