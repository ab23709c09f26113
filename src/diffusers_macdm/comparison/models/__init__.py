"""The generative models of the comparison, by name; a file each, imported when its model is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping


# Name of a model and of its module -> its class; the order is that of the report.
_CLASSES = {
    "macdm": "MaCDM",
    "classifier_free": "ClassifierFreeDiffusion",
    "latent_diffusion": "LatentDiffusion",
    "conditional_gan": "ConditionalGAN",
    "mask_conditional": "MaskConditionalDiffusion",
    "guided_ddpm": "GuidedDDPM",
}


class _Models(Mapping):
    """Subclass of `model.GenerativeModel` by its name; the names are there without torch."""

    def __getitem__(self, name: str) -> type:
        class_name = _CLASSES[name]
        return getattr(importlib.import_module(f".{name}", __name__), class_name)

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


MODELS: Mapping[str, type] = _Models()
