"""Train the denoiser of MaC-DM (arXiv 2311.13688) under `accelerate launch`.

    accelerate launch -m diffusers_macdm.training.denoiser --train_data_dir data --resolution 128 --patch_size 2 \\
        --output_dir macdm-model

`--output_dir` ends as a folder that `MaCDMPipeline.from_pretrained` loads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed

from ..files import new_folder, replace_file, replace_folder, scratch_folder, write_json
from ..macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel
from ..macdm.forward_process import TASKS, ForwardProcess
from ..macdm.joint_sample import CHANNELS, masks_of
from ..macdm.training_losses import DenoisingLoss
from ..report.contact_sheet import contact_sheet, save
from . import copy_watch
from .averages import by_quartile
from .checkpoints import append_line, check_fits, is_seen, prepare_output, truncate_log
from .data import (
    augmentation_dim,
    describe_data,
    earlier_trainings,
    load_training_data,
    log_masks,
    say_faults,
    task_probabilities,
)
from .formulations import hybrid_loss
from .loop import parse_settings, run_script, running, train
from .networks import build_unet, find_classifier, timestep_probabilities, training_scheduler
from .processes import end_training, on_main
from .records import (
    begin_record,
    keep_classifier_record,
    prepare_push,
    print_record,
    push,
    record,
    record_before,
    record_of_run,
)
from .settings import DenoiserSettings
from .stopping import Interrupted, Stopping
from .trainer import Trainer


logger = logging.getLogger("macdm.training")

NETWORK, RECORD = "unet", "training_config.json"


def denoising_loss(settings: DenoiserSettings, process: ForwardProcess, config, features):
    """`loss(unet, batch, draws)` -> loss and values to log, as `Trainer` takes it."""
    loss = DenoisingLoss(
        hybrid_loss(settings),
        process,
        config,
        task_probabilities(settings, masks_of(config)),
        settings.class_dropout,
        settings.class_dropout_image_to_masks,
        features,
        timestep_probabilities(settings, process),
    )

    def with_values(unet, batch, draws=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms, timesteps = loss(unet, batch, draws)
        values = {f"simple/{name}": terms.simple[:, c] for c, name in enumerate(CHANNELS)}
        for c, name in enumerate(CHANNELS):
            values |= by_quartile(f"simple/{name}", terms.simple[:, c], timesteps[:, c], process.num_timesteps)
        if terms.vlb is not None:
            values["vlb"] = terms.vlb
        if terms.perceptual is not None:
            values["perceptual"] = terms.perceptual
        return terms.total, values

    return with_values


def build_pipeline(settings, unet, ema, classifier, weak_unet=None) -> MaCDMPipeline:
    """A pipeline of the averaged weights; the training goes on with its own."""
    if ema is not None:
        averaged = MaCDMUNet2DModel.from_config(unet.config).to(unet.device)
        averaged.load_state_dict(unet.state_dict())
        ema.copy_to(averaged.parameters())
        unet = averaged
    scheduler = training_scheduler(settings, settings.prediction_type, settings.learned_variance)
    pipeline = MaCDMPipeline(unet, scheduler, classifier, weak_unet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_samples(settings, accelerator, pipeline: MaCDMPipeline, num_classes: int, step: int) -> None:
    """Write a grid of samples, all labels in turn and the same noise each time, and hand it to the tracker."""
    count = settings.num_validation_samples
    labels = [i % num_classes for i in range(count)]
    training = pipeline.unet.training
    pipeline.unet.eval()
    output = pipeline(
        class_labels=labels,
        num_inference_steps=settings.ddpm_num_inference_steps,
        guidance_scale=settings.guidance_scale if pipeline.guidance_classifier is not None else 0.0,
        generator=[torch.Generator().manual_seed(settings.seed + i) for i in range(count)],
        refine_masks=False,
        output_type="np",
    )
    pipeline.unet.train(training)
    sheet = contact_sheet(
        np.rint(output.images[..., 0] * 255).astype(np.uint8),
        *(None if masks is None else masks[..., 0] > 0 for masks in (output.anatomy_masks, output.lesion_masks)),
        captions=[f"label {label}" for label in labels],
        columns=4,
        side_by_side=True,
    )
    path = Path(settings.output_dir) / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(sheet, path)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_image("samples", np.asarray(sheet.convert("RGB")), step, dataformats="HWC")


def save_pipeline(output_dir: Path, pipeline: MaCDMPipeline, content: dict[str, Any]) -> None:
    """Write pipeline and record under a temporary name, then move them into `output_dir`, `model_index.json` last."""
    with scratch_folder(output_dir) as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        write_json(folder / RECORD, content)
        for part in sorted(folder.iterdir(), key=lambda path: path.name == "model_index.json"):
            if part.is_dir():
                replace_folder(part, output_dir / part.name)
            else:
                replace_file(part, output_dir / part.name)


def resolve(settings: DenoiserSettings) -> dict[str, Any]:
    """Everything that the run depends on, as plain data: the arguments, the data, the network."""
    settings.check()
    dataset = load_training_data(settings)
    validation = copy_watch.load_validation(settings, dataset)
    set_seed(settings.seed)
    unet = build_unet(settings, dataset.num_classes, augmentation_dim(dataset), dataset.masks)
    classifier = find_classifier(settings, dataset.num_classes, dataset.masks)
    hybrid_loss(settings)
    scheduler = training_scheduler(settings, settings.prediction_type, settings.learned_variance)
    configuration = record(
        settings,
        data=describe_data(dataset),
        earlier_trainings=earlier_trainings(settings, dataset),
        tasks=dict(zip(TASKS, task_probabilities(settings, dataset.masks), strict=False)),  # the last may be left out
        unet={**unet.config, "num_parameters": unet.num_parameters()},
        guidance_classifier=None if classifier is None else dict(classifier.config),
        scheduler=dict(scheduler.config),
    )
    return {
        "configuration": configuration,
        "dataset": dataset,
        "validation": validation,
        "unet": unet,
        "classifier": classifier,
    }


@dataclass
class Watch:
    """What looks at the denoiser after each update: the grid of samples, the weak snapshot, the copy audit.

    Attributes:
        audit: the copy audit, on the main process of a run that has one.
        best: the state that is kept, on the main process of a run with `--max_copy_rate`.
        is_audited: whether there are audits at all, on every process.
        stopping: what cuts a look short when the training is to end.
    """

    settings: DenoiserSettings
    accelerator: Accelerator
    num_classes: int
    classifier: GuidanceClassifier | None
    audit: copy_watch.CopyAudit | None
    best: copy_watch.BestState | None
    is_audited: bool
    stopping: Stopping

    def __call__(self, step: int, unet, ema) -> bool:
        """Look at the state after update `step`; True, the same on all processes, ends the training.

        Raises:
            Interrupted: on all processes, when the training is to end; the look is to be taken again.
        """
        is_audit_step = self.is_audited and copy_watch.is_audit_step(self.settings, step)
        ends, number = False, 0
        if self.accelerator.is_main_process:
            try:
                self._show_and_keep(step, unet, ema)
                if is_audit_step and self.audit is not None:
                    rate = self._audit(step, build_pipeline(self.settings, unet, ema, None))
                    # At the last step there is nothing to stop.
                    too_high = self.settings.stop_above_max_copy_rate and rate > self.settings.max_copy_rate
                    ends = too_high and step < self.settings.max_train_steps
            except Interrupted as interrupted:
                number = interrupted.number
        if is_audit_step or self._is_sample_step(step):  # here all others wait
            ends, number = broadcast_object_list([ends, number])
        if number:
            raise Interrupted(number)
        return ends

    def _is_sample_step(self, step: int) -> bool:
        return step % self.settings.validation_steps == 0 or step in self.settings.early_validation_steps

    def _show_and_keep(self, step: int, unet, ema) -> None:
        settings = self.settings
        if step == settings.weak_unet_step:
            with new_folder(Path(settings.output_dir) / "weak_unet") as folder:
                build_pipeline(settings, unet, ema, None).unet.save_pretrained(folder)
        if self._is_sample_step(step):
            pipeline = build_pipeline(settings, unet, ema, self.classifier)
            with self.stopping.interruptible():
                draw_samples(settings, self.accelerator, pipeline, self.num_classes, step)

    def _audit(self, step: int, pipeline: MaCDMPipeline) -> float:
        with self.stopping.interruptible():
            result = self.audit(pipeline, step)
        append_line(Path(self.settings.output_dir) / copy_watch.AUDIT_LOG, result)
        self.accelerator.log(copy_watch.tracked(result), step=step)
        logger.info(copy_watch.sentence(result))
        if self.best is not None:
            self.best.consider(result, pipeline)
        return result["copy_rate"]["value"]

    def take_up(self, step: int, resume: Path | None) -> None:
        """Go on from the checkpoint that is resumed, or begin; on the main process, the first thing that is written."""
        if self.audit is not None:
            audited = step if resume is None or is_seen(resume) else step - 1
            truncate_log(Path(self.settings.output_dir) / copy_watch.AUDIT_LOG, audited)
        if self.best is not None:
            self.best.restore_from(resume)


def watch_for(settings: DenoiserSettings, accelerator: Accelerator, resolved: dict[str, Any], stopping: Stopping) -> Watch:
    """Prepare what looks at the denoiser.

    Raises:
        ValueError: when the copy rate cannot be held.
    """
    audit = best = None
    if accelerator.is_main_process and settings.audit_steps:
        audit = copy_watch.build_audit(settings, resolved["dataset"], resolved["validation"], accelerator.device)
        if settings.max_copy_rate is not None:
            best = copy_watch.BestState(Path(settings.output_dir), settings.max_copy_rate)
    is_audited = resolved["validation"] is not None
    num_classes = resolved["dataset"].num_classes
    return Watch(settings, accelerator, num_classes, resolved["classifier"], audit, best, is_audited, stopping)


def check_weak_unet(settings: DenoiserSettings, step: int, resume: Path | None) -> None:
    """Raise `ValueError` when the checkpoint that is resumed is beyond the weak snapshot, and none was kept."""
    missed = settings.weak_unet_step is not None and settings.weak_unet_step <= step
    if missed and not (Path(settings.output_dir) / "weak_unet").is_dir():
        raise ValueError(
            f"--weak_unet_step {settings.weak_unet_step} is not allowed: {resume} is beyond it, and no weak_unet was kept."
        )


def finish(
    settings: DenoiserSettings, accelerator: Accelerator, watch: Watch, trainer: Trainer, content: dict[str, Any]
) -> None:
    """Write the pipeline, of the last state or of the one that the copy audits chose, and its record; on the main process.

    Args:
        content: the record of the run.

    Raises:
        ValueError: when no audited state has a copy rate that is allowed.
    """
    output_dir, unet, ema = Path(settings.output_dir), trainer.model, trainer.ema
    trainer.refuse_not_finite("No pipeline is written")
    if watch.audit is not None:
        content = {**content, "audit": copy_watch.audits_of_run(output_dir, watch.best)}
    if watch.best is not None:
        kept = watch.best.audit
        if kept is None:
            begin_record(output_dir / RECORD, content, output_dir / "model_index.json")
            end_training(accelerator)
            raise ValueError(
                f"none of the audited states has a copy rate of at most --max_copy_rate {settings.max_copy_rate} (see "
                f"{output_dir / copy_watch.AUDIT_LOG}): no pipeline was written, the checkpoints are still there."
            )
        unet, ema = MaCDMUNet2DModel.from_pretrained(watch.best.folder / "unet"), None
        rate = kept["copy_rate"]["value"]
        logger.info(f"The pipeline is the denoiser of step {kept['step']}, with a copy rate of {rate:.0%}.")
    weak_unet = None
    # It is not there where the training was stopped before.
    if settings.weak_unet_step is not None and (output_dir / "weak_unet").is_dir():
        weak_unet = MaCDMUNet2DModel.from_pretrained(output_dir / "weak_unet")
    pipeline = build_pipeline(settings, unet, ema, watch.classifier, weak_unet)
    if watch.classifier is not None:
        keep_classifier_record(watch.classifier.config["_name_or_path"], output_dir)
    save_pipeline(output_dir, pipeline, content)
    logger.info(f"Saved the pipeline to {output_dir}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Train the denoiser that the options ask for (those of the process when None)."""
    settings = parse_settings(DenoiserSettings, argv)
    resolved = resolve(settings)
    if settings.dry_run:
        print_record(settings, resolved["configuration"])
        return
    with running(settings, Path(settings.output_dir)) as (accelerator, stopping):
        run(settings, resolved, accelerator, stopping)


