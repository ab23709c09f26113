"""What the recipes share: stages that are done once, and commands that are run and shown as a user would type them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from diffusers_macdm.files import SETTINGS_FILE, begin, read_json, write_json


ROOT = Path(__file__).resolve().parent.parent


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
