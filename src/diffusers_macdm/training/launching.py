"""Trainings started through `accelerate launch`, as children that end when whoever started them does."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..files import locked


DENOISER, CLASSIFIER = ("-m", "diffusers_macdm.training.denoiser"), ("-m", "diffusers_macdm.training.classifier")
PROBE = ("-m", "diffusers_macdm.training.probe")
SECONDS_BETWEEN_LOOKS = 0.2


def mixed_precision() -> str:
    """bf16 where the hardware computes in it, which is faster; float32 elsewhere."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older releases of torch
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "no"


def launch_options(target: Sequence[str], options: Sequence[str], precision: str, num_processes: int = 1) -> list[str]:
    """Return the words after `accelerate launch` that start a training on this machine.

    Args:
        target: the script, or "-m" and the module.
        options: of the training.
        precision: what `mixed_precision` returns, or "no".
        num_processes: GPUs, or processes that share the cores.
    """
    words = ["--num_processes", str(num_processes), "--num_machines", "1", "--dynamo_backend", "no"]
    if num_processes > 1:
        words += ["--multi_gpu", "--main_process_port", "0"]  # any free port
    # Without it, accelerate gives each process one thread, on a CPU too.
    words += ["--num_cpu_threads_per_process", str(max(1, torch.get_num_threads() // num_processes))]
    return [*words, "--mixed_precision", precision, *target, *options]


def launch_environment(num_processes: int) -> dict[str, str]:
    """Return the environment of the launcher: several processes on a CPU have to be told that they are on one."""
    on_cpu = num_processes > 1 and not torch.cuda.is_available()
    return {**os.environ, **({"ACCELERATE_USE_CPU": "true"} if on_cpu else {})}


class Child:
    """`accelerate launch` with all that it starts, in a session of its own, so that Ctrl-C reaches it by `stop` alone.

    On Linux it is asked to end when this process ends in any way, SIGKILL included: the launcher gets SIGTERM then, and the
    training, which notices the end of its launcher, keeps its step. Elsewhere a killed parent leaves it running to its end.

    Args:
        words: after `accelerate launch`.
        folder: output folder of the training, whose lock tells when it has ended.
        num_processes: that it starts.
    """

    def __init__(self, words: Sequence[str], folder: Path, num_processes: int = 1):
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", *words],
            env=launch_environment(num_processes),
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )

    def status(self) -> int | None:
        """Return the exit status, None as long as it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to keep its step and to end (SIGTERM), and wait until it has."""
        if os.name == "posix":
            try:
                os.killpg(self._process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        else:
            self._process.terminate()
        self._process.wait()
        wait_until_free(self.folder)


def wait_until_free(folder: Path, seconds: float = 600.0) -> None:
    """Wait until no training writes into a folder: one whose launcher is gone finishes its update and keeps it.

    Raises:
        FileExistsError: when it is still written into after so many seconds.
    """
    until = time.monotonic() + seconds
    while folder.exists():
        try:
            with locked(folder):
                return
        except FileExistsError:
            if time.monotonic() > until:
                raise
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
