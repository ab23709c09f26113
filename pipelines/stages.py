"""What the recipes share: stages that are done once, and commands that are run and shown as a user would type them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from diffusers_macdm.files import SETTINGS_FILE, begin, read_json, write_json


ROOT = Path(__file__).resolve().parent.parent
PROBE_UPDATES, PROBE_WARM_UP = 30, 10


class Stages:
    """The stages of a recipe in one folder; what an earlier call has done is not done again.

    Attributes:
        seconds: spent on each stage, over all calls.

    Args:
        out: new or empty folder, or one that this recipe has begun with the same settings.
        recipe: its name; `out`/NAME.json holds its settings and the seconds of its stages.
        settings: all that decides what comes out.

    Raises:
        ValueError: when `out` was begun with other settings.
        FileExistsError: when `out` holds something else.
    """

    def __init__(self, out: Path, recipe: str, settings: dict):
        self._path = out / f"{recipe}.json"
        if out.exists() and any(out.iterdir()) and not (out / SETTINGS_FILE).is_file():
            raise FileExistsError(f"{out} is not empty and no {recipe}: choose another --output_dir.")
        begin(out, settings)
        self._state = {"settings": settings, "seconds": {}}
        if self._path.is_file():
            self._state = read_json(self._path)
        write_json(self._path, self._state, indent=2)

    @property
    def seconds(self) -> dict[str, float]:
        return self._state["seconds"]

    def run(self, name: str, done: Path, action: Callable[[], object]) -> None:
        """Do what makes `done`, unless it is there."""
        if done.exists():
            print(f"== {name}: done already", flush=True)
            return
        print(f"== {name}", flush=True)
        start = time.monotonic()
        action()
        self.seconds[name] = self.seconds.get(name, 0) + time.monotonic() - start
        write_json(self._path, self._state, indent=2)


def mixed_precision() -> str:
    """bf16 where the hardware computes in it, which is faster; float32 elsewhere."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older releases of torch
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "no"


def launch(script: str, options: Sequence[str]) -> None:
    """Run a training script as a user does, showing the command."""
    arguments = ["--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no"]
    # Without it, accelerate gives each process one thread, on a CPU too.
    arguments += ["--num_cpu_threads_per_process", str(torch.get_num_threads())]
    arguments += ["--mixed_precision", mixed_precision(), f"training/{script}", *options]
    _run(["accelerate", "launch"], "accelerate.commands.launch", arguments, script)


def macdm(*arguments: str) -> None:
    """Run a command of the console as a user does, showing it."""
    _run(["macdm"], "diffusers_macdm", arguments, f"macdm {arguments[0]}")


def _run(shown: Sequence[str], module: str, arguments: Sequence[str], name: str) -> None:
    print("$ " + " ".join([*shown, *arguments]), flush=True)
    finished = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT)
    if finished.returncode:
        raise SystemExit(f"error: {name} ended with status {finished.returncode}; its output above says why.")


def seconds_per_update(probe: Path, train: Callable[[list[str]], None]) -> float:
    """Time an update of a training by a short one, in a folder that is removed again.

    Args:
        probe: that folder.
        train: trains with these further options: output folder, number of updates, how often they are logged.
    """
    shutil.rmtree(probe, ignore_errors=True)
    train(["--output_dir", str(probe), "--max_train_steps", str(PROBE_UPDATES), "--logging_steps", str(PROBE_WARM_UP)])
    seconds, _ = seconds_of(probe, after=PROBE_WARM_UP)
    shutil.rmtree(probe)
    return seconds / (PROBE_UPDATES - PROBE_WARM_UP)


def seconds_of(folder: Path, after: int = 0) -> tuple[float, int]:
    """Seconds that the updates after this one took, and the samples that they saw, by the log of the training."""
    batch = read_json(folder / "training_config.json")["arguments"]
    cases = batch["train_batch_size"] * batch["gradient_accumulation_steps"]
    seconds, samples, before = 0.0, 0, 0
    for line in (folder / "training_log.jsonl").read_text().splitlines():
        row = json.loads(line)
        if before >= after:
            seen = (row["step"] - before) * cases
            samples, seconds = samples + seen, seconds + seen / row["samples_per_second"]
        before = row["step"]
    return seconds, samples
