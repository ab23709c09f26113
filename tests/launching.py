"""Starts the training scripts: as users do, in a process of their own, or in this one, which saves the imports."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from diffusers_macdm.parsing import parse
from diffusers_macdm.training import classifier, denoiser
from diffusers_macdm.training.settings import ClassifierSettings, DenoiserSettings


TRAINING = Path(__file__).resolve().parents[1] / "training"
MODULES = {"train_macdm": denoiser, "train_guidance_classifier": classifier}
SETTINGS = {"train_macdm": DenoiserSettings, "train_guidance_classifier": ClassifierSettings}

TINY = {
    "resolution": 32,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "layers_per_block": 1,
    "patch_size": 2,
    "train_batch_size": 4,
    "max_train_steps": 4,
    "learning_rate": 1e-3,
    "lr_warmup_steps": 2,
    "logging_steps": 1,
    "report_to": "none",
}
# What one of the scripts alone knows. The copy audit has tests of its own (test_copy_watch.py).
TINY_OF = {"train_macdm": {"audit_steps": 0}, "train_guidance_classifier": {}}
# What an exact resume has to restore, all at once.
RESUMABLE = {
    "max_train_steps": 30,
    "checkpointing_steps": 10,
    "gradient_accumulation_steps": 2,
    "dropout": 0.1,
    "use_ema": True,
    "logging_steps": 1,
    "report_to": "tensorboard",
}


def options(**values) -> list[str]:
    """`a=1, b=[2, 3], c=True, d=False` -> `--a 1 --b 2 3 --c --no-d`."""
    words = []
    for name, value in values.items():
        if value is False:
            words.append(f"--no-{name}")
        elif value is True:
            words.append(f"--{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def command(script: str, *launch_options: str, **values) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", *launch_options, str(TRAINING / f"{script}.py")]
    return [*launch, *options(**{**TINY, **TINY_OF[script], **values})]


def launch(script: str, *launch_options: str, **values) -> subprocess.CompletedProcess:
    """`accelerate launch training/SCRIPT.py` on the CPU, to its end."""
    launch_options = launch_options or ("--cpu", "--num_processes", "1")
    return subprocess.run(command(script, *launch_options, **values), capture_output=True, text=True, env=environment())


def launch_and_kill(script: str, log: Path, checkpoints: Path, **values) -> int:
    """Kill the script (SIGKILL) once it is past a checkpoint; return the number of the last step it has logged."""
    process = subprocess.Popen(
        command(script, "--cpu", "--num_processes", "1", **values),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own: the launcher and the script end together
    )
    try:
        while last_step(log) <= max((int(p.name.split("-")[1]) for p in _complete(checkpoints)), default=sys.maxsize):
            if process.poll() is not None:
                raise AssertionError(f"{script} ended before it could be killed:\n{process.stderr.read()}")
            time.sleep(0.002)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return last_step(log)


def run_here(monkeypatch, script: str, **values) -> None:
    """The script's `main`, in this process, on the CPU."""
    monkeypatch.setattr(sys, "argv", [script, *options(**{**TINY, **TINY_OF[script], **values})])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    reset_accelerate()
    try:
        MODULES[script].main()
    finally:
        reset_accelerate()


def resolve_here(script: str, **values):
    """What the script would do, without doing it."""
    return MODULES[script].resolve(settings_of(script, **values))


def settings_of(script: str, **values):
    """The settings of the script's tiny run with these options."""
    words = options(**{**TINY, **TINY_OF[script], **values})
    return parse(SETTINGS[script], words, script, underscores=True)


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_step(log: Path) -> int:
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp" in path.name]


def assert_same_checkpoint(a: Path, b: Path, with_ema: bool) -> None:
    """Weights, average and the optimizer's moments are bit-identical."""
    for part in ("model", "model_ema") if with_ema else ("model",):
        assert_same_weights(a / part, b / part)
    assert_same_tensors(a / "optimizer.safetensors", b / "optimizer.safetensors")


def assert_same_tensors(a: Path, b: Path) -> None:
    tensors_a, tensors_b = load_file(a), load_file(b)
    assert tensors_a.keys() == tensors_b.keys() and len(tensors_a) > 10
    assert all(torch.equal(tensors_a[name], tensors_b[name]) for name in tensors_a)


def assert_same_weights(a: Path, b: Path) -> None:
    assert_same_tensors(*(folder / "diffusion_pytorch_model.safetensors" for folder in (a, b)))


def _complete(checkpoints: Path) -> list[Path]:
    return [path for path in checkpoints.glob("checkpoint-*") if not path.name.endswith(".tmp")]


def environment() -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
