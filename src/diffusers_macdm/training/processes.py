"""What the processes of a training do together: one of them writes, and all of them hear how that went."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch.nn.parallel import DistributedDataParallel

from ..files import DISK_IS_FULL, error_number, locked
from .checkpoints import list_checkpoints


logger = logging.getLogger("macdm.training")
Result = TypeVar("Result")


def on_main(accelerator: Accelerator, function: Callable[..., Result], *arguments) -> Result:
    """Call a function on the main process; all return what it returns, or raise what it raises that a user can mend."""
    result, error = None, None
    if accelerator.is_main_process:
        try:
            result = function(*arguments)
        except SafetensorError as safetensors_error:
            error = OSError(error_number(safetensors_error), str(safetensors_error))
        except (ValueError, OSError) as user_error:
            error = user_error
    if accelerator.num_processes > 1:
        result, error = broadcast_object_list([result, error])
    if error is not None:
        raise error
    return result


@contextmanager
def held(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Hold the output folder for this training alone.

    Raises:
        FileExistsError: on all processes, when another one writes into it.
    """
    with ExitStack() as stack:
        on_main(accelerator, lambda: stack.enter_context(locked(folder)))
        yield


@contextmanager
def saying_what_is_kept(checkpoints: Path) -> Iterator[None]:
    """Make the error of a full disk one that says which checkpoint is left."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if error_number(error) not in DISK_IS_FULL:
            raise
        kept = list_checkpoints(checkpoints)
        what = f"{kept[-1]} is kept: go on from it by --resume_from_checkpoint latest" if kept else "no checkpoint was written"
        where = f" at {error.filename}" if getattr(error, "filename", None) else ""
        raise OSError(f"The disk is full{where}. Free some space; {what}.") from error


def end_training(accelerator: Accelerator) -> None:
    """End the trackers and the process group of a training that has no more steps to take.

    What sums up the gradients goes first. Freed after the group, it would be the last to hold it, and its end waits for the
    group's threads with Python's lock in hand, which they may need: the process would hang at its end.
    """
    for model in accelerator._models:
        if isinstance(model, DistributedDataParallel):
            model.reducer = model.logger = None
    accelerator.end_training()
