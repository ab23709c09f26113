"""What a checkpoint holds of a network in training: safetensors and JSON, nothing that could run code.

    model/, model_ema/          the weights and their moving average, as `from_pretrained` reads them
    optimizer.safetensors       the optimizer's moments by the names of the parameters
    scaler.json                 the loss scale of fp16

The learning rate needs no file: it is a function of the options and the step, as everything random is (`places`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..files import read_json, write_json


MODEL, AVERAGE, WEIGHTS = "model", "model_ema", "diffusion_pytorch_model.safetensors"
OPTIMIZER, OPTIMIZER_0_1_0 = "optimizer.safetensors", "optimizer.bin"
SCALER, SCALER_0_1_0 = "scaler.json", "scaler.pt"


def is_0_1_0(checkpoint: Path) -> bool:
    """Whether version 0.1.0 has written the checkpoint."""
    return (checkpoint / OPTIMIZER_0_1_0).is_file() and not (checkpoint / OPTIMIZER).is_file()


def write_state(folder: Path, model: torch.nn.Module, average: EMAModel | None, optimizer, scaler) -> None:
    """Write what is needed to go on; `scaler` is that of fp16, or None."""
    model.save_pretrained(folder / MODEL)
    if average is not None:
        average.save_pretrained(folder / AVERAGE)
    names = [name for name, _ in model.named_parameters()]
    moments = {
        f"{names[number]}/{key}": value.detach().cpu().contiguous()
        for number, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }
    save_file(moments, folder / OPTIMIZER)
    if scaler is not None:
        write_json(folder / SCALER, scaler.state_dict())


def read_state(folder: Path, model: torch.nn.Module, average: EMAModel | None, optimizer, scaler) -> None:
    """Take over a checkpoint, of this version or of 0.1.0; rates and decays stay those of the options.

    Raises:
        ValueError: when there is something that it does not hold, or what it holds is not of this network.
    """
    try:
        _read_state(folder, model, average, optimizer, scaler)
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} is not of this network: {str(error).strip().splitlines()[-1].strip()}") from error


def _read_state(folder: Path, model: torch.nn.Module, average: EMAModel | None, optimizer, scaler) -> None:
    if average is not None:
        if not (folder / AVERAGE).is_dir():
            raise ValueError(f"--use_ema does not fit {folder}, which was trained without a moving average: add --no-use_ema.")
        averages = load_file(folder / AVERAGE / WEIGHTS)
        for (name, _), ours in zip(model.named_parameters(), average.shadow_params, strict=True):
            ours.data.copy_(averages[name])
        average.optimization_step = read_json(folder / AVERAGE / "config.json")["optimization_step"]
    model.load_state_dict(load_file(folder / MODEL / WEIGHTS))
    numbers = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    if is_0_1_0(folder):
        state = _moments_of_0_1_0(folder / OPTIMIZER_0_1_0, len(numbers))
    else:
        state = {}
        for name, value in load_file(folder / OPTIMIZER).items():
            parameter, _, key = name.rpartition("/")
            state.setdefault(numbers[parameter], {})[key] = value
    _check_moments(state, list(model.parameters()))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler is not None:
        if (folder / SCALER).is_file():
            scaler.load_state_dict(read_json(folder / SCALER))
        elif (folder / SCALER_0_1_0).is_file():
            scaler.load_state_dict(_unpickled(folder / SCALER_0_1_0))


def _check_moments(state: dict[int, dict[str, torch.Tensor]], parameters: list[torch.nn.Parameter]) -> None:
    """Raise `RuntimeError` for moments of other shapes, which torch would first notice in its update."""
    for number, values in state.items():
        for key in ("exp_avg", "exp_avg_sq"):
            if values[key].shape != parameters[number].shape:
                found, needed = (list(tensor.shape) for tensor in (values[key], parameters[number]))
                raise RuntimeError(f"{key} of a weight is of shape {found}, {needed} is needed")
        if values["step"].numel() != 1:
            raise RuntimeError("the number of updates of a weight is no number")


def _moments_of_0_1_0(path: Path, num_parameters: int) -> dict[int, dict[str, torch.Tensor]]:
    content = _unpickled(path)
    moments = content.get("state") if isinstance(content, dict) else None
    keys = {"step", "exp_avg", "exp_avg_sq"}
    if (
        not isinstance(moments, dict)
        or not moments.keys() <= set(range(num_parameters))
        or not all(isinstance(values, dict) and values.keys() >= keys for values in moments.values())
    ):
        raise ValueError(f"{path} is damaged: it has not the moments of {num_parameters} parameters.")
    return moments


def _unpickled(path: Path) -> Any:
    """A file of version 0.1.0: tensors and numbers alone, anything else in it is refused before it can run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many classes
        raise ValueError(f"{path} cannot be read: it is damaged, or holds more than tensors and numbers.") from error
