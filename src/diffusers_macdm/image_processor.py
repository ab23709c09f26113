"""Between what a user holds (PIL images, arrays, tensors) and the tensors of the pipeline.

Ranges: radiograph file -> [0, 1] -> [-1, 1] -> [0, 1] -> file; mask 0 / non-zero -> {0, 1} -> {-1, 1} -> {0, 1} -> 0 / 255.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch

from .data.loading import mask_array, radiograph_array, resize_mask, resize_radiograph


OUTPUT_TYPES = ("pil", "np", "pt")


def radiographs_from(value, name: str, size: int) -> torch.Tensor:
    """One or several radiographs -> `[B, 1, size, size]` float32 in [0, 1].

    Args:
        value: a PIL image (8- or 16-bit grayscale, any size: resampled as in training), an array `[H, W]`, `[B, H, W]` or
            `[B, H, W, 1]`, a tensor `[H, W]`, `[B, H, W]` or `[B, 1, H, W]`, or a list of these. Floating point is in
            [0, 1]; uint8 and uint16 are divided by their maximum.
        name: the argument's name, for the error message.

    Raises:
        ValueError: for another type, shape, size or range, naming the value and what is allowed.
    """
    return torch.cat([_radiographs_from_one(item, name, size) for item in _as_list(value, name)])


def masks_from(value, name: str, size: int, keep_small: bool) -> torch.Tensor:
    """One or several masks -> `[B, 1, size, size]` float32 in {0, 1}; types, shapes and errors as `radiographs_from`.
    Any non-zero value is inside. PIL images are resampled as in training: with `keep_small` for lesions, without for the
    anatomy (`data.loading.resize_mask`)."""
    return torch.cat([_masks_from_one(item, name, size, keep_small) for item in _as_list(value, name)])


def to_output(images: torch.Tensor, output_type: str):
    """`[B, 1, H, W]` in [0, 1] -> list of 8-bit grayscale PIL images, array `[B, H, W, 1]` or tensor `[B, 1, H, W]`."""
    if output_type == "pt":
        return images
    array = images.cpu().permute(0, 2, 3, 1).numpy()  # [B, H, W, 1]
    if output_type == "np":
        return array
    return [PIL.Image.fromarray(image[..., 0]) for image in np.rint(array * 255).astype(np.uint8)]


def _as_list(value, name: str) -> list:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise ValueError(f"{name} is an empty list; give at least one.")
    return values


def _radiographs_from_one(value, name: str, size: int) -> torch.Tensor:
    if isinstance(value, PIL.Image.Image):
        return torch.from_numpy(resize_radiograph(radiograph_array(value), size))[None, None]
    tensor = _to_tensor(value, name, size)
    if not tensor.is_floating_point():
        maximum = {torch.uint8: 255, torch.uint16: 65535, torch.bool: 1}.get(tensor.dtype)
        if maximum is None:
            raise ValueError(f"{name} has dtype {tensor.dtype}; allowed are floating point in [0, 1], uint8 and uint16.")
        return tensor.float() / maximum
    tensor = tensor.float()
    if not (tensor.isfinite().all() and tensor.min() >= 0 and tensor.max() <= 1):
        raise ValueError(
            f"{name} has values from {tensor.min().item():.4g} to {tensor.max().item():.4g}; "
            "floating point arrays and tensors must be in [0, 1]."
        )
    return tensor


def _masks_from_one(value, name: str, size: int, keep_small: bool) -> torch.Tensor:
    if isinstance(value, PIL.Image.Image):
        mask = resize_mask(mask_array(value), size, keep_small)
        return torch.from_numpy(mask)[None, None].float()
    tensor = _to_tensor(value, name, size)
    if tensor.is_floating_point() and not tensor.min() >= 0:
        raise ValueError(f"{name} has negative values or NaN; masks are 0 outside and positive inside.")
    return (tensor != 0).float()


def _to_tensor(value, name: str, size: int) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        array = value[..., 0] if value.ndim == 4 and value.shape[-1] == 1 else value
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    elif torch.is_tensor(value):
        tensor = value.detach()[:, 0] if value.ndim == 4 and value.shape[1] == 1 else value.detach()
    else:
        raise ValueError(f"{name} is a {type(value).__name__}; allowed are PIL images, arrays, tensors and lists of them.")
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] < 1 or tuple(tensor.shape[1:]) != (size, size):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; this model takes single-channel images of {size}x{size}: arrays "
            f"[H, W], [B, H, W] or [B, H, W, 1], tensors [H, W], [B, H, W] or [B, 1, H, W] (PIL images are resampled)."
        )
    return tensor[:, None]
