"""The generative models of the comparison, by name."""

from __future__ import annotations

from .classifier_free import ClassifierFreeDiffusion
from .interface import GenerativeModel
from .macdm import MaCDM


MODELS: dict[str, type[GenerativeModel]] = {model.name: model for model in (MaCDM, ClassifierFreeDiffusion)}
