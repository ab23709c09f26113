"""The feature spaces in which real and synthetic radiographs are compared; each has a name that goes into the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..hub.errors import hub_reason


DEFAULT_NAME = "diagnosis classifier (ResNet-34) trained on the real training cases"
_SIDE = 224  # where a model's preprocessor_config.json states no size
_DTYPE_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, KeyError)  # of a forward pass that is not for images


@dataclass(frozen=True)
class FeatureExtractor:
    """Radiographs -> vectors.

    Attributes:
        name: for the results.
        function: float32 `[B, 1, H, W]` in [-1, 1], on `device`, to `[B, D]`.
        device: where it runs.
        batch_size: radiographs at a time.
    """

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    device: str | torch.device = "cpu"
    batch_size: int = 32

    @torch.no_grad()
    def __call__(self, radiographs: torch.Tensor) -> np.ndarray:
        """`[N, 1, H, W]` in [-1, 1] -> float32 `[N, D]`.

        Raises:
            ValueError: when the function does not give one finite vector for each radiograph.
        """
        parts = [self.function(batch.to(self.device)) for batch in radiographs.split(self.batch_size)]
        features = torch.cat([part.float().cpu() for part in parts])
        if features.ndim != 2 or len(features) != len(radiographs):
            raise ValueError(
                f"{self.name}: gave {tuple(features.shape)} for {len(radiographs)} radiographs; one vector for each is needed."
            )
        if not features.isfinite().all():
            raise ValueError(f"{self.name}: gave features that are not finite.")
        return features.numpy()


def classifier_features(
    diagnosis_classifier: nn.Module, *, name: str = DEFAULT_NAME, device: str | torch.device = "cpu"
) -> FeatureExtractor:
    """Return what the last layer of a ResNet sees: the pooled feature maps, `[N, 512]` of a ResNet-34."""
    backbone = diagnosis_classifier.resnet.to(device).eval()
    return FeatureExtractor(name, lambda radiographs: backbone(radiographs).pooler_output.flatten(1), device)


def load_feature_extractor(source: str | Path, *, device: str | torch.device = "cpu") -> FeatureExtractor:
    """Load a feature extractor that was trained elsewhere.

    Args:
        source: a folder or Hub repository of a transformers vision model (DINOv2, ViT, ResNet, ...), which brings its own size
            and normalisation in `preprocessor_config.json`; or a TorchScript file `NAME.pt` that takes `[N, 3, H, W]` in [0, 1]
            of any size and gives `[N, D]` (so it resizes and normalises itself; an Inception of the usual FID and KID, wrapped
            so, gives numbers in the customary feature space).

    Raises:
        FileNotFoundError: when there is no such file or folder.
        ValueError: when it cannot be loaded, lacks weights, or does not take images.
    """
    source = str(source)
    if source.endswith(".pt"):
        extractor = _torchscript(Path(source), device)
    else:
        extractor = _transformers(source, device)
    try:
        extractor(torch.zeros(2, 1, 32, 32))
    except _DTYPE_ERRORS as error:
        raise ValueError(f"{source}: is no feature extractor for images: {_first_line(error)}") from error
    return extractor


def _torchscript(path: Path, device) -> FeatureExtractor:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such TorchScript file.")
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{path}: cannot be loaded as TorchScript (torch.jit.save): {_first_line(error)}") from error
    return FeatureExtractor(path.name, lambda radiographs: network(_to_rgb(radiographs)), device)


def _transformers(source: str, device) -> FeatureExtractor:
    import transformers

    is_folder = Path(source).is_dir()
    if not is_folder and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise FileNotFoundError(f"{source}: no such folder, and not the name of a Hub repository, which is owner/name.")
    try:
        # Not `AutoImageProcessor`: those of today's models need torchvision.
        preprocessing = json.loads(Path(_file_of(source, "preprocessor_config.json")).read_text(encoding="utf-8"))
        network, loading = transformers.AutoModel.from_pretrained(source, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # of many classes, from transformers, huggingface_hub and safetensors
        reason = (None if is_folder else hub_reason(error)) or _first_line(error)
        raise ValueError(f"{source}: cannot be loaded as a vision model of transformers: {reason}") from error
    # The pooler is not used; many checkpoints come without it.
    missing = [key for key in loading["missing_keys"] if not key.startswith("pooler")]
    if missing:
        raise ValueError(f"{source}: the checkpoint lacks {len(missing)} weights of the model, {missing[0]} among them.")
    side = _side(preprocessing)
    mean = torch.tensor(preprocessing.get("image_mean", [0.5] * 3), device=device)[:, None, None]  # [3, 1, 1]
    std = torch.tensor(preprocessing.get("image_std", [0.5] * 3), device=device)[:, None, None]
    network = network.to(device).eval()
    has_class_token = getattr(getattr(network, "embeddings", None), "cls_token", None) is not None

    def function(radiographs):
        # The whole film, never a center crop: the finding may lie at the border.
        resized = F.interpolate(_to_rgb(radiographs), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        hidden = network(pixel_values=(resized - mean) / std).last_hidden_state  # [B, D, h, w] or [B, tokens, D]
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if has_class_token else hidden.mean(dim=1)

    name = f"{network.config.model_type} {Path(source).name if is_folder else source}, {side} px"
    return FeatureExtractor(name, function, device)


def _file_of(source: str, name: str) -> str:
    if Path(source).is_dir():
        if not (Path(source) / name).is_file():
            raise FileNotFoundError(f"there is no {name} in it")
        return str(Path(source) / name)
    from huggingface_hub import hf_hub_download

    return hf_hub_download(source, name)


def _side(preprocessing: dict) -> int:
    """Side of the square that the model was trained on: the crop where there is one, else the size."""
    for key in ("crop_size", "size") if preprocessing.get("do_center_crop") else ("size",):
        size = preprocessing.get(key)
        if isinstance(size, int):
            return size
        if isinstance(size, dict) and size:
            return int(size.get("height") or size.get("shortest_edge") or _SIDE)
    return _SIDE


def _to_rgb(radiographs: torch.Tensor) -> torch.Tensor:
    """`[B, 1, H, W]` in [-1, 1] -> `[B, 3, H, W]` in [0, 1], gray."""
    return (radiographs / 2 + 0.5).clamp(0, 1).expand(-1, 3, -1, -1)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
