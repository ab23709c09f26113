"""A saved pipeline's folder, looked at before anything of it is loaded: a model may come from anybody.

Only the classes of this package and the schedulers of diffusers are loaded, from safetensors, and only what fits: the numbers
of the configurations are bounded, and each network is laid out without memory (on torch's "meta" device) and compared with the
header of its weights. What is no regular file (a pipe, a device) is not opened.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from safetensors import SafetensorError, safe_open

from .guidance_classifier import GuidanceClassifier
from .joint_sample import CHANNELS
from .unet import MaCDMUNet2DModel


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
MOST_PARAMETERS = 2**32  # of a network: 16 GiB of float32


def check_folder(folder: Path, given: Collection[str] = (), variant: str | None = None) -> None:
    """Refuse a folder that is no saved `MaCDMPipeline` that can be loaded safely.

    Args:
        folder: the saved pipeline.
        given: names of components that are not loaded from it.
        variant: of the weights, "fp16" say; where there is none of it the others are loaded.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: naming the file, what is wrong with it, and what is allowed.
    """
    path = folder / MODEL_INDEX
    index = read_object(path)
    for name, expected in NETWORKS.items():
        found = index.get(name)
        if name in given or (found in (None, [None, None]) and name != "unet"):
            continue
        if found == ["diffusers", "UNet2DModel"]:
            raise ValueError(
                f"{path}: {name} is a plain UNet2DModel, which has no masks and no class labels; a MaCDMUNet2DModel is needed "
                "(training with --pretrained_unet starts from the weights of a plain one)."
            )
        if found != [LIBRARY, expected.__name__]:
            raise ValueError(f"{path}: {name} is {_shown(found)}; {json.dumps([LIBRARY, expected.__name__])} is allowed.")
        check_network(folder / name, expected, variant)
    scheduler = index.get("scheduler")
    if "scheduler" not in given and scheduler not in (None, [None, None]):
        _check_scheduler(path, scheduler, folder / "scheduler")


def check_network(folder: Path, network_class: type[ModelMixin], variant: str | None = None) -> None:
    """Refuse a network's folder whose configuration is absurd, or whose weights are not those of the network.

    Raises:
        FileNotFoundError, ValueError: as `check_folder`.
    """
    path = folder / CONFIG
    expected = check_config(path, read_object(path), network_class)
    stored = _stored(folder, variant)
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        there, is_floating = stored.get(name, (None, None))
        if there != shape:
            found = "missing" if there is None else f"of shape {there}"
            raise ValueError(
                f"{folder}: the weights are not those of the network in {CONFIG}: {name} is {found}, {shape} is needed."
            )
        if tensor.is_floating_point() and not is_floating:
            raise ValueError(f"{folder}: {name} holds no floating-point numbers.")


def check_config(where: str | Path, config: Mapping[str, Any], network_class: type[ModelMixin]) -> dict[str, torch.Tensor]:
    """Refuse a network's configuration that is absurd; return its weights, laid out without memory.

    Args:
        where: what the sentence of an error begins with.
        config: the configuration.
        network_class: the network that it is of.

    Raises:
        ValueError: naming the number, and what is allowed.
    """
    if config.get("_class_name", network_class.__name__) != network_class.__name__:
        raise ValueError(f"{where} is that of a {_shown(config['_class_name'])}; a {network_class.__name__} is needed.")
    _check_numbers(where, config)
    if network_class in NETWORKS.values():
        channels = config.get("in_channels", len(CHANNELS))
        if channels != len(CHANNELS):
            raise ValueError(
                f"{where}: in_channels={_shown(channels)} is not allowed: a joint sample has {len(CHANNELS)} channels."
            )
    levels = config.get("block_out_channels", ())
    if not isinstance(levels, (list, tuple)) or len(levels) > MOST_LEVELS:
        raise ValueError(
            f"{where}: block_out_channels={_shown(levels)} is not allowed: a list of at most {MOST_LEVELS} widths."
        )
    weights = _weights(where, config, network_class)
    count = sum(tensor.numel() for tensor in weights.values())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{where}: a network of {count:,} parameters is too large: at most {MOST_PARAMETERS:,} are allowed.")
    return weights


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


def _check_numbers(path: str | Path, config: Mapping[str, Any]) -> None:
    for name, value in _whole_numbers(config):
        low, high = BOUNDS.get(name, (-LARGEST, LARGEST))
        if not low <= value <= high:
            raise ValueError(f"{path}: {name}={_shown(value)} is not allowed: a whole number from {low} to {high}.")
    for name in BOUNDS:
        value = config.get(name)
        if value is not None and not all(isinstance(x, int) and not isinstance(x, bool) for x in _sides(name, value)):
            raise ValueError(f"{path}: {name}={_shown(value)} is not allowed: a whole number is needed.")


def _sides(name: str, value) -> list:
    """Height and width, which diffusers' own networks may have apart."""
    return value if name == "sample_size" and isinstance(value, list) and value else [value]


def _whole_numbers(content, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _whole_numbers(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from _whole_numbers(value, name)
    elif isinstance(content, int) and not isinstance(content, bool):
        yield name, content


def _weights(where: str | Path, config: Mapping[str, Any], network_class: type[ModelMixin]) -> dict[str, torch.Tensor]:
    """Lay the network out without memory; returns its weights, which have a shape and nothing in them."""
    known = inspect.signature(network_class.__init__).parameters
    try:
        with torch.device("meta"):
            network = network_class(**{name: value for name, value in config.items() if name in known})
    except Exception as error:  # of many classes: diffusers' blocks check little of what they are given
        raise ValueError(
            f"{where}: there is no {network_class.__name__} of this configuration: {_first_line(error)}"
        ) from error
    return network.state_dict()


def _stored(folder: Path, variant: str | None) -> dict[str, tuple[list[int], bool]]:
    """Shapes of the stored weights, and whether they are floating-point numbers, from the headers of their files."""
    ends = [f".{variant}", ""] if variant else [""]
    whole = next((path for end in ends if (path := folder / f"{WEIGHTS}{end}.safetensors").exists()), None)
    index = next(
        (path for end in ends if (path := folder / f"{WEIGHTS}.safetensors.index{end}.json").exists()),
        folder / f"{WEIGHTS}.safetensors.index.json",
    )
    if index.exists():
        names = read_object(index).get("weight_map")
        names = set(names.values()) if isinstance(names, dict) and all(isinstance(x, str) for x in names.values()) else {""}
        if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise ValueError(f"{index}: its weight_map must name .safetensors files beside it.")
        files = [folder / name for name in sorted(names)]
    elif whole is not None or not (folder / f"{WEIGHTS}.bin").exists():
        files = [whole or folder / f"{WEIGHTS}.safetensors"]
    else:
        raise ValueError(f"{folder / WEIGHTS}.bin is a pickle, which can run code where it is loaded: safetensors are needed.")
    stored = {}
    for path in files:
        _check_regular(path)
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    found = file.get_slice(name)
                    stored[_renamed(name)] = found.get_shape(), found.get_dtype().startswith(("F", "BF"))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {_first_line(error)}") from error
    return stored


# What attention's weights were called before 2023; diffusers renames them when it loads them.
FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _renamed(name: str) -> str:
    path, _, kind = name.rpartition(".")
    path, _, layer = path.rpartition(".")
    return f"{path}.{FORMER_NAMES[layer]}.{kind}" if layer in FORMER_NAMES else name


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
    try:
        scheduler_class.from_config(config)
    except Exception as error:  # of many classes: schedulers check little of what they are given
        raise ValueError(f"{path}: there is no {name} of this configuration: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
