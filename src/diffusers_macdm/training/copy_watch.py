"""Does the denoiser learn its patients by heart? Two signs of it, watched while it trains.

The gap: denoising loss of validation cases minus that of training cases, by quartile of the noise level. It opens when the
network knows its training cases better than others (Carlini et al., arXiv 2301.13188, sec. 5.1).

The copy rate: share of a small sample that lies closer to a training image than 95 % of the validation images do
(`audit.copies`). A model that copies nobody has a rate of about 5 %.

Everything random in an audit follows from `--seed`: the audits of a run differ by the weights alone, and a resumed run repeats
those of an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audit.copies import CopyDetector
from ..audit.detector import build_detector, unrelated
from ..audit.images import to_audit_size
from ..audit.membership import denoising_errors
from ..audit.radiographs import Radiographs
from ..audit.verdict import far_note, named
from ..data.dataset import PairDataset
from ..files import TEMPORARY_SUFFIX, new_folder, remove_folder, write_json
from ..macdm import MaCDMPipeline
from .data import load_split
from .settings import DenoiserSettings


logger = logging.getLogger("macdm.training")

AUDIT_LOG, BEST, AUDIT_FILE = "audit_log.jsonl", "best", "audit.json"
NOISE_LEVELS = (0.125, 0.375, 0.625, 0.875)  # t / T, the middles of the quartiles


def is_audit_step(settings: DenoiserSettings, step: int) -> bool:
    return settings.audit_steps > 0 and (step % settings.audit_steps == 0 or step == settings.max_train_steps)


def load_validation(settings: DenoiserSettings, training: PairDataset) -> PairDataset | None:
    """The validation split; None where audits are off or there is none.

    Raises:
        ValueError: where there is none, but `--max_copy_rate` needs it.
    """
    if settings.audit_steps == 0:
        return None
    if "validation" not in training.pairs.split_sizes:
        if settings.max_copy_rate is not None:
            raise _cannot_be_held(settings, "the data have no validation split")
        return None
    return PairDataset(load_split(settings, "validation"), settings.resolution, null_label=training.num_classes)


def build_audit(
    settings: DenoiserSettings, training: PairDataset, validation: PairDataset | None, device: torch.device
) -> CopyAudit | None:
    """The audit of this run; None where there can be none, which the log says once.

    Raises:
        ValueError: where there can be none, but `--max_copy_rate` needs it.
    """
    reason = "the data have no validation split"
    if validation is not None:
        try:
            return CopyAudit(settings, training, validation, device)
        except ValueError as error:
            reason = str(error).rstrip(".")
            if settings.max_copy_rate is not None:
                raise _cannot_be_held(settings, reason) from error
    logger.warning(f"This training is not watched for copies: {reason}.")
    return None


def _cannot_be_held(settings: DenoiserSettings, reason: str) -> ValueError:
    return ValueError(f"--max_copy_rate {settings.max_copy_rate} cannot be held: {reason}.")


class CopyAudit:
    """Audits states of the denoiser against the cases that it is trained on.

    Raises:
        ValueError: when fewer than 2 validation images, or none with a label of the training cases, are left to compare with.
    """

    def __init__(self, settings: DenoiserSettings, training: PairDataset, validation: PairDataset, device: torch.device):
        self.settings, self.device = settings, device
        self.num_classes = training.num_classes
        self.training, self.validation = (
            Radiographs.from_dataset(dataset, settings.resolution) for dataset in (training, validation)
        )
        kept, notes = unrelated(self.training, self.validation)
        if len(kept) < 2:
            what = "neither training images nor of patients with training images"
            raise ValueError(f"{len(kept)} of {len(self.validation)} validation images are {what}, at least 2 are needed.")
        for note in notes:
            logger.warning(note)
        chosen = matched_cases(
            self.training.labels, [self.validation.labels[i] for i in kept], settings.audit_cases, settings.seed
        )
        if not chosen[0]:
            raise ValueError("no validation image has a label of the training cases.")
        self.validation = self.validation.select(kept)
        self.cases = [
            (torch.stack([dataset[i]["joint_sample"] for i in indices]), [dataset.labels[i] for i in indices])
            for dataset, indices in ((training, chosen[0]), (validation, [kept[i] for i in chosen[1]]))
        ]
        self._detector: CopyDetector | None = None

    @property
    def detector(self) -> CopyDetector:
        """Built when it is first asked for: a run that ends at a fault of its first steps has not waited for it."""
        if self._detector is None:
            logger.info("The copy audit learns its embedding of the training images.")
            steps, seed = self.settings.embedding_steps, self.settings.seed
            self._detector, _ = build_detector(
                self.training, self.validation, embedding_steps=steps, seed=seed, device=self.device
            )
        return self._detector

    def __call__(self, pipeline: MaCDMPipeline, step: int) -> dict[str, Any]:
        """Audit the pipeline's denoiser.

        Returns:
            `step`, `copy_rate` (`value`, 95 % Wilson `interval`, `copies`, `total`, and the `nominal_rate` of a model that
            copies nobody), `far_rate` likewise (samples that are farther from every training film than real ones are), and
            `train_loss`, `validation_loss` and `gap` with `q0` (nearly clean) to `q3` (nearly noise) each.
            The losses are those of the noise (DDPM eq. 14), whatever the network predicts.

        Raises:
            ValueError: when a loss is not finite.
        """
        train_loss, validation_loss = (
            denoising_errors(pipeline.unet, pipeline.scheduler, samples, labels, NOISE_LEVELS, seed=self.settings.seed).mean(
                axis=0
            )
            for samples, labels in self.cases
        )
        if not np.isfinite([train_loss, validation_loss]).all():
            raise ValueError(f"The denoising loss is not finite at the audit of step {step}: lower --learning_rate.")
        images = to_audit_size(self._samples(pipeline), self.settings.resolution)
        shares = self.detector.shares(self.detector.gallery.compare(images))
        return {
            "step": step,
            "copy_rate": named(shares["copies"], "copies"),
            "far_rate": named(shares["far"], "far"),
            "train_loss": _quartiles(train_loss),
            "validation_loss": _quartiles(validation_loss),
            "gap": _quartiles(validation_loss - train_loss),
        }

    def _samples(self, pipeline: MaCDMPipeline) -> list[np.ndarray]:
        """Radiographs `[H, W]` in [0, 1]: all labels in turn, the same noise each time, unguided."""
        training = pipeline.unet.training
        pipeline.unet.eval()
        images, count, size = [], self.settings.audit_samples, self.settings.train_batch_size
        for first in range(0, count, size):
            numbers = range(first, min(first + size, count))
            output = pipeline(
                class_labels=[number % self.num_classes for number in numbers],
                num_inference_steps=self.settings.ddpm_num_inference_steps,
                generator=[torch.Generator().manual_seed(self.settings.seed + number) for number in numbers],
                refine_masks=False,
                output_type="np",
            )
            images.extend(output.images[..., 0])
        pipeline.unet.train(training)
        return images


def matched_cases(first: Sequence[int], second: Sequence[int], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw up to `count` cases from either side by its labels, equally many of each label on both sides.

    A case with a lesion is harder than one without: with other shares of them the losses could not be compared."""
    generator = np.random.default_rng([seed, 0])
    groups = []
    for label in sorted(set(first) & set(second)):
        sides = [generator.permutation(np.flatnonzero(np.asarray(labels) == label)) for labels in (first, second)]
        groups.append(list(zip(*(side.tolist() for side in sides), strict=False)))  # as many as the smaller side has
    drawn: list[tuple[int, int]] = []
    for visit in range(max(map(len, groups), default=0)):  # the labels in turn, for as long as they last
        drawn += [group[visit] for group in groups if visit < len(group)]
    return [a for a, _ in drawn[:count]], [b for _, b in drawn[:count]]


