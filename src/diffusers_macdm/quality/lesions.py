"""The lesions as sampled: whether there is one where the label says so, in one piece, of a likely size, inside the anatomy."""

from __future__ import annotations

import numpy as np

from ..data.cases import Cases
from ..statistics.proportions import proportion
from .sets import masks_of


LEAST_PIXELS = 2  # of a piece; a single pixel is a speck
EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


def lesions(cases: Cases) -> dict[str, dict]:
    """Count lesions by label, in the masks as they are: give them as sampled, before refinement.

    A piece is an 8-connected component of at least 2 pixels, a speck one of a single pixel. A pair has a lesion when its mask
    has a piece.

    Returns:
        JSON-ready, by label ("0", "1", ...): the `proportion`s (95 % Wilson interval) `with_lesion` and `with_specks` of all
        pairs, `in_one_piece` and `inside_anatomy` (every pixel of it) of those with a lesion; `median_area` of the lesions,
        pixels, and `pixels_inside_anatomy`, the mean over the lesions of the share of their pixels (None without a lesion).
    """
    anatomy, lesion = masks_of(cases)
    labels = cases.class_labels.numpy()
    return {str(label): _of_label(anatomy[labels == label], lesion[labels == label]) for label in np.unique(labels).tolist()}


def _of_label(anatomy_masks: np.ndarray, lesion_masks: np.ndarray) -> dict:
    from scipy.ndimage import label

    num_pieces, num_specks = [], []
    for mask in lesion_masks:
        areas = np.bincount(label(mask, structure=EIGHT_NEIGHBOURS)[0].ravel())[1:]
        num_pieces.append((areas >= LEAST_PIXELS).sum())
        num_specks.append((areas < LEAST_PIXELS).sum())
    num_pieces, num_specks = np.array(num_pieces), np.array(num_specks)
    has_lesion = num_pieces > 0
    areas = lesion_masks.sum(axis=(1, 2))[has_lesion]
    inside = (lesion_masks & anatomy_masks).sum(axis=(1, 2))[has_lesion]
    found = len(areas) > 0
    return {
        "with_lesion": proportion(has_lesion),
        "in_one_piece": proportion(num_pieces[has_lesion] == 1),
        "with_specks": proportion(num_specks > 0),
        "median_area": float(np.median(areas)) if found else None,
        "inside_anatomy": proportion(inside == areas),
        "pixels_inside_anatomy": float((inside / areas).mean()) if found else None,
    }
