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
from .settings import RENAMED, TrainingSettings


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


def seed_step(seed: int, micro_step: int, process_index: int) -> None:
    """Make everything random in a micro-step (noise, timesteps, label dropout, dropout) a function of its number."""
    torch.manual_seed(int(np.random.SeedSequence([seed, micro_step, process_index]).generate_state(1, np.uint64)[0] >> 1))


def train(
    settings: TrainingSettings,
    accelerator: Accelerator,
    model: torch.nn.Module,
    dataset: PairDataset,
    loss_of: Callable[[torch.nn.Module, dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]],
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
    name = type(model).__name__
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.adam_weight_decay,
        eps=settings.adam_epsilon,
    )
    # Not prepared: accelerate would step it once for each process. It counts updates here, whatever their batch.
    lr_scheduler = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    ema = None
    if settings.use_ema:
        ema = EMAModel(
            model.parameters(),
            decay=settings.ema_max_decay,
            use_ema_warmup=True,
            inv_gamma=settings.ema_inv_gamma,
            power=settings.ema_power,
            model_cls=type(model),
            model_config=model.config,
        )
        ema.to(accelerator.device)

    def save_hook(models, weights, output_dir):
        if accelerator.is_main_process:
            for wrapped in models:
                accelerator.unwrap_model(wrapped).save_pretrained(Path(output_dir) / "model")
            if ema is not None:
                ema.save_pretrained(Path(output_dir) / "model_ema")
        weights.clear()

    def load_hook(models, input_dir):
        while models:
            loaded = type(model).from_pretrained(Path(input_dir) / "model")
            accelerator.unwrap_model(models.pop()).load_state_dict(loaded.state_dict())
        if ema is not None:
            ema.load_state_dict(EMAModel.from_pretrained(Path(input_dir) / "model_ema", type(model)).state_dict())
            ema.to(accelerator.device)

    accelerator.register_save_state_pre_hook(save_hook)
    accelerator.register_load_state_pre_hook(load_hook)
    accelerator.register_for_checkpointing(lr_scheduler)
    wrapped, optimizer = accelerator.prepare(model, optimizer)

    step = 0
    if resume is not None:
        step = checkpoint_step(resume)
        accelerator.load_state(str(resume))
        accelerator.step = 0  # its count of micro-steps: a checkpoint lies between two updates
        logger.info(f"Resumed {name} from {resume} at step {step}.")
    if accelerator.is_main_process:
        truncate_log(log_path, step)
        for left_over in checkpoints.glob(f"checkpoint-*{TEMPORARY_SUFFIX}"):
            shutil.rmtree(left_over)
    if accelerator.trackers == [] and settings.report_to != "none":
        plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in configuration["arguments"].items()}
        accelerator.init_trackers(name, config=plain)

    accumulation = settings.gradient_accumulation_steps
    sampler = StepBatchSampler(
        dataset.labels,
        settings.train_batch_size,
        num_steps=settings.max_train_steps * accumulation,
        seed=settings.seed,
        start_step=step * accumulation,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
        balance=settings.balance,
    )
    batches = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=settings.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    averages = Averages()
    progress = Progress(settings.max_train_steps, name, initial=step, show=accelerator.is_local_main_process)
    wrapped.train()
    logged_step, logged_time = step, time.monotonic()
    for micro_step, batch in enumerate(batches, start=step * accumulation):
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        seed_step(settings.seed, micro_step, accelerator.process_index)
        with accelerator.accumulate(wrapped):
            loss, values = loss_of(wrapped, batch)
            accelerator.backward(loss)
            # NaN means "does not apply" to the averages; here it is a failure and must not be left out.
            averages.add({**values, "loss": loss.detach().nan_to_num(math.inf, math.inf, -math.inf)})
            if accelerator.sync_gradients:
                gradient_norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.max_grad_norm)
                averages.add({"gradient_norm": torch.as_tensor(gradient_norm, device=accelerator.device)})
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        lr_scheduler.step()
        if ema is not None:
            ema.step(model.parameters())
        step += 1
        progress.update()

        is_checkpoint = step % settings.checkpointing_steps == 0 or step == settings.max_train_steps
        # Each checkpoint is logged as well: no broken weights are kept, and no average reaches across a place to resume.
        if step % settings.logging_steps == 0 or is_checkpoint:
            logs = {**averages.read(accelerator), "learning_rate": lr_scheduler.get_last_lr()[0]}
            if not math.isfinite(logs["loss"]):
                raise ValueError(
                    f"The loss is not finite at step {step} ({logs['loss']}): lower --learning_rate, or use "
                    "--mixed_precision bf16 or no instead of fp16."
                )
            samples = (step - logged_step) * accumulation * settings.train_batch_size * accelerator.num_processes
            logs["samples_per_second"] = samples / (time.monotonic() - logged_time)
            logged_step, logged_time = step, time.monotonic()
            accelerator.log(logs, step=step)
            progress.note(f"loss {logs['loss']:.4f}")
            if accelerator.is_main_process:
                with log_path.open("a") as file:
                    file.write(json.dumps({"step": step, **logs}) + "\n")
        if after_step is not None and after_step(step, model, ema):
            break
        if is_checkpoint:  # last, so that a run resumed here misses nothing of this step
            save_checkpoint(accelerator, checkpoints, step, settings.checkpoints_total_limit)
    progress.close()
    accelerator.wait_for_everyone()
    return model, ema


def parse_settings(settings_class: type[Settings], argv: Sequence[str] | None) -> Settings:
    """Read the options of a training script, with underscores as diffusers' scripts have them."""
    words = sys.argv[1:] if argv is None else argv
    return parse(settings_class, words, Path(sys.argv[0]).name, underscores=True, renamed=RENAMED)


def run_script(main: Callable[[], None]) -> None:
    """Run a script; the errors that a user can mend end it with one sentence."""
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
