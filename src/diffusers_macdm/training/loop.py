"""The loop of both trainings, with exact resume.

Everything random in a step is a function of (seed, place in the stream of cases): which cases are drawn and how they are
augmented (`StepBatchSampler`), and the noise, timesteps and dropout (`places`). A checkpoint therefore needs no random state,
and a resumed run gives the same weights as an uninterrupted one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, set_seed
from diffusers.training_utils import EMAModel

from ..data.dataset import PairDataset
from ..data.sampler import StepBatchSampler
from ..parsing import parse
from ..progress import Progress
from .checkpoints import remove_old, remove_torn, truncate_log
from .formulations import FORMULATIONS
from .processes import end_training, held, saying_what_is_kept
from .settings import RENAMED, TrainingSettings
from .stopping import Interrupted, Stopping, ignore_signals
from .trainer import Trainer


logger = logging.getLogger("macdm.training")
Settings = TypeVar("Settings", bound=TrainingSettings)


def start(settings: TrainingSettings) -> Accelerator:
    """The accelerator, with console logging on the main process and a seed for the initial weights."""
    accelerator = Accelerator(
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        mixed_precision=settings.mixed_precision,
        log_with=None if settings.report_to == "none" else settings.report_to,
        # Of several processes all but the main one wait while it samples and audits: longer than NCCL's 10 minutes, perhaps.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=4))],
        project_config=ProjectConfiguration(
            project_dir=settings.output_dir, logging_dir=f"{settings.output_dir}/{settings.logging_dir}"
        ),
    )
    if settings.report_to != "none" and not accelerator.log_with:
        raise ValueError(f"--report_to {settings.report_to}: the package of this tracker is not installed.")
    level = logging.INFO if accelerator.is_main_process else logging.ERROR
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logger.setLevel(level)
    set_seed(settings.seed)
    return accelerator


@contextmanager
def running(settings: TrainingSettings, checkpoints: Path) -> Iterator[tuple[Accelerator, Stopping]]:
    """Start; hold the output folder and handle signals until the end, and say which checkpoint is left when the disk is full.

    Raises:
        FileExistsError: when another process writes into the output folder.
        OSError: when the disk is full.
    """
    with Stopping() as stopping:
        accelerator = start(settings)
        with held(accelerator, Path(settings.output_dir)), saying_what_is_kept(checkpoints):
            yield accelerator, stopping


def train(
    trainer: Trainer,
    dataset: PairDataset,
    stopping: Stopping,
    *,
    configuration: dict[str, Any],
    write: Callable[[Path], None] = lambda folder: None,
    after_step: Callable[[int, torch.nn.Module, EMAModel | None], bool] | None = None,
) -> tuple[torch.nn.Module, EMAModel | None]:
    """Train for `--max_train_steps` updates, from where `trainer` stands; return its network and the moving average.

    Args:
        trainer: what is trained, with its checkpoint loaded.
        stopping: says when a signal ends the training; it then ends by `SystemExit` with 128 + its number.
        write: puts what else a checkpoint is to hold into its folder; on the main process.
        after_step: called on all processes after each update with its number, the network and the average. True, the
            same on all of them, ends the training here, without a checkpoint: a run resumed before comes to the same end.
            `Interrupted`, the same on all of them, ends it by that signal, with a checkpoint whose resume calls it again.
    """
    settings, accelerator, step = trainer.settings, trainer.accelerator, trainer.step
    if accelerator.is_main_process:
        truncate_log(trainer.log_path, step)
        remove_torn(trainer.checkpoints)
        if step:  # a kill may have come between the checkpoint and the end of those before it
            remove_old(trainer.checkpoints, step, settings.checkpoints_total_limit)
    if accelerator.trackers == [] and settings.report_to != "none":
        plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in configuration["arguments"].items()}
        accelerator.init_trackers(trainer.name, config=plain)
    first = step * settings.gradient_accumulation_steps
    with (
        stopping.deferred(),
        Progress(settings.max_train_steps, trainer.name, initial=step, show=accelerator.is_local_main_process) as progress,
    ):
        ends = False
        if not trainer.seen:
            ends, _ = _look(trainer, after_step)
            if trainer.stopped_by:
                _stop(trainer, trainer.save(write, seen=False))
        steps = () if ends else batches(settings, accelerator, dataset, first)
        for micro_step, batch in enumerate(steps, start=first):
            if not trainer.micro_step(micro_step, batch, stopping.requested()):
                continue
            step = trainer.step
            progress.update()
            is_last = step == settings.max_train_steps or trainer.stopped_by
            is_checkpoint = step % settings.checkpointing_steps == 0 or is_last
            # Each checkpoint is logged as well: no broken weights are kept, and no average reaches across a place to resume.
            is_logged = step % settings.logging_steps == 0 or is_checkpoint
            if is_logged:
                progress.note(f"loss {trainer.log():.4f}")
            ends, seen = _look(trainer, after_step)
            if ends:
                break
            if not (seen or is_logged):
                trainer.log()
            if is_checkpoint or not seen:  # last, so that a run resumed here misses nothing of this step
                kept = trainer.save(write, seen)
            if trainer.stopped_by:
                _stop(trainer, kept)
    accelerator.wait_for_everyone()
    return trainer.model, trainer.ema


def _look(trainer: Trainer, after_step: Callable[[int, torch.nn.Module, EMAModel | None], bool] | None) -> tuple[bool, bool]:
    """Call `after_step`; return whether it ends the training, and whether it was not cut short by a signal."""
    if after_step is None:
        return False, True
    try:
        return after_step(trainer.step, trainer.model, trainer.ema), True
    except Interrupted as interrupted:
        trainer.stopped_by = interrupted.number
        return False, False


def _stop(trainer: Trainer, kept: Path) -> None:
    """End the process by the signal that the training is stopped by; say which checkpoint is there."""
    end_training(trainer.accelerator)
    if trainer.accelerator.is_main_process:
        name, last = signal.Signals(trainer.stopped_by).name, trainer.settings.max_train_steps
        print(
            f"{name}: stopped after update {trainer.step} of {last}, {kept} is written; go on with "
            "--resume_from_checkpoint latest.",
            file=sys.stderr,
        )
    raise SystemExit(128 + trainer.stopped_by)


def batches(settings: TrainingSettings, accelerator: Accelerator, dataset: PairDataset, first: int):
    """Return the batches of this process from micro-step `first` on."""
    sampler = StepBatchSampler(
        dataset.labels,
        settings.train_batch_size,
        num_steps=settings.max_train_steps * settings.gradient_accumulation_steps,
        seed=settings.seed,
        start_step=first,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
        balance=settings.balance,
        unlabeled=dataset.num_classes,
    )
    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=settings.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=ignore_signals,
    )


def parse_settings(settings_class: type[Settings], argv: Sequence[str] | None) -> Settings:
    """Read the options of a training script, with underscores as diffusers' scripts have them."""
    words = sys.argv[1:] if argv is None else argv
    default = None
    if hasattr(settings_class, "defaults"):  # --formulation decides what is the default of other options
        text = " ".join(words)
        named = [name for name in FORMULATIONS if f"--formulation {name}" in text or f"--formulation={name}" in text]
        default = settings_class.defaults(named[-1]) if named else None
    return parse(settings_class, words, Path(sys.argv[0]).name, underscores=True, renamed=RENAMED, default=default)


def run_script(main: Callable[[], None]) -> None:
    """Run a script; the errors that a user can mend end it with one sentence, which one process says."""
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}" if os.environ.get("RANK", "0") == "0" else 1) from None
