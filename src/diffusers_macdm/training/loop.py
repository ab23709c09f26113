"""The loop of both trainings, with exact resume.

Everything random in a step is a function of (seed, micro-step, process): which cases are drawn and how they are augmented
(`StepBatchSampler`), and the noise, timesteps and dropout (`seed_step`). A checkpoint therefore needs no random state, and a
resumed run gives the same weights as an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from ..data.dataset import PairDataset
from ..data.sampler import StepBatchSampler
from ..files import TEMPORARY_SUFFIX
from ..parsing import parse
from ..progress import Progress
from .averages import Averages
from .checkpoints import checkpoint_step, save_checkpoint, truncate_log
from .formulations import FORMULATIONS
from .settings import RENAMED, TrainingSettings


logger = logging.getLogger("macdm.training")
Settings = TypeVar("Settings", bound=TrainingSettings)
LossOf = Callable[[torch.nn.Module, dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]]


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


def seed_step(seed: int, micro_step: int, process_index: int) -> None:
    """Make everything random in a micro-step (noise, timesteps, label dropout, dropout) a function of its number."""
    torch.manual_seed(int(np.random.SeedSequence([seed, micro_step, process_index]).generate_state(1, np.uint64)[0] >> 1))


def train(
    settings: TrainingSettings,
    accelerator: Accelerator,
    model: torch.nn.Module,
    dataset: PairDataset,
    loss_of: LossOf,
    *,
    checkpoints: Path,
    log_path: Path,
    resume: Path | None,
    configuration: dict[str, Any],
    after_step: Callable[[int, torch.nn.Module, EMAModel | None], bool] | None = None,
) -> tuple[torch.nn.Module, EMAModel | None]:
    """Train `model` for `--max_train_steps` updates, from `resume` on; return it (unwrapped) and its moving average.

    Args:
        loss_of: `loss_of(model, batch)` -> scalar loss and values to log (NaN where one does not apply); everything random
            in it comes from torch's global generator, which is seeded for each micro-step.
        checkpoints: folder for `checkpoint-<step>`.
        log_path: JSON lines, one for every `--logging_steps` and every checkpoint: the means since the line before.
        after_step: called on all processes after each update with its number, the unwrapped model and the average. True, the
            same on all of them, ends the training here, without a checkpoint: a run resumed before comes to the same end.
    """
    trainer = Trainer(settings, accelerator, model, loss_of, log_path)
    step = trainer.resume_from(resume, checkpoints)
    if accelerator.trackers == [] and settings.report_to != "none":
        plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in configuration["arguments"].items()}
        accelerator.init_trackers(trainer.name, config=plain)
    first = step * settings.gradient_accumulation_steps
    with Progress(settings.max_train_steps, trainer.name, initial=step, show=accelerator.is_local_main_process) as progress:
        for micro_step, batch in enumerate(batches(settings, accelerator, dataset, first), start=first):
            if not trainer.micro_step(micro_step, batch):
                continue
            step += 1
            progress.update()
            is_checkpoint = step % settings.checkpointing_steps == 0 or step == settings.max_train_steps
            # Each checkpoint is logged as well: no broken weights are kept, and no average reaches across a place to resume.
            if step % settings.logging_steps == 0 or is_checkpoint:
                progress.note(f"loss {trainer.log(step):.4f}")
            if after_step is not None and after_step(step, model, trainer.ema):
                break
            if is_checkpoint:  # last, so that a run resumed here misses nothing of this step
                save_checkpoint(accelerator, checkpoints, step, settings.checkpoints_total_limit)
    accelerator.wait_for_everyone()
    return model, trainer.ema


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
    )


class Trainer:
    """A network, its optimizer, schedule and moving average, and the means that are logged."""

    def __init__(
        self, settings: TrainingSettings, accelerator: Accelerator, model: torch.nn.Module, loss_of: LossOf, log_path: Path
    ):
        self.settings, self.accelerator, self.model = settings, accelerator, model
        self.loss_of, self.log_path, self.name = loss_of, log_path, type(model).__name__
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.adam_weight_decay,
            eps=settings.adam_epsilon,
        )
        # Not prepared: accelerate would step it once for each process. It counts updates here, whatever their batch.
        self.lr_scheduler = get_scheduler(
            settings.lr_scheduler,
            optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
        )
        self.ema = self._moving_average() if settings.use_ema else None
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)
        accelerator.register_for_checkpointing(self.lr_scheduler)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.averages = Averages()
        self._logged_step, self._logged_time = 0, time.monotonic()

    def _moving_average(self) -> EMAModel:
        settings = self.settings
        ema = EMAModel(
            self.model.parameters(),
            decay=settings.ema_max_decay,
            use_ema_warmup=True,
            inv_gamma=settings.ema_inv_gamma,
            power=settings.ema_power,
            model_cls=type(self.model),
            model_config=self.model.config,
        )
        ema.to(self.accelerator.device)
        return ema

    def _save(self, models, weights, output_dir) -> None:
        if self.accelerator.is_main_process:
            for wrapped in models:
                self.accelerator.unwrap_model(wrapped).save_pretrained(Path(output_dir) / "model")
            if self.ema is not None:
                self.ema.save_pretrained(Path(output_dir) / "model_ema")
        weights.clear()

    def _load(self, models, input_dir) -> None:
        while models:
            loaded = type(self.model).from_pretrained(Path(input_dir) / "model")
            self.accelerator.unwrap_model(models.pop()).load_state_dict(loaded.state_dict())
        if self.ema is not None:
            average = EMAModel.from_pretrained(Path(input_dir) / "model_ema", type(self.model))
            self.ema.load_state_dict(average.state_dict())
            self.ema.to(self.accelerator.device)

    def resume_from(self, resume: Path | None, checkpoints: Path) -> int:
        """Load a checkpoint, clean what a killed run has left, and return the number of updates that are done."""
        accelerator, step = self.accelerator, 0
        if resume is not None:
            step = checkpoint_step(resume)
            accelerator.load_state(str(resume))
            accelerator.step = 0  # its count of micro-steps: a checkpoint lies between two updates
            logger.info(f"Resumed {self.name} from {resume} at step {step}.")
        if accelerator.is_main_process:
            truncate_log(self.log_path, step)
            for left_over in checkpoints.glob(f"checkpoint-*{TEMPORARY_SUFFIX}"):
                shutil.rmtree(left_over)
        self.wrapped.train()
        self._logged_step, self._logged_time = step, time.monotonic()
        return step

    def micro_step(self, number: int, batch: dict[str, torch.Tensor]) -> bool:
        """Take a batch; return whether it completed an update of the weights."""
        settings, accelerator = self.settings, self.accelerator
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        seed_step(settings.seed, number, accelerator.process_index)
        with accelerator.accumulate(self.wrapped):
            loss, values = self.loss_of(self.wrapped, batch)
            accelerator.backward(loss)
            # NaN means "does not apply" to the averages; here it is a failure and must not be left out.
            self.averages.add({**values, "loss": loss.detach().nan_to_num(math.inf, math.inf, -math.inf)})
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(self.wrapped.parameters(), settings.max_grad_norm)
                self.averages.add({"gradient_norm": torch.as_tensor(norm, device=accelerator.device)})
            self.optimizer.step()
            self.optimizer.zero_grad()
        if not accelerator.sync_gradients:
            return False
        self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.step(self.model.parameters())
        return True

    def log(self, step: int) -> float:
        """Log the means since the line before, and return the loss.

        Raises:
            ValueError: when the loss is not finite.
        """
        settings, accelerator = self.settings, self.accelerator
        logs = {**self.averages.read(accelerator), "learning_rate": self.lr_scheduler.get_last_lr()[0]}
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"The loss is not finite at step {step} ({logs['loss']}): lower --learning_rate, or use "
                "--mixed_precision bf16 or no instead of fp16."
            )
        cases = settings.gradient_accumulation_steps * settings.train_batch_size * accelerator.num_processes
        logs["samples_per_second"] = (step - self._logged_step) * cases / (time.monotonic() - self._logged_time)
        self._logged_step, self._logged_time = step, time.monotonic()
        accelerator.log(logs, step=step)
        if accelerator.is_main_process:
            with self.log_path.open("a") as file:
                file.write(json.dumps({"step": step, **logs}) + "\n")
        return logs["loss"]


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
    """Run a script; the errors that a user can mend end it with one sentence."""
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