def run(settings: DenoiserSettings, resolved: dict[str, Any], accelerator: Accelerator, stopping: Stopping) -> None:
    """Train what was resolved, on all processes."""
    configuration, dataset, unet = resolved["configuration"], resolved["dataset"], resolved["unet"]
    output_dir = Path(settings.output_dir)
    finished = output_dir / "model_index.json"
    resume = on_main(accelerator, prepare_output, settings, finished, output_dir)
    if resume is not None:
        check_fits(resume, settings, unet.config, configuration["scheduler"], record_before(NETWORK, resume))
    # Again, now that nobody else writes here: its training may have ended since.
    classifier = find_classifier(settings, dataset.num_classes, dataset.masks)
    configuration = {**configuration, "guidance_classifier": None if classifier is None else dict(classifier.config)}
    watch = watch_for(settings, accelerator, {**resolved, "classifier": classifier}, stopping)
    features = None
    if watch.classifier is not None:
        watch.classifier.to(accelerator.device)
        if settings.lambda_perceptual:
            features = lambda joint_sample: watch.classifier.features(joint_sample, timestep=0)  # noqa: E731
    scheduler = training_scheduler(settings, settings.prediction_type, settings.learned_variance)
    process = ForwardProcess.from_scheduler(scheduler).to(accelerator.device)
    loss = denoising_loss(settings, process, unet.config, features)
    log_path = output_dir / "training_log.jsonl"
    trainer = Trainer(settings, accelerator, unet, loss, checkpoints=output_dir, log_path=log_path, resume=resume)
    check_weak_unet(settings, trainer.step, resume)
    repository = on_main(accelerator, prepare_push, settings)
    # Nothing was written until here: what cannot be gone on with leaves every record as it was.
    content = record_of_run(NETWORK, configuration, accelerator, resume, trainer.step)
    on_main(accelerator, watch.take_up, trainer.step, resume)
    on_main(accelerator, begin_record, output_dir / RECORD, content, finished)
    on_main(accelerator, say_faults, settings, dataset)
    counts = configuration["data"]["cases_per_label"]
    log_masks(settings, dataset.masks)
    logger.info(f"{len(dataset)} cases {counts}, {unet.num_parameters() / 1e6:.2f} M parameters, on {accelerator.device}.")

    def write(checkpoint: Path) -> None:
        write_json(checkpoint / RECORD, content)
        if watch.best is not None:
            watch.best.save_to(checkpoint)

    train(trainer, dataset, stopping, configuration=configuration, write=write, after_step=watch)
    if accelerator.is_main_process:
        finish(settings, accelerator, watch, trainer, content)
        if repository is not None:
            push(settings, repository)
    end_training(accelerator)


if __name__ == "__main__":
    run_script(main)
