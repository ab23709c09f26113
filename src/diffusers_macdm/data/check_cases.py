"""Faults of decoded cases: of their values, of the label beside the lesion mask, and of all of them together."""

from __future__ import annotations

import numpy as np

from ..macdm.joint_sample import NORMAL_LABEL
from .decoding import Case, Decoded
from .faults import Report
from .loading import radiograph_digest


CONTRADICTION = "label contradicts the lesion mask"  # a kind of fault
# Bits of a film's values -> a set whose brightest film stays below this share of their scale has another one: 10 or 14 bits in
# 16, say, or 0 to 1 in 8.
DARK = {8: 1 / 8, 12: 1 / 4, 16: 1 / 4}


class CaseInspection:
    """Checks of one case after the other; of each radiograph a few numbers are kept, for the next ones.

    Args:
        report: gets the faults and notes.
    """

    def __init__(self, report: Report):
        self.report = report
        self.first_with_content: dict[str, dict[str, str]] = {}  # digest of the decoded radiograph -> split -> file
        self.first_of_depth: dict[int, str] = {}  # bits of a radiograph's values -> file
        self.brightest: dict[int, float] = {}  # of each depth
        self.splits: dict[str, None] = {}  # that were looked at

    def check(self, split: str, case: Case, decoded: Decoded) -> None:
        """Take over what the decoder found, and look at the values of one case."""
        self.report.faults += [*decoded.refusals, *decoded.findings]
        if decoded.radiograph is not None:
            self._check_radiograph(split, case.files["image"].name, decoded)
        self._check_label_against_lesion(case, decoded)
        self._check_masks(case, decoded)

    def compare_all(self) -> None:
        """Look at the set as a whole, after the last case."""
        if {12, 16} <= set(self.first_of_depth):
            reason = (
                f"has no value above 4095 and is read as 12 bits, while {self.first_of_depth[16]} has 16: it is a dark "
                "film, or the two are of different scales; bring them to one."
            )
            self.report.fault(self.first_of_depth[12], "two depths", reason)
        if self.brightest and all(value < DARK.get(depth, 0) for depth, value in self.brightest.items()):
            reason = (
                f"no film of {', '.join(self.splits)} is brighter than {max(self.brightest.values()):.2g} of the full scale of "
                "its files: all come in nearly black: stretch them to the scale of their format (8 or 16 bits), by one "
                "factor."
            )
            self.report.fault(next(iter(self.first_of_depth.values())), "dark set", reason)

    def _check_radiograph(self, split: str, file: str, decoded: Decoded) -> None:
        values = decoded.radiograph
        lowest, highest = float(values.min()), float(values.max())
        if lowest == highest:
            self.report.fault(file, "blank radiograph", f"every pixel has the same value ({highest:g} of 1).")
            return
        self.splits.setdefault(split)
        self.first_of_depth.setdefault(decoded.depth, file)
        self.brightest[decoded.depth] = max(self.brightest.get(decoded.depth, 0), highest)
        if ((values == lowest) | (values == highest)).all():
            self.report.note(file, "film like a mask", "the radiograph has two values, as a mask has: are they swapped?")
        first_by_split = self.first_with_content.setdefault(radiograph_digest(values), {})
        elsewhere = [first for other, first in first_by_split.items() if other != split]
        first = first_by_split.setdefault(split, file)
        if elsewhere:  # one patient in two splits, whatever the patient_id says
            reason = f"has the same content, pixel by pixel, as {elsewhere[0]} in another split."
            self.report.fault(file, "duplicate radiograph", reason)
        elif first != file:  # one file named by two rows is reported as that
            reason = f"has the same content, pixel by pixel, as {first}."
            self.report.note(file, "duplicate radiograph", reason)

    def _check_label_against_lesion(self, case: Case, decoded: Decoded) -> None:
        label, file = case.values["label"], case.files.get("lesion_mask")
        if decoded.lesion_mask is None or label is None or file is None:
            return
        pixels = int(decoded.lesion_mask.sum())
        if label == NORMAL_LABEL and pixels:
            reason = f"label {label} means no lesion, but the lesion mask has {pixels} pixels."
        elif label != NORMAL_LABEL and not pixels:
            reason = f"label {label} means a lesion, but the lesion mask is empty."
        else:
            return
        self.report.fault(file.name, CONTRADICTION, reason)

    def _check_masks(self, case: Case, decoded: Decoded) -> None:
        anatomy, lesion = decoded.anatomy_mask, decoded.lesion_mask
        if lesion is not None and case.files.get("lesion_mask") is not None and 2 * lesion.sum() > lesion.size:
            self.report.note(
                case.files["lesion_mask"].name, "inverted mask", "the lesion covers more than half of the film: is it inverted?"
            )
        if anatomy is None:
            return
        name = case.files["anatomy_mask"].name
        if not anatomy.any():
            empty_lesion = lesion is not None and not lesion.any()
            if empty_lesion:
                self.report.note(name, "empty anatomy mask", "the anatomy mask is empty.")
        elif _looks_inverted(anatomy):
            self.report.note(name, "inverted mask", "the border of the film is inside more than the middle: is it inverted?")
        if lesion is None or lesion.shape != anatomy.shape:  # a size mismatch, told already
            return
        outside = int((lesion & ~anatomy).sum())
        if outside:
            reason = f"{outside} of {int(lesion.sum())} lesion pixels are outside the anatomy mask."
            self.report.fault(case.files["lesion_mask"].name, "lesion outside the anatomy", reason)


def _looks_inverted(mask: np.ndarray) -> bool:
    """Whether nearly all of the border is inside and most of the middle is not."""
    height, width = mask.shape
    if min(height, width) < 8:
        return False
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    middle = mask[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    return border.mean() > 0.9 and middle.mean() < 0.5
