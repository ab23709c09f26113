"""The cases that a training sees, and the facts about them that its record keeps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.augmentation import AUGMENTATION_DIM, PairAugmentation
from ..data.check import faults_of_lines
from ..data.check_cases import CaseInspection
from ..data.dataset import UNLABELED, PairDataset
from ..data.faults import Report
from ..data.labels import gap
from ..data.layout import without_words
from ..data.loading import HUB, load_pairs
from ..data.pairs import Pairs
from ..macdm.joint_sample import CHANNELS, LESION_MASK
from ..progress import Progress
from ..provenance import records as provenance
from .settings import TrainingSettings


logger = logging.getLogger("macdm.training")


def data_of(settings: TrainingSettings) -> str:
    """What the options name, as `load_pairs` takes it: `--dataset_name` is of the Hub unless it is a folder."""
    if settings.train_data_dir is not None:
        return settings.train_data_dir
    return settings.dataset_name if Path(settings.dataset_name).is_dir() else HUB + settings.dataset_name


def load_split(settings: TrainingSettings, split: str) -> Pairs:
    """One split of the data that the options name."""
    return load_pairs(data_of(settings), split, settings.dataset_config_name, settings.cache_dir)


def load_training_data(settings: TrainingSettings) -> PairDataset:
    """The train split as joint samples, restricted to `--samples_per_class`."""
    pairs = load_split(settings, "train")
    if settings.samples_per_class is not None:
        labels = np.array([UNLABELED if label is None else label for label in pairs["label"]])
        chosen = []
        for label, count in enumerate(settings.samples_per_class):
            members = np.flatnonzero(labels == label)
            if count > len(members):
                raise ValueError(f"--samples_per_class asks for {count} cases of class {label}; there are {len(members)}.")
            chosen.append(np.random.default_rng([settings.seed, label]).permutation(members)[:count])
        pairs = pairs.select(np.sort(np.concatenate(chosen)))
    augmentation = None
    if settings.augment:
        augmentation = PairAugmentation(
            horizontal_flip=settings.horizontal_flip,
            rotation_degrees=settings.rotation_degrees,
            translation=settings.translation,
            scale=settings.scale,
            brightness=settings.brightness,
            contrast=settings.contrast,
            gamma=settings.gamma,
            probability=settings.augmentation_probability,
        )
    inspection = CaseInspection(Report())
    dataset = PairDataset(pairs, settings.resolution, augmentation, null_label="num_classes", inspection=inspection)
    known = {label for label in dataset.labels if label < dataset.num_classes}
    missing = gap(known)
    if missing is not None:  # a class that no film has would be trained, and sampled
        raise ValueError(f"The cases to train on: {missing}.")
    if len(known) < 2:
        raise ValueError(
            f"The cases to train on have {f'the single class label {min(known)}' if known else 'no class label'}; the "
            "labels must name at least two classes (0 normal, 1 lesion)."
        )
    return dataset


def say_faults(settings: TrainingSettings, dataset: PairDataset) -> None:
    """Warn of the faults that `macdm check` finds and that do not keep the data from being trained on.

    Looked at are the lines of all splits, and the cases to train on, all of which have been decoded (`describe_data`).
    """
    dataset.inspection.compare_all()
    data, faults = data_of(settings), dataset.inspection.report.faults
    if not data.startswith(HUB):
        faults = [*faults_of_lines(data), *faults]
    if faults:
        first, more = faults[0], len(faults) - 1
        others = f", and {more} more fault{'s' if more > 1 else ''}" if more else ""
        logger.warning(
            f"{data} is trained on as it is, and has a fault: {first.file}: {first.reason.rstrip('.')}{others} (`macdm check` "
            "lists every one)."
        )


def describe_data(dataset: PairDataset) -> dict[str, Any]:
    """The facts about the training data that go into the record of the run."""
    labels, counts = np.unique(dataset.labels, return_counts=True)
    known = ["none" if label == dataset.num_classes else str(label) for label in labels]
    patients = {str(patient) for patient in dataset.patient_ids if patient is not None}
    # Decodes every case, which the first epoch would do otherwise.
    digests = []
    with Progress(len(dataset), "read", "case") as progress:
        for index in range(len(dataset)):
            digests.append(dataset.image_sha256(index))
            progress.update()
    names = {"class_names": list(dataset.pairs.class_names)} if dataset.pairs.class_names else {}
    return {
        **names,
        "num_cases": len(dataset),
        "masks": list(dataset.masks),
        "cases_per_label": dict(zip(known, counts.tolist(), strict=True)),
        "num_patients": len(patients) or None,
        # Of the whole set: what was held back, and what --samples_per_class left out.
        "split_sizes": dataset.pairs.split_sizes or None,
        "cases": sorted(dataset.names),
        # For the leak guard (diffusers_macdm.provenance).
        "patients": sorted(patients),
        "image_sha256": dict(sorted(zip(dataset.names, digests, strict=True))),
    }


def earlier_trainings(settings: TrainingSettings, dataset: PairDataset) -> list[dict[str, Any] | None]:
    """Trainings whose cases this one takes over: those of pretrained weights, and those behind synthetic training data."""
    trainings = provenance.trainings_of_data(data_of(settings), dataset.pairs)
    if getattr(settings, "pretrained_unet", None):
        trainings += provenance.trainings_of_weights(settings.pretrained_unet, "unet")
    return [None if training is None else training.to_dict() for training in trainings]


def task_probabilities(settings: TrainingSettings, masks: Sequence[str]) -> tuple[float, ...]:
    """The shares of the tasks for a set with these masks: without lesion outlines the share of insertion practises pairs."""
    shares = tuple(settings.task_probabilities)
    pairs, masks_to_image, image_to_masks, *insertion = shares
    if CHANNELS[LESION_MASK] in masks or not sum(insertion):
        return shares
    return (pairs + sum(insertion), masks_to_image, image_to_masks)


def log_masks(settings: TrainingSettings, masks: Sequence[str]) -> None:
    """Say of a set with one mask that it is trained as such, and what becomes of the share of insertion."""
    words = without_words(masks)
    if words is None:
        return
    moved = "" if CHANNELS[LESION_MASK] in masks else "; nothing is inserted without them, the share of that practises pairs"
    logger.info(f"The data have {words}: the networks learn the radiograph and the other mask{moved}.")


def augmentation_dim(dataset: PairDataset) -> int:
    return AUGMENTATION_DIM if dataset.augmentation is not None else 0
