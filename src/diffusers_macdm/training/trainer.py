"""A network in training: one batch after the other, from a checkpoint or from the beginning."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from ..checks import not_finite
from ..macdm.draws import Draws
from .averages import Averages
from .checkpoints import append_line, checkpoint_step, is_seen, list_checkpoints, save_checkpoint
from .places import drawing, draws_at, put_sample_dropout
from .processes import on_main
from .settings import TrainingSettings
from .state import is_0_1_0, read_state, write_state


logger = logging.getLogger("macdm.training")
LossOf = Callable[[torch.nn.Module, dict[str, torch.Tensor], Draws], tuple[torch.Tensor, dict[str, torch.Tensor]]]
LOWEST_SCALE = 1e-4  # of the loss in fp16: below it nothing is left to be lowered


class Trainer:
    """A network, its optimizer, schedule and moving average, and the means that are logged.

    Args:
        loss_of: `loss_of(model, batch, draws)` -> scalar loss and values to log (NaN where one does not apply); everything
            random in it comes from `draws`.
        checkpoints: folder for `checkpoint-<step>`.
        log_path: JSON lines, one for every `--logging_steps` and every checkpoint: the means since the line before.
        resume: a whole checkpoint to go on from. Nothing is written before it is loaded.

    Attributes:
        step: number of updates that are done.
        seen: whether all that is due after the update of the checkpoint was done.
        stopped_by: signal that any of the processes was sent by the last update; 0 for none.

    Raises:
        ValueError: when the checkpoint cannot be loaded, or its weights are not finite.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        accelerator: Accelerator,
        model: torch.nn.Module,
        loss_of: LossOf,
        *,
        checkpoints: Path,
        log_path: Path,
        resume: Path | None = None,
    ):
        self.settings, self.accelerator, self.model = settings, accelerator, model
        self.loss_of, self.name = loss_of, type(model).__name__
        self.checkpoints, self.log_path = checkpoints, log_path
        self.step = self.stopped_by = 0
        self.seen = resume is None or is_seen(resume)
        self._dropouts = put_sample_dropout(model)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.adam_weight_decay,
            eps=settings.adam_epsilon,
        )
        self.ema = self._moving_average() if settings.use_ema else None
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        scaler = accelerator.scaler
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        if resume is not None:
            self.step = checkpoint_step(resume)
            read_state(resume, model, self.ema, self.optimizer, self._scaler)
            self.refuse_not_finite(f"{resume} cannot be gone on from")
            logger.info(f"Resumed {self.name} from {resume} at step {self.step}.")
            if is_0_1_0(resume):
                logger.warning(f"{resume} is of version 0.1.0, which drew other noise than what is drawn from here on.")
        for group in optimizer.param_groups:
            group["initial_lr"] = settings.learning_rate
        # Not prepared: accelerate would step it once for each process. It counts updates here, whatever their batch. The rate
        # is a function of the options and the step, so it is not read from a checkpoint.
        self.lr_scheduler = get_scheduler(
            settings.lr_scheduler,
            optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
            last_epoch=self.step - 1,
        )
        self.wrapped.train()
        self.averages = Averages()
        self._logged_step, self._logged_time = self.step, time.monotonic()

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

    def refuse_not_finite(self, what: str) -> None:
        """Raise `ValueError`, that begins with `what`, when a weight or its average is not finite."""
        tensors = list(self.model.named_parameters())
        if self.ema is not None:
            averages = zip(list(tensors), self.ema.shadow_params, strict=True)
            tensors += [(f"the average of {name}", average) for (name, _), average in averages]
        broken = not_finite(tensors)
        if broken is not None:
            raise ValueError(f"{what}: {broken} is not finite.")

    def _remedy(self) -> str:
        kept = list_checkpoints(self.checkpoints)
        return f"{kept[-1]} is kept" if kept else "no checkpoint was written"

    def save(self, write: Callable[[Path], None], seen: bool = True) -> Path:
        """Write the checkpoint of the last update, together with what `write` puts into it; returns its folder.

        Args:
            write: puts what else the checkpoint is to hold into its folder.
            seen: whether all that is due after the update was done (see `checkpoints.is_seen`).

        Raises:
            ValueError: when the weights are not finite; nothing is written then.
            OSError: when it cannot be written.
        """
        self.refuse_not_finite(f"The weights after update {self.step} are not kept; {self._remedy()}")

        def write_all(folder: Path) -> None:
            write_state(folder, self.model, self.ema, self.optimizer, self._scaler)
            write(folder)

        limit = self.settings.checkpoints_total_limit
        return on_main(self.accelerator, save_checkpoint, self.checkpoints, self.step, limit, write_all, seen)

    def micro_step(self, number: int, batch: dict[str, torch.Tensor], stop: int = 0) -> bool:
        """Take a batch; return whether it completed an update of the weights.

        Args:
            stop: the signal that this process was sent, or 0; after an update `stopped_by` is that of any of them.

        Raises:
            ValueError: when the gradient is not finite; the weights are as they were then.
        """
        settings, accelerator = self.settings, self.accelerator
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        draws = draws_at(settings, number, accelerator.process_index, accelerator.num_processes, accelerator.device)
        with accelerator.accumulate(self.wrapped), drawing(self._dropouts, draws):
            loss, values = self.loss_of(self.wrapped, batch, draws)
            accelerator.backward(loss)
            # NaN means "does not apply" to the averages; here it is a failure and must not be left out.
            self.averages.add({**values, "loss": loss.detach().nan_to_num(math.inf, math.inf, -math.inf)})
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(self.wrapped.parameters(), settings.max_grad_norm)
                norm = torch.as_tensor(norm, dtype=torch.float32, device=accelerator.device)
                self.averages.add({"gradient_norm": norm})
                self._look_at(norm, stop)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if not accelerator.sync_gradients:
            return False
        self.step += 1
        self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.step(self.model.parameters())
        return True

    def _look_at(self, norm: torch.Tensor, stop: int) -> None:
        """Refuse a gradient that is not finite, and hear of the signals of the other processes: both the same on all."""
        asked = [float(stop == number) for number in (signal.SIGTERM, signal.SIGINT)]
        seen = torch.cat([norm.reshape(1), torch.tensor(asked, device=norm.device)])
        if self.accelerator.num_processes > 1:
            seen = self.accelerator.reduce(seen, reduction="sum")
        norm_sum, terminated, interrupted = seen.tolist()
        self.stopped_by = int(signal.SIGTERM) if terminated else int(signal.SIGINT) if interrupted else 0
        # The scaler of fp16 skips such updates and lowers its scale, at the beginning always; not without end.
        is_scaling = self._scaler is not None and self._scaler.get_scale() > LOWEST_SCALE
        if not math.isfinite(norm_sum) and not is_scaling:
            raise ValueError(
                f"The gradient is not finite at step {self.step + 1}: lower --learning_rate, or use "
                f"--mixed_precision bf16 or no instead of fp16; {self._remedy()}."
            )

    def log(self) -> float:
        """Log the means since the line before, and return the loss.

        Raises:
            ValueError: when the loss is not finite.
        """
        settings, accelerator, step = self.settings, self.accelerator, self.step
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
        on_main(accelerator, append_line, self.log_path, {"step": step, **logs})
        return logs["loss"]
