"""A detector of copies of training images, with the validation images that it may be calibrated on."""

from __future__ import annotations

import torch

from .copies import CopyDetector
from .embedding import CopyEmbedding, train_embedding
from .neighbours import Gallery
from .radiographs import Radiographs
from .settings import EMBEDDING_STEPS


def unrelated(training: Radiographs, validation: Radiographs) -> tuple[list[int], list[str]]:
    """Return the numbers of the validation images that may be compared with, and notes on those that may not.

    Left out are validation images that are training images, pixel by pixel, and those of patients who have training images:
    they would make a copy look ordinary.
    """
    notes = []
    known = {image.numpy().tobytes() for image in training.images}
    patients = {patient for patient in training.patients if patient is not None}
    same = [i for i, image in enumerate(validation.images) if image.numpy().tobytes() in known]
    shared = [i for i, patient in enumerate(validation.patients) if patient in patients and i not in same]
    for left_out, why in ((same, "stand in the training split, too"), (shared, "are of patients with training images")):
        if left_out:
            named = ", ".join(validation.names[i] for i in left_out[:10]) + (" and others" if len(left_out) > 10 else "")
            notes.append(f"{len(left_out)} validation images {why} and were left out of the comparison: {named}.")
    return [i for i in range(len(validation)) if i not in {*same, *shared}], notes


def build_detector(
    training: Radiographs,
    validation: Radiographs,
    *,
    embedding: CopyEmbedding | None = None,
    embedding_steps: int = EMBEDDING_STEPS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> tuple[CopyDetector, list[str]]:
    """Build a detector of copies of these training images.

    Args:
        training: images that trained the model.
        validation: images of other patients; what is not (see `unrelated`) is left out.
        embedding: one that was trained on these training images; trained here when None.
        embedding_steps, seed: steps and seed of its training.
        device: device of the embedding.
        progress: whether to show on stderr how far the work is.

    Returns:
        The detector, and notes on what was left out.

    Raises:
        ValueError: when fewer than 2 validation images are left.
    """
    kept, notes = unrelated(training, validation)
    null = validation.select(kept)
    if embedding is None:
        embedding = train_embedding(training.images, embedding_steps, seed, device=device, progress=progress)
    gallery = Gallery(training.images, training.patients, embedding.to(device))
    return CopyDetector(gallery, gallery.compare(null.images, progress="validation images" if progress else None)), notes
