"""A saved pipeline's folder, looked at before anything of it is loaded: a model may come from anybody.

Only the classes of this package and the schedulers of diffusers are loaded, from safetensors, and only what fits: the numbers
of the configurations are bounded, and each network is laid out without memory (on torch's "meta" device) and compared with the
header of its weights. What is no regular file (a pipe, a device) is not opened.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from safetensors import SafetensorError, safe_open

from ..macdm import GuidanceClassifier, MaCDMUNet2DModel
from ..macdm.joint_sample import CHANNELS


MODEL_INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
LIBRARY = "macdm"
NETWORKS: dict[str, type[ModelMixin]] = {
    "unet": MaCDMUNet2DModel,
    "weak_unet": MaCDMUNet2DModel,
    "guidance_classifier": GuidanceClassifier,
}
MOST_BYTES = 8 * 2**20  # of a JSON file; with 100,000 betas it has 2 million
MOST_DEPTH = 8  # of lists and objects in each other
LARGEST = 2**20  # of any whole number that has no bounds of its own
BOUNDS = {
    "sample_size": (1, 4096),
    "in_channels": (1, 64),
    "out_channels": (1, 128),
    "layers_per_block": (1, 64),
    "patch_size": (1, 256),
    "downsample_padding": (0, 8),
    "num_classes": (2, 10_000),
    "num_class_embeds": (2, 10_001),
    "num_train_timesteps": (2, 100_000),
    "detail_channels": (0, 4096),
    "augmentation_dim": (0, 4096),
    "solver_order": (1, 10),
    "steps_offset": (0, 100_000),
}
MOST_LEVELS = 16  # of resolution


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no saved `MaCDMPipeline` that can be loaded safely.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: naming the file, what is wrong with it, and what is allowed.
    """
    path = folder / MODEL_INDEX
    index = read_object(path)
    for name, expected in NETWORKS.items():
        found = index.get(name)
        if found in (None, [None, None]) and name != "unet":
            continue
        if found == ["diffusers", "UNet2DModel"]:
            raise ValueError(
                f"{path}: {name} is a plain UNet2DModel, which has no masks and no class labels; a MaCDMUNet2DModel is needed "
                "(training with --pretrained_unet starts from the weights of a plain one)."
            )
        if found != [LIBRARY, expected.__name__]:
            raise ValueError(f"{path}: {name} is {_shown(found)}; {json.dumps([LIBRARY, expected.__name__])} is allowed.")
        check_network(folder / name, expected)
    scheduler = index.get("scheduler")
    if scheduler not in (None, [None, None]):
        _check_scheduler(path, scheduler, folder / "scheduler")


