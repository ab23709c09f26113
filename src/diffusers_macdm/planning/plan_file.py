"""`plan.json`: what `macdm plan` writes, people edit and `macdm train` follows. Every field that is read is checked here."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..audit.settings import Settings as AuditSettings
from ..files import read_json
from ..generate.settings import Settings as GenerateSettings
from ..macdm.schedulers import scheduler_named
from ..training.settings import ClassifierSettings, DenoiserSettings


PLAN_FILE = "plan.json"
# What the command decides itself, for every plan.
OWN = {
    *("train_data_dir", "dataset_name", "dataset_config_name", "cache_dir", "output_dir", "resume_from_checkpoint"),
    *("dry_run", "dry_run_file", "push_to_hub", "hub_model_id", "hub_token", "hub_private_repo", "guidance_classifier"),
    *("model", "out", "real", "synthetic", "embedding", "strengths", "variations", "device"),
    *("from_data", "strength", "insert_into", "lesion_masks", "masks_from", "split", "class_labels", "reject_copies"),
}
# Part of a plan -> the options that it sets, and values of those that have no default.
PARTS: dict[str, tuple[type, dict[str, Any]]] = {
    "denoiser": (DenoiserSettings, {"train_data_dir": "data"}),
    "classifier": (ClassifierSettings, {"train_data_dir": "data"}),
    "samples": (GenerateSettings, {"model": "model", "out": Path("out"), "num_per_class": 1}),
    "audit": (AuditSettings, {"real": "real", "synthetic": "synthetic", "out": Path("out")}),
}
MAY_BE_NONE = ("classifier", "audit")
# What a plan says beside its parts, and of which type; nothing of it decides what is trained.
SAID: dict[str, Any] = {
    **dict.fromkeys(("data", "device", "region_of_interest", "expected", "measured", "versions"), dict),
    **{"preset": str | None, "time_budget_seconds": float | None, "reasons": tuple[str, ...]},
}


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan and check each field of it.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: for a field that there is not, a value of another kind or out of its range; file and field are named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such plan; `macdm plan DATA OUT` writes one.")
    plan = read_json(path, None)
    check_plan(plan, str(path))
    return plan


def check_plan(plan: Mapping[str, Any], where: str) -> None:
    """Raise `ValueError` unless every part of a plan can be followed."""
    for name, value in plan.items():
        if name not in PARTS and name not in SAID:
            raise ValueError(f"{where}: {name} is no field of a plan; there are {', '.join((*PARTS, *SAID))}.")
        if name in SAID:
            _of_kind(value, SAID[name], f"{where}: {name}")
    for name in PARTS:
        if name not in plan and name not in MAY_BE_NONE:
            raise ValueError(f"{where}: {name} is missing.")
        values = plan.get(name)
        if values is None and name in MAY_BE_NONE:
            continue
        if not isinstance(values, dict):
            raise ValueError(
                f"{where}: {name} is {values!r}; an object with the settings that differ from the defaults is needed."
            )
        settings_of(name, values, where)
    _check_sampling(plan, where)
    if plan.get("classifier") is not None:
        for name in ("ddpm_num_steps", "ddpm_beta_schedule", "resolution"):
            ours, theirs = (setting_of(plan, part, name) for part in ("denoiser", "classifier"))
            if ours != theirs:
                raise ValueError(f"{where}: classifier.{name} is {theirs}, denoiser.{name} {ours}: both must be the same.")


def _check_sampling(plan: Mapping[str, Any], where: str) -> None:
    """Refuse before the training what the sampling after it would refuse."""
    scheduler, steps = (setting_of(plan, "samples", name) for name in ("scheduler", "num_inference_steps"))
    if scheduler is not None:
        try:
            scheduler_named(scheduler)
        except ValueError as error:
            raise ValueError(f"{where}: samples: {error}") from error
    most = setting_of(plan, "denoiser", "ddpm_num_steps")
    if not 1 <= steps <= most:
        raise ValueError(
            f"{where}: samples: num_inference_steps={steps} is not allowed: a whole number from 1 to {most} (the training "
            "timesteps)."
        )


def settings_of(part: str, values: Mapping[str, Any], where: str, **own) -> Any:
    """Make the settings that a part of a plan stands for.

    Args:
        part: name in `PARTS`.
        values: settings that differ from the defaults.
        where: the plan, for the sentence of an error.
        own: what the command decides itself.

    Raises:
        ValueError: as `read_plan` does.
    """
    settings_class, needed = PARTS[part]
    hints = typing.get_type_hints(settings_class)
    named = {}
    for name, value in values.items():
        if name in OWN:
            raise ValueError(f"{where}: {part}.{name} is not allowed: `macdm train` sets it.")
        if name not in hints:
            raise ValueError(f"{where}: {part}.{name} is no setting of this part.")
        named[name] = _of_kind(value, hints[name], f"{where}: {part}.{name}")
    try:
        settings = settings_class(**{**needed, **named, **own})
        if hasattr(settings, "check"):
            settings.check()
    except ValueError as error:
        raise ValueError(f"{where}: {part}: {re.sub(r'--(?=[a-z])', '', str(error))}") from error
    return settings


def setting_of(plan: Mapping[str, Any], part: str, name: str) -> Any:
    """Return a setting of a part, its default where the plan does not name it."""
    values = plan[part]
    return values[name] if name in values else getattr(PARTS[part][0], name)


def words_of(settings_class: type, values: Mapping[str, Any]) -> list[str]:
    """Return settings as options of a training script: `{"augment": False, "patch_size": 4}` -> --no-augment --patch_size 4.

    What is None is not given; so it must be the default, as it is of all settings that may be None.
    """
    names = {field.name for field in dataclasses.fields(settings_class)}
    words = []
    for name, value in values.items():
        assert name in names, name
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list | tuple):
            words += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def _of_kind(value: Any, hint: Any, where: str) -> Any:
    """Return a JSON value as a field of this type takes it: a list as a tuple, a whole number where any number goes.

    Raises:
        ValueError: for a value of another kind, and for a number that is not finite.
    """
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for kind in kinds:
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        if kind is type(None) and value is None:
            return None
        if origin is typing.Literal and value in parts and not isinstance(value, bool):
            return value
        if origin is tuple and isinstance(value, list):
            inner = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
            if len(inner) == len(value):
                return tuple(_of_kind(item, one, where) for item, one in zip(value, inner, strict=True))
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if kind in (int, str, bool, dict) and type(value) is kind:
            return value
    raise ValueError(f"{where} is {value!r}; {' or '.join(map(_kind_in_words, kinds))} is needed.")


def _kind_in_words(kind: Any) -> str:
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, parts))
    if typing.get_origin(kind) is tuple:
        number = "any number" if parts[-1] is Ellipsis else str(len(parts))
        return f"a list of {number} of: {_kind_in_words(parts[0])}"
    return {
        int: "a whole number",
        float: "a finite number",
        str: "a text",
        dict: "an object",
        bool: "true or false",
        type(None): "null",
    }.get(kind, getattr(kind, "__name__", str(kind)))
