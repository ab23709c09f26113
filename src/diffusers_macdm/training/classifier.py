"""Train the noise-aware guidance classifier `p_phi(y | I_t, t)` of MaC-DM under `accelerate launch`.

    accelerate launch -m diffusers_macdm.training.classifier --train_data_dir data --resolution 128 --patch_size 2 \\
        --output_dir macdm-model

The classifier is written to `--output_dir`/guidance_classifier. Where `--output_dir` holds a trained pipeline, it becomes
that pipeline's component; where it does not yet, the denoiser's training with the same `--output_dir` takes it from there.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel

from ..data.dataset import PairDataset
from ..files import new_folder, write_json
from ..macdm import GuidanceClassifier, MaCDMUNet2DModel
from ..macdm.forward_process import TASKS, ForwardProcess
from ..macdm.joint_sample import ANATOMY_MASK, MASKS, RADIOGRAPH, masks_of, to_signal
from ..macdm.training_losses import ClassificationLoss, known_mask, without_masks
from ..seeds import derived_seed
from .averages import by_quartile
from .checkpoints import append_line, check_fits, prepare_output, truncate_log
from .data import describe_data, earlier_trainings, load_split, load_training_data, log_masks, say_faults, task_probabilities
from .loop import parse_settings, run_script, running, train
from .networks import build_classifier, check_same_process, timestep_probabilities, training_scheduler
from .processes import end_training, on_main
from .records import begin_record, prepare_push, print_record, push, record, record_before, record_of_run
from .settings import ClassifierSettings
from .stopping import Stopping
from .trainer import Trainer


logger = logging.getLogger("macdm.training")

NETWORK, RECORD = "guidance_classifier", "guidance_classifier_training_config.json"
CHECKPOINTS, VALIDATION_LOG = "guidance_classifier_checkpoints", "guidance_classifier_validation.jsonl"
LEVELS = (0.1, 0.2, 0.4, 0.6, 0.8)  # t / T of the radiograph in the validation
JOINT_SAMPLE, FILM_ALONE = "joint_sample", "radiograph_alone"  # what the classifier is shown there


def noise_levels(settings: ClassifierSettings, process: ForwardProcess) -> torch.Tensor | None:
    """How often the classifier is shown each timestep, `[T]`: half as the denoiser is, half all alike; None is all alike.

    The denoiser's lognormal levels leave 6 % of the cases to the noisier 40 % of the timesteps. It loses little there, but the
    sampler takes 40 % of its steps there, the first ones, with guidance at full strength: the classifier has to know
    how little it can tell, or its gradient would be that of a network that was never there.
    """
    probabilities = timestep_probabilities(settings, process)
    return None if probabilities is None else (probabilities + 1 / process.num_timesteps) / 2


def classification_loss(settings: ClassifierSettings, process: ForwardProcess, config, accelerator: Accelerator | None = None):
    """`loss(classifier, batch, draws)` -> loss and values to log, as `Trainer` takes it."""
    loss = ClassificationLoss(
        process, config, task_probabilities(settings, masks_of(config)), settings.mask_dropout, noise_levels(settings, process)
    )

    def with_values(classifier, batch, draws=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = loss(classifier, batch, draws)
        total = terms.total
        if accelerator is not None and accelerator.num_processes > 1:
            # The mean over the labeled cases of all processes, which may have unequally many; accelerate takes that of means.
            known = (batch["class_label"] < config.num_classes).sum().float()
            total = total * known * accelerator.num_processes / accelerator.reduce(known, reduction="sum").clamp(min=1)
        values = {"accuracy": terms.accuracy, f"accuracy/{FILM_ALONE}": terms.accuracy.where(terms.masks_dropped, torch.nan)}
        values |= by_quartile("accuracy", terms.accuracy, terms.level, process.num_timesteps)
        values |= by_quartile("cross_entropy", terms.cross_entropy, terms.level, process.num_timesteps)
        return total, values

    return with_values


# ---------------------------------------------------------------------------------------------------------- validation


def load_validation(settings: ClassifierSettings, training: PairDataset) -> PairDataset | None:
    """The validation split; None where `--validation_steps` is 0 or there is no split."""
    if settings.validation_steps == 0 or "validation" not in training.pairs.split_sizes:
        return None
    return PairDataset(load_split(settings, "validation"), settings.resolution, null_label=training.num_classes)


@dataclass
class Validation:
    """Classifies the validation cases after some of the updates, and logs the result; an `after_step` of `train`.

    The noise of a case follows from `--seed` and its number alone, by a generator of its own: all states of a run and all
    noise levels see the same noise, and the training's random numbers are what they are without a validation.

    Attributes:
        settings, accelerator: Those of the training.
        process: The process that noises the cases, on their device.
        dataset: The validation split.
        indices: Its labeled cases of classes that the classifier knows.
    """

    settings: ClassifierSettings
    accelerator: Accelerator
    process: ForwardProcess
    dataset: PairDataset
    indices: list[int]

    def __call__(self, step: int, classifier: GuidanceClassifier, ema: EMAModel | None) -> bool:
        """Validate after update `step`, on the main process, the weights that would be saved; never ends the training."""
        settings = self.settings
        due = step % settings.validation_steps == 0 or step == settings.max_train_steps
        if not due or not self.accelerator.is_main_process:
            return False
        training, parameters = classifier.training, list(classifier.parameters())
        classifier.eval()
        if ema is not None:
            ema.store(parameters)
            ema.copy_to(parameters)
        result = {"step": step, **self.measure(classifier)}
        if ema is not None:
            ema.restore(parameters)  # the very bits that were stored
        classifier.train(training)
        append_line(Path(settings.output_dir) / VALIDATION_LOG, result)
        self.accelerator.log(tracked(result), step=step)
        logger.info(sentence(result))
        return False

    @torch.no_grad()
    def measure(self, classifier: GuidanceClassifier) -> dict[str, Any]:
        """Classify all cases at `LEVELS` of the radiograph's noise.

        Returns:
            `cases` (their number for each label) and, for `joint_sample` (masks at the radiograph's timestep) and
            `radiograph_alone` (masks of pure noise), `accuracy`, `balanced_accuracy` (the mean over the labels) and
            `cross_entropy` by timestep, "t100" and so on.

        Raises:
            ValueError: when a cross-entropy is not finite.
        """
        labels = torch.tensor([self.dataset.labels[i] for i in self.indices])  # [N]
        values, counts = labels.unique(return_counts=True)
        result: dict[str, Any] = {"cases": {str(v): n for v, n in zip(values.tolist(), counts.tolist(), strict=True)}}
        for view in (JOINT_SAMPLE, FILM_ALONE):
            result[view] = {"accuracy": {}, "balanced_accuracy": {}, "cross_entropy": {}}
        size, last = self.settings.train_batch_size, self.process.num_timesteps - 1
        logits: dict[tuple[str, int], list[torch.Tensor]] = {}
        for first in range(0, len(self.indices), size):
            batch = self._batch(self.indices[first : first + size], classifier.config)
            for level in LEVELS:
                timestep = min(round(level * self.process.num_timesteps), last)
                for view in (JOINT_SAMPLE, FILM_ALONE):
                    logits.setdefault((view, timestep), []).append(self._classify(classifier, *batch, timestep, view))
        for (view, timestep), parts in logits.items():
            for name, value in scores(torch.cat(parts), labels).items():
                result[view][name][f"t{timestep}"] = value
        if not all(math.isfinite(v) for view in (JOINT_SAMPLE, FILM_ALONE) for v in result[view]["cross_entropy"].values()):
            raise ValueError("The cross-entropy of the validation cases is not finite: lower --learning_rate.")
        return result

    def _batch(self, indices: list[int], config) -> tuple[torch.Tensor, torch.Tensor]:
        """What the process noises, and its noise; each `[B, 3, H, W]`."""
        clean = to_signal(torch.stack([self.dataset[i]["joint_sample"] for i in indices]), config)
        generators = [torch.Generator().manual_seed(derived_seed(self.settings.seed, i)) for i in indices]
        noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators])
        return clean.to(self.accelerator.device), noise.to(self.accelerator.device)

    def _classify(self, classifier, clean: torch.Tensor, noise: torch.Tensor, timestep: int, view: str) -> torch.Tensor:
        """Logits `[B, K]`, float32 on the CPU."""
        timesteps = torch.full(clean.shape[:2], timestep, device=clean.device)  # [B, 3]
        known = known_mask(classifier.config, clean.device)  # [3]
        noised = known.expand_as(timesteps)  # [B, 3]
        if view == FILM_ALONE:
            every = torch.ones_like(noised[:, 0])  # [B]
            clean, timesteps, noised = without_masks(clean, timesteps, noised, every, self.process.num_timesteps, known)
        noisy = self.process.sample(clean, timesteps, noised, noise).noisy
        output = classifier(noisy, timesteps[:, RADIOGRAPH], mask_timestep=timesteps[:, ANATOMY_MASK])
        return output.logits.float().cpu()


def scores(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Accuracy, its mean over the labels that there are, and cross-entropy; `logits` `[N, K]`, `labels` `[N]`."""
    correct = (logits.argmax(dim=1) == labels).double()  # [N]
    return {
        "accuracy": correct.mean().item(),
        "balanced_accuracy": torch.stack([correct[labels == label].mean() for label in labels.unique()]).mean().item(),
        "cross_entropy": F.cross_entropy(logits.double(), labels).item(),
    }


def tracked(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of a validation under the names that the tracker shows."""
    return {
        f"validation/{view}/{name}/{timestep}": value
        for view in (JOINT_SAMPLE, FILM_ALONE)
        for name, values in result[view].items()
        for timestep, value in values.items()
    }


def sentence(result: dict[str, Any]) -> str:
    """The line of the log about a validation."""
    joint, film = (result[view]["balanced_accuracy"] for view in (JOINT_SAMPLE, FILM_ALONE))
    percent = [" ".join(f"{value:.0%}" for value in values.values()) for values in (joint, film)]
    return (
        f"Validation at step {result['step']}: of {sum(result['cases'].values())} cases, balanced accuracy with the masks "
        f"{percent[0]}, of the radiograph alone {percent[1]}, at {' '.join(joint)} (guessing: {1 / len(result['cases']):.0%})."
    )


def validation_for(
    settings: ClassifierSettings,
    accelerator: Accelerator,
    process: ForwardProcess,
    dataset: PairDataset | None,
    num_classes: int,
) -> Validation | None:
    """Prepare the validation; None where there is nothing to classify."""
    indices = [] if dataset is None else [i for i, label in enumerate(dataset.labels) if label < num_classes]
    if not indices:
        return None
    return Validation(settings, accelerator, process, dataset, indices)


# ------------------------------------------------------------------------------------------------------------ training


def check_against_pipeline(settings: ClassifierSettings, classifier: GuidanceClassifier) -> None:
    """Refuse to become part of a pipeline whose denoiser is fed otherwise."""
    output_dir = Path(settings.output_dir)
    if not (output_dir / "model_index.json").is_file():
        return
    theirs = MaCDMUNet2DModel.load_config(output_dir / "unet")
    for name in ("sample_size", "channel_weights", "mask_weighting", "masks"):
        their, our = theirs.get(name, list(MASKS)), classifier.config[name]  # masks: of a model of an earlier version
        if (list(our) if isinstance(our, tuple) else our) != their:
            raise ValueError(
                f"The denoiser in {output_dir} was trained with {name}={their}, this run has {our}: both must be fed alike."
            )
    if theirs["num_class_embeds"] != classifier.config.num_classes + 1:
        raise ValueError(
            f"The denoiser in {output_dir} knows {theirs['num_class_embeds'] - 1} classes, the data have "
            f"{classifier.config.num_classes}."
        )
    check_same_process(settings, output_dir / "scheduler" / "scheduler_config.json")


def add_to_pipeline(output_dir: Path) -> None:
    """Name the classifier in the pipeline's `model_index.json`, if there is a pipeline."""
    path = output_dir / "model_index.json"
    if path.is_file():
        index = json.loads(path.read_text())
        index["guidance_classifier"] = ["macdm", GuidanceClassifier.__name__]
        write_json(path, index)


def resolve(settings: ClassifierSettings) -> dict[str, Any]:
    """Everything that the run depends on, as plain data: the arguments, the data, the network."""
    settings.check()
    dataset = load_training_data(settings)
    validation = load_validation(settings, dataset)
    set_seed(settings.seed)
    classifier = build_classifier(settings, dataset.num_classes, dataset.masks)
    check_against_pipeline(settings, classifier)
    configuration = record(
        settings,
        data=describe_data(dataset),
        earlier_trainings=earlier_trainings(settings, dataset),
        tasks=dict(zip(TASKS, task_probabilities(settings, dataset.masks), strict=False)),  # the last may be left out
        guidance_classifier={**classifier.config, "num_parameters": classifier.num_parameters()},
        scheduler=dict(training_scheduler(settings).config),
    )
    return {"configuration": configuration, "dataset": dataset, "validation": validation, "classifier": classifier}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the guidance classifier that the options ask for (those of the process when None)."""
    settings = parse_settings(ClassifierSettings, argv)
    resolved = resolve(settings)
    if settings.dry_run:
        print_record(settings, resolved["configuration"])
        return
    with running(settings, Path(settings.output_dir) / CHECKPOINTS) as (accelerator, stopping):
        run(settings, resolved, accelerator, stopping)


def run(settings: ClassifierSettings, resolved: dict[str, Any], accelerator: Accelerator, stopping: Stopping) -> None:
    """Train what was resolved, on all processes."""
    configuration, dataset, classifier = resolved["configuration"], resolved["dataset"], resolved["classifier"]
    output_dir = Path(settings.output_dir)
    finished, checkpoints = output_dir / "guidance_classifier", output_dir / CHECKPOINTS
    resume = on_main(accelerator, prepare_output, settings, finished, checkpoints)
    if resume is not None:
        check_fits(resume, settings, classifier.config, configuration["scheduler"], record_before(NETWORK, resume))
    check_against_pipeline(settings, classifier)  # again, now that nobody else writes here: there may be one since
    process = ForwardProcess.from_scheduler(training_scheduler(settings)).to(accelerator.device)
    validation = validation_for(settings, accelerator, process, resolved["validation"], dataset.num_classes)
    loss = classification_loss(settings, process, classifier.config, accelerator)
    log_path = output_dir / "guidance_classifier_training_log.jsonl"
    trainer = Trainer(settings, accelerator, classifier, loss, checkpoints=checkpoints, log_path=log_path, resume=resume)
    repository = on_main(accelerator, prepare_push, settings)
    # Nothing was written until here: what cannot be gone on with leaves every record as it was.
    content = record_of_run(NETWORK, configuration, accelerator, resume, trainer.step)
    if validation is not None:
        on_main(accelerator, truncate_log, output_dir / VALIDATION_LOG, trainer.step)
    on_main(accelerator, begin_record, output_dir / RECORD, content, finished)
    on_main(accelerator, say_faults, settings, dataset)
    counts = configuration["data"]["cases_per_label"]
    log_masks(settings, dataset.masks)
    millions = classifier.num_parameters() / 1e6
    logger.info(f"{len(dataset)} cases {counts}, {millions:.2f} M parameters, on {accelerator.device}.")

    def write(checkpoint: Path) -> None:
        write_json(checkpoint / RECORD, content)

    train(trainer, dataset, stopping, configuration=configuration, write=write, after_step=validation)
    if accelerator.is_main_process:
        finish(settings, trainer, content)
        if repository is not None:
            push(settings, repository)
    end_training(accelerator)


def finish(settings: ClassifierSettings, trainer: Trainer, content: dict[str, Any]) -> None:
    """Write the classifier and its record, and name it in the pipeline that is there; on the main process."""
    output_dir, classifier = Path(settings.output_dir), trainer.model
    trainer.refuse_not_finite("No classifier is written")
    if trainer.ema is not None:
        trainer.ema.copy_to(classifier.parameters())
    with new_folder(output_dir / "guidance_classifier") as folder:
        classifier.save_pretrained(folder)
        training_scheduler(settings).save_config(folder)  # the noise it was trained on
    write_json(output_dir / RECORD, content)
    add_to_pipeline(output_dir)
    logger.info(f"Saved the classifier to {output_dir / 'guidance_classifier'}.")


if __name__ == "__main__":
    run_script(main)
