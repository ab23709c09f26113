"""The options of `macdm evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..checks import check_at_least


@dataclass(frozen=True)
class Settings:
    """Train a diagnosis classifier (ResNet-34) and a segmenter (U-Net) with and without the synthetic pairs.

    All are trained for the same number of steps and tested on held-out real cases. Writes evaluation.json and index.html into
    a new folder. Called again with the same settings it goes on where an interrupted evaluation stopped.

    Attributes:
        real: Real set with train/ and, held out, validation/ and test/ (or one of them, with --folds).
        synthetic: Synthetic set, as `macdm generate` writes it.
        out: New folder, or one that was interrupted.
        size: Side in pixels that all cases are resampled to.
        seeds: Seeds of the trainings, the same in all arms; no claim is made from fewer than 3.
        downstream_steps: Optimisation steps of every training, whatever its arm.
        downstream_batch_size: Batch size of every training.
        validate_every: Steps between two looks at the validation cases, which choose the state.
        tasks: Tasks to measure: diagnosis, segmentation, or both; those that the sets have masks for when not given.
        ratios: Synthetic pairs for each real training case.
        arms: Arms to train, the controls among them; all when not given.
        filters: Filters of the synthetic pairs, each compared with none at ratio 1: classifier, segmenter, both (trained on
            real cases), network (the model's own image -> masks, with --model).
        model: Model that made the pairs, for the filter 'network'.
        folds: Test the held-out cases (validation and test) in this number of turns, by patient.
        leave_one_site_out: Also test each site without having trained on its cases.
        samples_per_class: Real training cases of label 0, 1, ...: those of the training scripts' --samples_per_class, --seed 0.
        pretrained_classifier: ImageNet ResNet-34 of transformers (folder or Hub name) to start from.
        classifier_width: Channels of the classifier's first stage.
        segmenter_width: Channels of the segmenter's first level.
        feature_extractor: Network behind the realism: vision model of transformers (folder or Hub name) or TorchScript file;
            the diagnosis classifier trained on real cases when not given.
        skip_realism: Leave out realism and fit of the masks.
        resamples: Resamples of the bootstrap over patients.
        allow_unrecorded: Take for clean what no record tells about the synthetic set.
        device: Device to train on, for example cuda or cpu; cuda when not given and there is one.
    """

    real: Annotated[str, tyro.conf.arg(metavar="DATA")]
    synthetic: Annotated[str, tyro.conf.arg(metavar="DIR")]
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    size: int = 128
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="S ...")] = (0, 1, 2)
    downstream_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    downstream_batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    validate_every: Annotated[int, tyro.conf.arg(metavar="N")] = 50
    tasks: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="TASK ...")] = None
    ratios: Annotated[tuple[float, ...], tyro.conf.arg(metavar="R ...")] = (0.25, 0.5, 1.0, 2.0, 5.0)
    arms: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="ARM ...")] = None
    filters: Annotated[tuple[str, ...], tyro.conf.arg(metavar="F ...")] = ()
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    folds: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    leave_one_site_out: bool = False
    samples_per_class: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N ...")] = None
    pretrained_classifier: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    classifier_width: Annotated[int, tyro.conf.arg(metavar="W")] = 64
    segmenter_width: Annotated[int, tyro.conf.arg(metavar="W")] = 32
    feature_extractor: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    skip_realism: bool = False
    resamples: Annotated[int, tyro.conf.arg(metavar="N")] = 2000
    allow_unrecorded: bool = False
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None

    def __post_init__(self):
        check_at_least(self, size=8, downstream_steps=1, downstream_batch_size=2, validate_every=1, resamples=1)
