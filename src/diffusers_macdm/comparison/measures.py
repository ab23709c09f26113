"""What is measured on the pairs of each generative model, beside the downstream networks."""

from __future__ import annotations

from functools import cached_property

import torch

from ..audit.copies import CopyDetector
from ..audit.images import to_audit_size
from ..data.cases import Cases
from ..evaluation.judge import Judge


class PairMeasures:
    """Measure the pairs of all models by the same networks of the real training cases.

    Args:
        judge: these networks.
        held_out: real cases that are compared with, and that say how near a film comes that copies nobody.
        embedding_steps: training steps of the copy detector's embedding.
    """

    def __init__(self, judge: Judge, held_out: Cases, embedding_steps: int):
        self.judge, self.held_out, self.embedding_steps = judge, held_out, embedding_steps

    def __call__(self, pairs: Cases) -> dict:
        """Return `realism`, `fit` (None without masks), `copies` and `far`, JSON-ready.

        `copies` is the `proportion` of films closer to a training radiograph than 95 % of the held-out ones are, and the
        `nominal_rate` that chance gives; `far` that of films farther from every one than 95 % are.
        """
        measures = self.judge.realism_and_fit(self.held_out, pairs)
        del measures["realism"]["tsne"]  # of each model, in each fold, a picture of its own: too many to look at
        return {**measures, **self._detector.shares(self._detector.gallery.compare(_audit_images(pairs)))}

    @cached_property
    def _detector(self) -> CopyDetector:
        train = self.judge.train
        return self.judge.copy_detector(
            _audit_images(train), train.patient_ids, _audit_images(self.held_out), self.embedding_steps
        )


def _audit_images(cases: Cases) -> torch.Tensor:
    """uint8 `[N, 64, 64]`, of 8-bit films as those of the models are."""
    gray = ((cases.radiographs[:, 0] + 1) * 127.5).round() / 255  # [N, H, W] in [0, 1]
    return to_audit_size(gray.numpy(), cases.size)