def check_network(folder: Path, network_class: type[ModelMixin]) -> None:
    """Refuse a network's folder whose configuration is absurd, or whose weights are not those of the network.

    Raises:
        FileNotFoundError, ValueError: as `check_folder`.
    """
    path = folder / CONFIG
    config = read_object(path)
    if config.get("_class_name", network_class.__name__) != network_class.__name__:
        raise ValueError(f"{path} is that of a {_shown(config['_class_name'])}; a {network_class.__name__} is needed.")
    _check_numbers(path, config)
    channels = config.get("in_channels", len(CHANNELS))
    if channels != len(CHANNELS):
        raise ValueError(f"{path}: in_channels={_shown(channels)} is not allowed: a joint sample has {len(CHANNELS)} channels.")
    levels = config.get("block_out_channels", ())
    if not isinstance(levels, (list, tuple)) or len(levels) > MOST_LEVELS:
        raise ValueError(f"{path}: block_out_channels={_shown(levels)} is not allowed: a list of at most {MOST_LEVELS} widths.")
    expected = _shapes(path, config, network_class)
    stored = _stored_shapes(folder)
    for name, shape in expected.items():
        if stored.get(name) != shape:
            there = f"of shape {stored[name]}" if name in stored else "missing"
            raise ValueError(
                f"{folder}: the weights are not those of the network in {CONFIG}: {name} is {there}, {shape} is needed."
            )


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file that may hold anything.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: when it is no regular file, too large, nested too deeply, or no JSON object.
    """
    _check_regular(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        content = None
        too_deep = True
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    else:
        too_deep = _depth(content) > MOST_DEPTH
    if too_deep:
        raise ValueError(f"{path} is nested too deeply: at most {MOST_DEPTH} lists and objects in each other are read.")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return content


def _check_regular(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; it belongs to a saved MaCDMPipeline.")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file (a folder, a pipe or a device) and is not opened.")


def _depth(content) -> int:
    depth, layer = 0, [content]
    while layer:
        depth += 1
        inner = (item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, (dict, list)))
        layer = [value for values in inner for value in values]
        if depth > MOST_DEPTH + 1:
            break
    return depth - 1


def _check_numbers(path: Path, config: Mapping[str, Any]) -> None:
    for name, value in _whole_numbers(config):
        low, high = BOUNDS.get(name, (-LARGEST, LARGEST))
        if not low <= value <= high:
            raise ValueError(f"{path}: {name}={_shown(value)} is not allowed: a whole number from {low} to {high}.")
    for name in BOUNDS:
        value = config.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{path}: {name}={_shown(value)} is not allowed: a whole number is needed.")


def _whole_numbers(content, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _whole_numbers(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from _whole_numbers(value, name)
    elif isinstance(content, int) and not isinstance(content, bool):
        yield name, content


def _shapes(path: Path, config: Mapping[str, Any], network_class: type[ModelMixin]) -> dict[str, list[int]]:
    """Lay the network out without memory; returns the shape of each weight."""
    known = inspect.signature(network_class.__init__).parameters
    try:
        with torch.device("meta"):
            network = network_class(**{name: value for name, value in config.items() if name in known})
    except Exception as error:  # of many classes: diffusers' blocks check little of what they are given
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: there is no {network_class.__name__} of this configuration: {reason}") from error
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def _stored_shapes(folder: Path) -> dict[str, list[int]]:
    """Shapes of the stored weights, from the headers of their files."""
    whole, index = folder / f"{WEIGHTS}.safetensors", folder / f"{WEIGHTS}.safetensors.index.json"
    if index.exists():
        names = read_object(index).get("weight_map")
        names = set(names.values()) if isinstance(names, dict) and all(isinstance(x, str) for x in names.values()) else {""}
        if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise ValueError(f"{index}: its weight_map must name .safetensors files beside it.")
        files = [folder / name for name in sorted(names)]
    elif whole.exists() or not (folder / f"{WEIGHTS}.bin").exists():
        files = [whole]
    else:
        raise ValueError(f"{folder / WEIGHTS}.bin is a pickle, which can run code where it is loaded: safetensors are needed.")
    shapes = {}
    for path in files:
        _check_regular(path)
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                shapes |= {name: found.get_shape() for name, found in slices.items()}
                whole_numbers = [name for name, found in slices.items() if not found.get_dtype().startswith(("F", "BF"))]
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {str(error).strip().splitlines()[0]}") from error
        if whole_numbers:
            raise ValueError(f"{path}: {whole_numbers[0]} holds no floating-point numbers.")
    return shapes


def _check_scheduler(index: Path, found, folder: Path) -> None:
    name = found[1] if isinstance(found, list) and len(found) == 2 and found[0] == "diffusers" else None
    scheduler_class = getattr(diffusers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise ValueError(f'{index}: scheduler is {_shown(found)}; "diffusers" and the name of a scheduler there are allowed.')
    path = folder / SCHEDULER_CONFIG
    config = read_object(path)
    _check_numbers(path, config)
    for parameter in inspect.signature(scheduler_class.__init__).parameters.values():
        default, value = parameter.default, config.get(parameter.name)
        if default in (None, inspect.Parameter.empty) or parameter.name not in config or _is_alike(default, value):
            continue
        raise ValueError(f"{path}: {parameter.name}={_shown(value)} is not allowed: it is of the kind of {default!r}.")


def _is_alike(default, value) -> bool:
    """Whether a value is of the kind of a parameter's default: a switch, a number, a text."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float))
    return isinstance(value, str) if isinstance(default, str) else True


def _shown(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
