"""Trained models from a folder or from the Hub, for those who work with them."""

from __future__ import annotations

import re
from pathlib import Path

from .hub_errors import hub_reason
from .macdm import MaCDMPipeline


def load_pipeline(model: str | Path) -> MaCDMPipeline:
    """Load a `MaCDMPipeline` from a folder or from the Hub, or say in one sentence why that cannot be done.

    Raises:
        FileNotFoundError: when there is no such folder, or it holds no pipeline.
        ValueError: when it cannot be loaded.
    """
    is_folder = Path(model).is_dir()
    if is_folder and not (Path(model) / "model_index.json").is_file():
        raise FileNotFoundError(f"{model}: the folder has no model_index.json, so it is no saved MaCDMPipeline.")
    if not is_folder and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(model)):
        raise FileNotFoundError(f"{model}: no such folder (and not the name of a Hub repository, which is owner/name).")
    try:
        pipe = MaCDMPipeline.from_pretrained(str(model))
    except Exception as error:  # of many classes, from diffusers, huggingface_hub and safetensors
        reason = None if is_folder else hub_reason(error)
        reason = reason or (str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        what = "as a MaCDMPipeline" if is_folder else "from the Hub (and there is no such folder)"
        raise ValueError(f"{model}: cannot be loaded {what}: {reason}") from error
    return pipe


def own_version() -> str:
    """Of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("diffusers-macdm")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
