"""Trainings started through `accelerate launch`, as children that end when whoever started them does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..files import locked
from .stopping import HELD_BY_COMMAND


DENOISER, CLASSIFIER = ("-m", "diffusers_macdm.training.denoiser"), ("-m", "diffusers_macdm.training.classifier")
PROBE = ("-m", "diffusers_macdm.training.probe")
SECONDS_BETWEEN_LOOKS = 0.2
# glibc's defaults give memory back to the system and take it again in every update, up to a third of the time on a CPU. Other
# allocators do not read these.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


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
    """Return the environment of the launcher: memory is kept, and several processes on a CPU are told that they are on one."""
    on_cpu = num_processes > 1 and not torch.cuda.is_available()
    return {**MEMORY, **os.environ, **({"ACCELERATE_USE_CPU": "true"} if on_cpu else {})}


def run_to_its_end(words: Sequence[str]) -> subprocess.CompletedProcess:
    """Run `accelerate launch` with these words and keep what it prints; it is killed when this process is interrupted."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *words]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=launch_environment(1), start_new_session=True, **output)
    try:
        printed, errors = process.communicate()
    except BaseException:
        _signal_all(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, printed, errors)


def _signal_all(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process that leads its session, and to all that it has started."""
    if os.name != "posix":
        process.terminate()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class Child:
    """`accelerate launch` with all that it starts, in a session of its own, so that Ctrl-C reaches it by `stop` alone.

    When this process ends in any way, SIGKILL included, the training keeps its update and ends, too: its standard input is
    a pipe that ends then.

    Args:
        words: after `accelerate launch`.
        folder: output folder of the training, whose lock tells when it has ended.
        num_processes: that it starts.
    """

    def __init__(self, words: Sequence[str], folder: Path, num_processes: int = 1):
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", *words],
            env=launch_environment(num_processes) | {HELD_BY_COMMAND: "1"},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def status(self) -> int | None:
        """Return the exit status, None as long as it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to keep its step and to end (SIGTERM), and wait until it has."""
        _signal_all(self._process, signal.SIGTERM)
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
