"""The speed and the memory of this device: a short probe of the trainings in a process of its own, and of the copy audit."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..audit.detector import build_detector
from ..audit.embedding import train_embedding
from ..audit.radiographs import load_radiographs
from ..devices import available_device
from ..files import read_json, write_json
from ..training.launching import PROBE, launch_options, run_to_its_end


EMBEDDING_STEPS, COMPARED = 4, 16
NETWORKS = {"denoiser": "unet", "classifier": "guidance_classifier"}


def measure_trainings(
    data: str, trainings: Sequence[tuple[str, dict[str, Any]]], most_seconds_per_update: float
) -> dict[str, Any]:
    """Time the updates of some trainings under `accelerate launch`.

    Args:
        data: the data folder.
        trainings: part of a plan ("denoiser", "classifier") and its settings, each; of one part from few to many pixels.
        most_seconds_per_update: what would be slower, by the measurement before it, is left out.

    Returns:
        `start` (seconds until a training is there), `device`, `kind`, `threads`, `memory` (of a GPU, in bytes), and
        `trainings`: in the same order, what `training.probe.measure` returns, or `left_out` with a reason.

    Raises:
        ValueError: when the probe fails; the last line that it printed is in the sentence.
    """
    with tempfile.TemporaryDirectory(prefix="macdm-plan-") as folder:
        request, result = Path(folder, "request.json"), Path(folder, "result.json")
        asked = [{"network": NETWORKS[part], "settings": values} for part, values in trainings]
        words = launch_options(PROBE, [str(request), str(result)], "no")
        limit = min(most_seconds_per_update, 1e9)
        write_json(request, {"data": data, "trainings": asked, "most_seconds_per_update": limit, "launched": time.time()})
        done = run_to_its_end(words)
        if done.returncode or not result.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["it printed nothing"]
            errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
            raise ValueError(f"the probe of the device failed: {(errors or said)[-1]}")
        content = read_json(result)
    measured = content.pop("measured")
    return {**content, "trainings": [{k: v for k, v in part.items() if k not in ("network", "settings")} for part in measured]}


def measure_audit(data: str, size: int) -> dict[str, float] | None:
    """Time the copy audit: seconds of a training `step` of its embedding, of its `gallery`, and of an `image` compared.

    Args:
        size: side of the synthetic films.

    Returns:
        None where there are fewer than 2 validation cases, without which there is no audit.
    """
    training = load_radiographs(data, "train", size)
    try:
        validation = load_radiographs(data, "validation", size)
    except ValueError:
        return None
    device = available_device(None)
    train_embedding(training.images, 1, 0, device=device)  # warm-up
    started = time.monotonic()
    embedding = train_embedding(training.images, EMBEDDING_STEPS, 0, device=device)
    step = (time.monotonic() - started) / EMBEDDING_STEPS
    started = time.monotonic()
    try:
        few = validation.select(range(min(2, len(validation))))
        detector, _ = build_detector(training, few, embedding=embedding, device=device)
    except ValueError:  # too few that are of other patients
        return None
    gallery = time.monotonic() - started
    images = training.images[torch.arange(COMPARED) % len(training)]
    started = time.monotonic()
    detector.gallery.compare(images)
    return {"step": step, "gallery": gallery, "image": (time.monotonic() - started) / COMPARED}


def key_of(values: dict[str, Any]) -> str:
    """What of a training decides its speed, to tell whether a measurement is of it."""
    free = ("max_train_steps", "learning_rate", "lr_warmup_steps", "checkpointing_steps", "validation_steps", "seed")
    free += ("early_validation_steps", "logging_steps", "checkpoints_total_limit")
    return json.dumps({name: value for name, value in values.items() if name not in free}, sort_keys=True)