def _quartiles(values: np.ndarray) -> dict[str, float]:
    return {f"q{q}": float(value) for q, value in enumerate(values)}


def tracked(audit: dict[str, Any]) -> dict[str, float]:
    """The numbers of an audit under the names that the tracker shows."""
    values = {f"audit/{n}/{q}": value for n in ("train_loss", "validation_loss", "gap") for q, value in audit[n].items()}
    low, high = audit["copy_rate"]["interval"]
    rate = {"audit/copy_rate": audit["copy_rate"]["value"], "audit/copy_rate/low": low, "audit/copy_rate/high": high}
    return values | rate | {"audit/far_rate": audit["far_rate"]["value"]}


# ------------------------------------------------------------------------------------------------------ the best state


def is_better(audit: dict[str, Any], kept: dict[str, Any] | None, max_copy_rate: float) -> bool:
    """Whether an audited state replaces the one kept so far: not above the copy rate, with a smaller mean validation loss."""
    if audit["copy_rate"]["value"] > max_copy_rate:
        return False
    return kept is None or _mean_loss(audit) < _mean_loss(kept)


def _mean_loss(audit: dict[str, Any]) -> float:
    return math.fsum(audit["validation_loss"].values()) / len(audit["validation_loss"])


class BestState:
    """`OUT/best`: the denoiser that is kept, and `audit.json`.

    Each checkpoint takes a copy along, so that a resumed run goes on with the one that was kept at that step.
    """

    def __init__(self, output_dir: Path, max_copy_rate: float):
        self.folder, self.max_copy_rate = output_dir / BEST, max_copy_rate

    @property
    def audit(self) -> dict[str, Any] | None:
        path = self.folder / AUDIT_FILE
        return json.loads(path.read_text()) if path.is_file() else None

    def consider(self, audit: dict[str, Any], pipeline: MaCDMPipeline) -> bool:
        """Keep the pipeline's denoiser if it is better than the one kept so far."""
        if not is_better(audit, self.audit, self.max_copy_rate):
            return False
        with new_folder(self.folder) as temporary:
            pipeline.unet.save_pretrained(temporary / "unet")
            write_json(temporary / AUDIT_FILE, audit)
        return True

    def save_to(self, checkpoint: Path) -> None:
        if self.folder.is_dir():
            shutil.copytree(self.folder, checkpoint / BEST)

    def restore_from(self, checkpoint: Path | None) -> None:
        """What was kept at a checkpoint, or nothing at the beginning, and what `--max_copy_rate` now forbids."""
        shutil.rmtree(self.folder.with_name(f"{BEST}.old{TEMPORARY_SUFFIX}"), ignore_errors=True)
        if checkpoint is not None and (checkpoint / BEST / AUDIT_FILE).is_file():
            kept = json.loads((checkpoint / BEST / AUDIT_FILE).read_text())
            if is_better(kept, None, self.max_copy_rate):
                with new_folder(self.folder) as temporary:
                    shutil.copytree(checkpoint / BEST, temporary, dirs_exist_ok=True)
                return
        if self.folder.is_dir():
            remove_folder(self.folder)


def audits_of_run(output_dir: Path, best: BestState | None) -> dict[str, Any]:
    """Return what the record of the run says of its audits: the last one, and that of the state which is kept."""
    lines = (output_dir / AUDIT_LOG).read_text().splitlines()
    return {"last": json.loads(lines[-1]) if lines else None, "kept": None if best is None else best.audit}


def sentence(audit: dict[str, Any]) -> str:
    rate = audit["copy_rate"]
    low, high = rate["interval"]
    gaps = " ".join(f"{value:+.4f}" for value in audit["gap"].values())
    far = far_note("this state", audit["far_rate"]["far"], audit["far_rate"]["total"])
    return (
        f"Audit at step {audit['step']}: {rate['copies']} of {rate['total']} samples are closer to a training image than 95 % "
        f"of validation images ({rate['value']:.0%}, 95 % interval {low:.0%} to {high:.0%}; chance gives "
        f"{rate['nominal_rate']:.0%}). Validation loss minus training loss by quartile of the noise level: {gaps}."
        + ("" if far is None else f" {far}")
    )
