"""How fast and how large is a training here? A few real updates, a checkpoint and a grid of samples, each timed.

    accelerate launch -m diffusers_macdm.training.probe REQUEST.json RESULT.json

Nothing stays of what is trained. The request names the data and, in the order in which they are tried, the trainings: of each
the `network` and the `settings` that differ from the defaults. The result has the seconds that it took to start, those of
reading a case, and what each training measured.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from ..files import read_json, write_json
from ..macdm.forward_process import ForwardProcess
from .classifier import classification_loss
from .data import augmentation_dim, load_training_data
from .denoiser import build_pipeline, denoising_loss, draw_samples
from .loop import batches, run_script
from .networks import build_classifier, build_unet, training_scheduler
from .records import SETTINGS, hardware_name
from .settings import DenoiserSettings, TrainingSettings
from .trainer import Trainer


WARM_UP, MOST_UPDATES, FEWEST_UPDATES, SECONDS = 3, 30, 4, 4.0
CASES = 32  # of each class, at most: more would be read without being needed


def seconds_of_updates(trainer: Trainer, loader) -> float:
    """Seconds of an update, its batch included, after some of warm-up."""
    started, updates = 0.0, 0
    for number, batch in enumerate(loader):
        trainer.micro_step(number, batch)
        if trainer.step <= WARM_UP:
            started = _now(trainer)
        updates = trainer.step - WARM_UP
        enough = updates >= FEWEST_UPDATES and _now(trainer) - started > SECONDS
        if updates >= MOST_UPDATES or enough:
            break
    return (_now(trainer) - started) / updates


def _now(trainer: Trainer) -> float:
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def measure(network: str, values: dict[str, Any], data: str) -> dict[str, Any]:
    """Time a training: seconds of an `update`, a `checkpoint` and (denoiser) a `picture`, `memory` in bytes, `parameters`.

    Args:
        network: `unet` or `guidance_classifier`.
        values: settings that differ from the defaults.
        data: folder of the data.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # another precision than that of the measurement before
    GradientState._reset_state()
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    settings = SETTINGS[network](**{**values, "train_data_dir": data, "report_to": "none", "max_train_steps": 10**6})
    with tempfile.TemporaryDirectory(prefix="macdm-probe-") as folder:
        settings = dataclasses.replace(settings, output_dir=folder)
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision, gradient_accumulation_steps=settings.gradient_accumulation_steps
        )
        device = accelerator.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        dataset, seconds_per_case = _read(settings)
        torch.manual_seed(settings.seed)
        model, loss = _network(settings, dataset, device)
        trainer = Trainer(settings, accelerator, model, loss, checkpoints=Path(folder), log_path=Path(folder) / "log.jsonl")
        result = {"update": seconds_of_updates(trainer, batches(settings, accelerator, dataset, 0))}
        started = _now(trainer)
        trainer.save(lambda checkpoint: None)
        result["checkpoint"] = _now(trainer) - started
        if isinstance(settings, DenoiserSettings):
            started = _now(trainer)
            draw_samples(settings, accelerator, build_pipeline(settings, model, trainer.ema, None), dataset.num_classes, 0)
            result["picture"] = _now(trainer) - started
        return {**result, "case": seconds_per_case, "memory": _memory(device), "parameters": model.num_parameters()}


def _read(settings: TrainingSettings):
    """Some cases of each class, decoded, and the seconds that a case took."""
    pairs = load_training_data(settings)
    counts = [min(CASES, pairs.labels.count(label)) for label in range(pairs.num_classes)]
    dataset = load_training_data(dataclasses.replace(settings, samples_per_class=tuple(counts)))
    started = time.monotonic()
    for index in range(len(dataset)):
        dataset[index]
    return dataset, (time.monotonic() - started) / len(dataset)


def _network(settings: TrainingSettings, dataset, device):
    if isinstance(settings, DenoiserSettings):
        unet = build_unet(settings, dataset.num_classes, augmentation_dim(dataset))
        scheduler = training_scheduler(settings, settings.prediction_type, settings.learned_variance)
        process = ForwardProcess.from_scheduler(scheduler).to(device)
        return unet, denoising_loss(settings, process, unet.config, None)
    process = ForwardProcess.from_scheduler(training_scheduler(settings)).to(device)
    classifier = build_classifier(settings, dataset.num_classes)
    return classifier, classification_loss(settings, process, classifier.config)


def _memory(device: torch.device) -> int | None:
    """Largest memory so far: of the GPU, or of this process where it computes on the CPU (None where nobody says)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Measure what the request asks for."""
    entered = time.time()
    request_file, result_file = map(Path, sys.argv[1:3])
    request = read_json(request_file, None)
    result = {"start": entered - request["launched"], "measured": []}
    limit = request["most_seconds_per_update"]
    for training in request["trainings"]:
        before = [done for done in result["measured"] if done["network"] == training["network"] and "update" in done]
        if before and _scaled(before[-1], training) > limit:
            result["measured"].append({**training, "left_out": "too slow for the time"})
            continue
        try:
            measured = measure(training["network"], training["settings"], request["data"])
        except torch.OutOfMemoryError:
            measured = {"left_out": "does not fit into the memory"}
        result["measured"].append({**training, **measured})
    device = Accelerator().device
    result |= {"device": hardware_name(device), "kind": device.type, "threads": torch.get_num_threads()}
    result["memory"] = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    write_json(result_file, result)


def _scaled(measured: dict, training: dict) -> float:
    """Seconds of an update at another resolution, by the number of pixels."""
    sides = [part["settings"].get("resolution", DenoiserSettings.resolution) for part in (measured, training)]
    return measured["update"] * (sides[1] / sides[0]) ** 2


if __name__ == "__main__":
    run_script(main)
