"""What is measured on the pairs of each point of a sweep."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..audit.copies import CopyDetector
from ..audit.images import to_audit_size
from ..data.cases import Cases
from ..evaluation.judge import Judge
from ..evaluation.mask_fit import mask_fit
from ..evaluation.networks import DIAGNOSIS, SEGMENTATION
from ..evaluation.predictions import predict_probabilities
from ..evaluation.realism import Sample, quality
from ..statistics.bootstrap import patient_bootstrap
from ..statistics.proportions import proportion


HALVES, SHUFFLED, REAL = "two halves of the real cases", "shuffled pairs", "real cases"


class PairMeasures:
    """Measure the pairs of each point by the same networks.

    Args:
        judge: networks of the real training cases.
        held_out: real cases that are compared with.
        detector: detector of copies of the training cases.
    """

    def __init__(self, judge: Judge, held_out: Cases, detector: CopyDetector):
        self.judge, self.held_out, self.detector = judge, held_out, detector
        self.real = Sample.of(held_out, judge.extractor)
        self.real_agreement = class_agreement(judge.network(DIAGNOSIS), held_out, judge.seed)["value"]

    def __call__(self, pairs: Cases, unrefined: np.ndarray) -> list[dict]:
        """Return the measures, JSON-ready.

        Args:
            pairs: synthetic pairs.
            unrefined: pixels of their lesion masks before refinement, int `[N]`.

        Returns:
            Of each measure `name`, `value`, `interval` and `references` by name.
        """
        seed, device = self.judge.seed, self.judge.training.device
        measures = [
            _entry(name, entry, {HALVES: entry["real_versus_real"]})
            for name, entry in quality(self.real, Sample.of(pairs, self.judge.extractor), seed).items()
        ]
        fit = mask_fit(self.judge.network(SEGMENTATION), self.held_out, pairs, seed, device=device)
        measures += [
            _entry(f"{entry['mask']}_fit_dice", entry, {REAL: entry["real"], SHUFFLED: entry["shuffled"]})
            for entry in fit["measures"]
            if entry["label"] is None
        ]
        agreement = class_agreement(self.judge.network(DIAGNOSIS), pairs, seed)
        measures.append(_entry("class_agreement", agreement, {REAL: self.real_agreement}))
        has_lesion = pairs.has_lesion.numpy()
        measures.append(_entry("lesion_before_refinement", proportion(unrefined[has_lesion] > 0), {}))
        measures.append(_entry("no_lesion_in_normal_before_refinement", proportion(unrefined[~has_lesion] == 0), {}))
        return [*measures, *self._copies(pairs)]

    def _copies(self, pairs: Cases) -> list[dict]:
        gray = (pairs.radiographs[:, 0] / 2 + 0.5).numpy()  # [N, H, W] in [0, 1]
        comparison = self.detector.gallery.compare(to_audit_size(gray, pairs.size))
        closeness = self.detector.closeness(comparison)
        median = patient_bootstrap(lambda chosen: float(np.median(closeness[chosen])), pairs.patient_ids, seed=self.judge.seed)
        shares = self.detector.shares(comparison)
        return [
            _entry("median_copy_closeness", median.to_dict(), {"validation images": 0.0}),
            _entry("copy_rate", shares["copies"], {"chance": self.detector.nominal_rate}),
            _entry("far_rate", shares["far"], {"chance": self.detector.nominal_rate}),
        ]


def class_agreement(classifier: torch.nn.Module, cases: Cases, seed: int) -> dict:
    """Share of cases that a classifier gives their label, mean over the labels: `value`, `interval` (bootstrap over patients)
    and `by_label`."""
    labels = cases.class_labels.numpy()
    right = predict_probabilities(classifier, cases).argmax(axis=1) == labels

    def of_label(chosen):
        return {int(label): float(right[chosen][labels[chosen] == label].mean()) for label in np.unique(labels[chosen])}

    def mean_over_labels(chosen):
        return float(np.mean([*of_label(chosen).values()]))

    of_each = [labels == label for label in np.unique(labels)]
    found = patient_bootstrap(mean_over_labels, cases.patient_ids, seed=seed, rests_on=of_each).to_dict()
    return {**found, "by_label": of_label(np.arange(len(labels)))}


def _entry(name: str, estimate: Mapping, references: Mapping[str, float | None]) -> dict:
    known = {line: value for line, value in references.items() if value is not None}
    return {"name": name, "value": estimate["value"], "interval": estimate["interval"], "references": known}
