"""What networks of the real training cases say about the pairs: whether the masks fit, whether films are copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..audit.copies import CopyDetector
from ..audit.images import to_audit_size
from ..data.cases import Cases
from ..evaluation.downstream import LEARNING_RATES, Budget, DownstreamTraining
from ..evaluation.judge import Judge
from ..evaluation.mask_fit import mask_fit
from ..evaluation.networks import SEGMENTATION
from ..evaluation.predictions import predict_masks
from ..statistics.proportions import proportion
from .lesions import LEAST_PIXELS
from .sets import films_of


class Referee:
    """Judge sets by a segmenter and a copy detector of the real training cases, each trained once, when it is first needed.

    Args:
        train: the real cases that the generative model was trained on.
        held_out: real cases that it was not trained on: the reference of every number, and what sets the threshold of a copy.
        segmenter_steps: optimisation steps of the segmenter (U-Net of width 16, batches of 16).
        embedding_steps: those of the copy detector's embedding.
        num_null: held-out films that set the threshold of a copy, drawn by the seed. Each takes a third of a second, as a
            synthetic film does.
        copies: False searches for no copies.
        seed: of both.
        folder: where the networks are kept; None keeps them in memory.
    """

    def __init__(
        self,
        train: Cases,
        held_out: Cases,
        *,
        segmenter_steps: int = 1500,
        embedding_steps: int = 300,
        num_null: int = 128,
        copies: bool = True,
        seed: int = 0,
        folder: Path | None = None,
    ):
        budget = Budget(segmenter_steps, batch_size=16, learning_rate=LEARNING_RATES[SEGMENTATION], width=16)
        training = DownstreamTraining({SEGMENTATION: budget}, 1 + int(train.class_labels.max()), None, torch.device("cpu"))
        self.judge = Judge(train, training, seed=seed, folder=folder, show_progress=False)
        self.held_out, self.embedding_steps, self.seed = held_out, embedding_steps, seed
        self.num_null, self.copies = num_null, copies
        self._detector: CopyDetector | None = None

    def __call__(self, synthetic: Cases) -> dict:
        """Return `fit`, `lesion_seen` and `copies` of a set, JSON-ready.

        `fit`: see `evaluation.mask_fit.mask_fit`. `lesion_seen`: how often the segmenter sees a lesion (2 pixels or more) in
        films of each label, a `proportion` for `synthetic` and for `real` ones. `copies`: the `proportion` of films nearer to a
        training film than 95 % of the held-out ones are, and the `nominal_rate` that chance gives (None where
        they are not searched for).

        Raises:
            ValueError: when a set has no masks, or there are fewer than 2 held-out cases.
        """
        segmenter = self.judge.network(SEGMENTATION)
        return {
            "fit": mask_fit(segmenter, self.held_out, synthetic, self.seed)["measures"],
            "lesion_seen": {
                "synthetic": _lesion_seen(segmenter, synthetic),
                "real": _lesion_seen(segmenter, self.held_out),
            },
            "copies": self._copies(synthetic) if self.copies else None,
        }

    @property
    def detector(self) -> CopyDetector:
        """The detector of copies of the training films."""
        if self._detector is None:
            train, held_out = self.judge.train, self.held_out
            order = np.random.default_rng(self.seed).permutation(len(held_out))
            null = held_out.select(np.sort(order[: self.num_null]))
            self._detector = self.judge.copy_detector(
                _audit_images(train), train.patient_ids, _audit_images(null), self.embedding_steps
            )
        return self._detector

    def _copies(self, synthetic: Cases) -> dict:
        found = proportion(self.detector.find(_audit_images(synthetic)))
        return {**found, "nominal_rate": self.detector.nominal_rate}


def _lesion_seen(segmenter: torch.nn.Module, cases: Cases) -> dict[str, dict]:
    seen = predict_masks(segmenter, cases)[:, 1].sum(axis=(1, 2)) >= LEAST_PIXELS  # [N]
    labels = cases.class_labels.numpy()
    return {str(label): proportion(seen[labels == label]) for label in np.unique(labels).tolist()}


def _audit_images(cases: Cases) -> torch.Tensor:
    """uint8 `[N, 64, 64]`."""
    return to_audit_size(films_of(cases) / np.float32(255), cases.size)
