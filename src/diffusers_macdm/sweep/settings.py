"""The options of `macdm sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..audit.settings import EMBEDDING_STEPS
from ..checks import check_at_least
from ..comparison.settings import TrainingBudget


@dataclass(frozen=True)
class Settings:
    """Measure the pairs of a model at each point of a grid: quality, fit of the masks, class agreement, copies.

    Writes sweep.json, sweep.csv and index.html. Called again with the same settings it goes on where an interrupted run
    stopped.

    Attributes:
        model: A trained MaCDMPipeline: folder, or owner/name[@version] on the Hub.
        real: Real set with train/ and validation/ (and test/).
        out: New folder, or one that was interrupted.
        grid: Values of guidance_scale, guidance_interval (lo:hi), strength (below 1: variations of real training cases),
            num_inference_steps; and of w2 and w3 (models of MODEL's size are trained anew for each).
        full_grid: Measure the product of all values; without it each is varied alone.
        num_per_class: Pairs of each label at each point.
        downstream_steps: Training steps of the classifier and the segmenter that measure.
        classifier_width: Channels of the classifier's first stage; 64 when not given.
        segmenter_width: Channels of the segmenter's first level; 32 when not given.
        embedding_steps: Training steps of the copy detector's embedding.
        feature_extractor: Vision model of transformers (folder or Hub name) or TorchScript file; the diagnosis classifier when
            not given.
        train_steps: Training steps of a model for w2 or w3.
        train_seeds: Seeds of the trainings for w2 and w3, one training for each.
        learning_rate: Learning rate of a model for w2 or w3.
        mask_weighting: Where w2 and w3 act: on the network's input, or on the clean masks before the noise; as in MODEL when
            not given.
        batch_size: Batch size of these trainings and of the sampling.
        samples_per_class: Real training cases of label 0, 1, ...: those of the training scripts' --samples_per_class, --seed 0.
        allow_unrecorded: Measure although nothing records which cases trained the model.
        seed: Everything else that is random follows from it.
        device: Device to compute on, for example cuda or cpu; cuda when not given and there is one.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    real: Annotated[str, tyro.conf.arg(metavar="DATA")]
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    grid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=V,V ...")]
    full_grid: bool = False
    num_per_class: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    downstream_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    classifier_width: Annotated[int | None, tyro.conf.arg(metavar="W")] = None
    segmenter_width: Annotated[int | None, tyro.conf.arg(metavar="W")] = None
    embedding_steps: Annotated[int, tyro.conf.arg(metavar="N")] = EMBEDDING_STEPS
    feature_extractor: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    train_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 4000
    train_seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="K ...")] = (0, 1, 2)
    learning_rate: float = TrainingBudget.learning_rate
    mask_weighting: Literal["input", "signal"] | None = None
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    samples_per_class: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N ...")] = None
    allow_unrecorded: bool = False
    seed: int = 0
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None

    def __post_init__(self):
        check_at_least(self, num_per_class=2, batch_size=2, embedding_steps=1, downstream_steps=1)
        check_at_least(self, classifier_width=1, segmenter_width=1, seed=0)
