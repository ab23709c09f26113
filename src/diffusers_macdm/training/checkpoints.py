"""Checkpoints of a training: which there are, where to go on, and how one is written whole or not at all."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

from ..files import TEMPORARY_SUFFIX, replace_folder, write_json, write_text
from .settings import TrainingSettings


logger = logging.getLogger("macdm.training")


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first. They appear by a rename, so each is complete; left-over ones have another name."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def checkpoint_step(checkpoint: Path) -> int:
    """Number of updates that were done when the checkpoint was written."""
    return json.loads((checkpoint / "progress.json").read_text())["step"]


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, total_limit: int | None) -> None:
    """Write `checkpoint-<step>` under a temporary name and rename it, so that no reader ever sees half of one."""
    target = folder / f"checkpoint-{step}"
    temporary = folder / f"checkpoint-{step}{TEMPORARY_SUFFIX}"
    accelerator.save_state(str(temporary))  # on every process: each has a random state of its own
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(temporary / "progress.json", {"step": step})
        replace_folder(temporary, target)
        if total_limit is not None:
            # Later ones, of before an earlier checkpoint was resumed, do not count: the one just written stays.
            earlier = [path for path in list_checkpoints(folder) if checkpoint_step(path) <= step]
            for old in earlier[:-total_limit]:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


def prepare_output(settings: TrainingSettings, finished: Path, checkpoints: Path) -> Path | None:
    """Refuse to overwrite an earlier run; find the checkpoint to resume from.

    Args:
        finished: what stands in `--output_dir` once the run is complete.
        checkpoints: the folder of its checkpoints.

    Returns:
        The checkpoint, or None to start afresh.
    """
    present = list_checkpoints(checkpoints)
    resume = None
    if settings.resume_from_checkpoint == "latest":
        resume = present[-1] if present else None
    elif settings.resume_from_checkpoint is not None:
        resume = Path(settings.resume_from_checkpoint)
        if not (resume / "progress.json").is_file():
            raise FileNotFoundError(f"--resume_from_checkpoint {resume}: there is no complete checkpoint in this folder.")
    if resume is None or resume.resolve().parent != checkpoints.resolve():  # not the run that is in --output_dir
        for path in [finished, *present]:
            if path.exists():
                raise FileExistsError(
                    f"{path} is the result of an earlier run: choose another --output_dir, or continue that run with "
                    "--resume_from_checkpoint latest."
                )
    if resume is None and settings.resume_from_checkpoint is not None:
        logger.warning(f"There is no checkpoint in {checkpoints} yet: starting from the beginning.")
    return resume


def truncate_log(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run takes again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the last line of a killed run
    write_text(path, "".join(line + "\n" for line in kept))
