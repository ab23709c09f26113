"""Checkpoints of a training: which there are, which of them are whole, where to go on, and how one is written.

`checkpoint-<step>` appears by a rename, and its last file is `progress.json`, which has the digests of all others: a folder
without it is none, and a bit that the disk has lost is found before anything is taken over. `state` says what else it holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..checks import not_finite
from ..files import TEMPORARY_SUFFIX, new_folder, remove_folder, remove_leftovers, write_json, write_text
from ..macdm.saved_folder import read_object
from .settings import TrainingSettings
from .state import AVERAGE, MODEL, OPTIMIZER, OPTIMIZER_0_1_0, WEIGHTS


logger = logging.getLogger("macdm.training")

PROGRESS = "progress.json"
UNSEEN = "unseen"  # a file that says that what is due after the update was cut short


def _folders(folder: Path) -> list[Path]:
    """All that is called a checkpoint, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of_name)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [path for path in _folders(folder) if (path / PROGRESS).is_file()]


def step_of_name(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def checkpoint_step(checkpoint: Path) -> int:
    """Number of updates that were done when the checkpoint was written."""
    return json.loads((checkpoint / PROGRESS).read_text())["step"]


def is_seen(checkpoint: Path) -> bool:
    """Whether all that is due after its last update was done; of an update whose look was cut short it is not."""
    return not (checkpoint / UNSEEN).exists()


def save_checkpoint(folder: Path, step: int, total_limit: int | None, write: Callable[[Path], None], seen: bool = True) -> Path:
    """Write `checkpoint-<step>` with what `write` puts into it, then delete those beyond `total_limit`; returns it.

    Args:
        folder: of the checkpoints.
        step: number of updates that are done.
        total_limit: number of checkpoints that stay; None keeps all.
        write: puts files into the folder that it is given.
        seen: see `is_seen`.
    """
    target = folder / f"checkpoint-{step}"
    with new_folder(target) as temporary:
        write(temporary)
        if not seen:
            write_text(temporary / UNSEEN, "")
        write_json(temporary / PROGRESS, {"step": step, "sha256": _digests(temporary)})
    remove_old(folder, step, total_limit)
    return target


def remove_old(folder: Path, step: int, total_limit: int | None) -> None:
    """Delete the checkpoints beyond `total_limit`, once that of `step` is there; None keeps all."""
    if total_limit is not None:
        # Later ones, of before an earlier checkpoint was resumed, do not count: the one of this step stays.
        earlier = [path for path in _folders(folder) if step_of_name(path) <= step]
        for old in earlier[:-total_limit]:
            remove_folder(old)


def remove_torn(folder: Path) -> None:
    """Remove what a killed run was about to write or to delete."""
    remove_leftovers(folder)
    for left_over in folder.glob(f"checkpoint-*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(left_over)


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != PROGRESS)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint, None when it is whole; of 0.1.0's, which have no digests, as far as it shows."""
    try:
        progress = read_object(checkpoint / PROGRESS)
        step, digests = progress["step"], progress.get("sha256")
        is_0_1_0 = digests is None and (checkpoint / OPTIMIZER_0_1_0).is_file()
        names = [f"{MODEL}/{WEIGHTS}", OPTIMIZER_0_1_0 if is_0_1_0 else OPTIMIZER]
        if not (is_0_1_0 or (isinstance(digests, dict) and set(names) <= set(digests))):
            return f"{PROGRESS} has no digests of {' and '.join(names)}"
        if re.fullmatch(r"checkpoint-\d+", checkpoint.name) and step != step_of_name(checkpoint):
            return f"{PROGRESS} says step {step!r}"
        for name in digests or names:
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if digests and _digest(checkpoint / name) != digests[name]:
                return f"{name} is not what was written"
        for folder in (MODEL, AVERAGE):
            if (checkpoint / folder).is_dir():
                with safe_open(checkpoint / folder / WEIGHTS, "pt") as weights:
                    broken = not_finite((name, weights.get_tensor(name)) for name in weights.keys())
                if broken:
                    return f"{folder}/{WEIGHTS} is not finite in {broken}"
    except FileNotFoundError as error:
        return f"{Path(error.filename or PROGRESS).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        return f"it cannot be read: {str(error) or type(error).__name__}"
    return None


def prepare_output(settings: TrainingSettings, finished: Path, checkpoints: Path) -> Path | None:
    """Refuse to overwrite an earlier run; find the checkpoint to resume from. Nothing is written.

    Args:
        finished: what stands in `--output_dir` once the run is complete.
        checkpoints: the folder of its checkpoints.

    Returns:
        The checkpoint, or None to start afresh.

    Raises:
        FileExistsError: when there is a run already, and it is not to be resumed.
        FileNotFoundError: when there is no checkpoint where `--resume_from_checkpoint` says.
        ValueError: when that one, or every one, is damaged.
    """
    present = _folders(checkpoints)
    resume = None
    if settings.resume_from_checkpoint == "latest":
        resume = _newest_whole(present) if present else None
    elif settings.resume_from_checkpoint is not None:
        resume = Path(settings.resume_from_checkpoint)
        if not (resume / PROGRESS).is_file():
            raise FileNotFoundError(f"--resume_from_checkpoint {resume}: there is no complete checkpoint in this folder.")
    if resume is None or resume.resolve().parent != checkpoints.resolve():  # not the run that is in --output_dir
        for path in [finished, *present]:
            if path.exists():
                raise FileExistsError(
                    f"{path} is the result of an earlier run: choose another --output_dir, or continue that run with "
                    "--resume_from_checkpoint latest."
                )
    if settings.resume_from_checkpoint not in (None, "latest") and (reason := damage(resume)) is not None:
        raise ValueError(f"--resume_from_checkpoint {resume}: this checkpoint is damaged ({reason}); give another one.")
    if resume is None and settings.resume_from_checkpoint is not None:
        logger.warning(f"There is no checkpoint in {checkpoints} yet: starting from the beginning.")
    return resume


def _newest_whole(present: list[Path]) -> Path:
    reasons = []
    for checkpoint in reversed(present):
        reason = damage(checkpoint)
        if reason is None:
            if reasons:
                logger.warning(f"Skipped what is damaged: {'; '.join(reasons)}. Going on from {checkpoint}.")
            return checkpoint
        reasons.append(f"{checkpoint} ({reason})")
    raise ValueError(
        f"--resume_from_checkpoint latest: no checkpoint is whole: {'; '.join(reasons)}; start afresh in another --output_dir."
    )


# Differences that decide how a network is used, not which one it is.
MAY_DIFFER = {"dropout", "num_parameters", "_name_or_path", "_diffusers_version", "_use_default_values", "_class_name"}
OPTIONS = {  # what a configuration calls it -> the options that decide it
    "sample_size": "--resolution",
    "augmentation_dim": "--augment",
    "out_channels": "--learned_variance",
    "num_class_embeds": "the classes of the data",
    "num_classes": "the classes of the data",
    "down_block_types": "--attention_levels",
    "up_block_types": "--attention_levels",
    "num_train_timesteps": "--ddpm_num_steps",
    "beta_schedule": "--ddpm_beta_schedule",
    "variance_type": "--learned_variance",
    "clip_sample_range": "--channel_weights",
    "masks": "the masks of the data",
}


def check_fits(
    checkpoint: Path, settings: TrainingSettings, network: Mapping[str, Any], scheduler: Mapping[str, Any], before: dict | None
) -> None:
    """Raise `ValueError` where a checkpoint cannot be gone on from: it is of another network, or beyond the last step.

    Args:
        checkpoint: a whole one.
        network: configuration of the network that is built now.
        scheduler: configuration of the noise that it is trained on now.
        before: the record of the run that wrote it, if there is one.
    """
    step = checkpoint_step(checkpoint)
    if settings.max_train_steps < step:
        raise ValueError(
            f"--max_train_steps {settings.max_train_steps} does not fit {checkpoint}, which is of {step} updates: at least as "
            "many are needed."
        )
    # The noise first: what is predicted decides parts of the network, too.
    pairs = [((before or {}).get("scheduler") or {}, scheduler), (read_object(checkpoint / MODEL / "config.json"), network)]
    for theirs, ours in pairs:
        ours = json.loads(json.dumps(dict(ours), default=str))
        for name in sorted(theirs.keys() & ours.keys() - MAY_DIFFER):
            if theirs[name] != ours[name]:
                other = "start afresh in another --output_dir"
                if hasattr(settings, "pretrained_unet"):
                    other += f" (from these weights: --pretrained_unet {checkpoint / MODEL})"
                option = OPTIONS.get(name, f"--{name}")
                raise ValueError(
                    f"{option} does not fit {checkpoint}, which was trained with {name}={theirs[name]}, "
                    f"and this run has {ours[name]}. Give the option as it was, or {other}."
                )


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


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add a line to a log; a torn one is that of a killed run, and goes when the run is resumed."""
    with path.open("a") as file:
        file.write(json.dumps(content) + "\n")
