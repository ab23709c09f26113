"""Publishing on the Hugging Face Hub and loading from it."""

from __future__ import annotations

import importlib


__all__ = ["Push", "load_pipeline", "push_dataset", "push_metric", "push_model"]

_MODULES = {
    "Push": ".publish",
    "load_pipeline": ".loading",
    "push_dataset": ".dataset",
    "push_metric": ".metric",
    "push_model": ".model",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
