"""A `MaCDMUNet2DModel` from the weights of a plain `UNet2DModel`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from diffusers import UNet2DModel
from diffusers.utils import logging

from ..macdm.unet import MaCDMUNet2DModel


logger = logging.get_logger("diffusers.macdm.unet")


def from_unet2d(unet: UNet2DModel, **config) -> MaCDMUNet2DModel:
    r"""
    Start from a plain `UNet2DModel` (any checkpoint of the Hub): its configuration and weights are taken over, the
    mask channels are added at zero, so the new network predicts for the radiograph what the old one does.

    A plain model for RGB becomes one for grayscale: the input weights of the three channels are summed (a gray
    image fed to all three gives the same), the outputs averaged. With `patch_size` > 1 the first and the last
    convolution have another shape and start anew. What was taken over and what was not is logged.

    Args:
        unet (`UNet2DModel`): the model to start from.
        config: overrides of `MaCDMUNet2DModel`'s parameters, for example `sample_size` or `patch_size`.

    Raises:
        ValueError: if the architecture is overridden so that no weight fits.
    """
    return from_plain(unet.config, unet.state_dict(), **config)


def from_plain(plain_config: Mapping, state_dict: Mapping[str, torch.Tensor], **config) -> MaCDMUNet2DModel:
    r"""
    Start from a plain network that is there as data, such as `guided_diffusion.load_guided_diffusion` gives it (see
    `from_unet2d`).

    Args:
        plain_config: parameters of the `UNet2DModel`, besides `num_attention_heads` and `time_proj_dim` of `MaCDMUNet2DModel`.
        state_dict: its weights.
        config: overrides of `MaCDMUNet2DModel`'s parameters.

    Raises:
        ValueError: if the architecture is overridden so that no weight fits.
    """
    # The configuration may hold more than the parameters of a network, those of its EMA for example.
    parameters = {*inspect.signature(UNet2DModel).parameters, "num_attention_heads", "time_proj_dim"}
    inherited = {key: value for key, value in plain_config.items() if key in parameters}
    for key in ("in_channels", "out_channels", "num_class_embeds", "class_embed_type"):
        inherited.pop(key, None)
    plain_in, plain_out = plain_config["in_channels"], plain_config["out_channels"]
    if plain_out == 2 * plain_in and config.get("patch_size", 1) == 1:
        inherited["bound_variance"] = False  # its variance was trained without the bound
    sample_size = inherited.get("sample_size")
    if isinstance(sample_size, Sequence) and len(set(sample_size)) == 1:
        inherited["sample_size"] = sample_size[0]
    model = MaCDMUNet2DModel(**{**inherited, **config})

    source = {name.replace("class_embedding.", "label_embedding."): weight for name, weight in state_dict.items()}
    target = model.state_dict()
    if model.config.patch_size == 1:
        source.update(_extend_first_and_last(source, target, model, plain_in, plain_out))
    taken = {name: weight for name, weight in source.items() if name in target and weight.shape == target[name].shape}
    if not taken:
        raise ValueError("No weight of the plain UNet2DModel fits: keep its block_out_channels and block types.")
    label_embedding = _extend_label_embedding(source, target)
    if any(name.startswith("class_embedding.") for name in state_dict):
        taken.update(label_embedding)
    model.load_state_dict({**taken, **label_embedding}, strict=False)

    fresh = sorted(set(target) - set(taken))
    how = (
        f"mask channels {plain_in} -> {model.config.in_channels} initialised to zero in conv_in and conv_out"
        if "conv_in.weight" in taken
        else f"conv_in starts at random and conv_out at zero (patch_size={model.config.patch_size})"
    )
    logger.warning(
        f"Started from a plain UNet2DModel: {len(taken)} of {len(target)} tensors taken over, {how}; "
        f"new tensors: {', '.join(fresh) if fresh else 'none'}."
    )
    return model


def _extend_first_and_last(source, target, model, plain_in: int, plain_out: int) -> dict[str, torch.Tensor]:
    """Grayscale radiograph channel from the plain model's image channels, mask channels zero."""
    channels = model.config.in_channels
    weight = torch.zeros_like(target["conv_in.weight"])
    if weight.shape[0] != source["conv_in.weight"].shape[0]:
        return {}
    scale = model.config.channel_weights[0] if model.config.mask_weighting == "input" else 1.0
    weight[:, 0] = source["conv_in.weight"].sum(dim=1) / scale
    extended = {"conv_in.weight": weight}
    for name in ("conv_out.weight", "conv_out.bias"):
        rows = torch.zeros_like(target[name])
        rows[0] = source[name][:plain_in].mean(dim=0)
        if model.learned_variance and plain_out == 2 * plain_in:
            rows[channels] = source[name][plain_in:].mean(dim=0)
        extended[name] = rows
    return extended


def _extend_label_embedding(source, target) -> dict[str, torch.Tensor]:
    """Known class labels keep their embedding; further ones, the null label among them, start at zero, as all do where
    the plain model has no class condition: its function is kept."""
    name = "label_embedding.weight"
    if name not in target:
        return {}
    weight = torch.zeros_like(target[name])
    known: Sequence | torch.Tensor = source.get(name, weight[:0])
    if len(known) and known.shape[1] == weight.shape[1]:
        rows = min(len(known), len(weight) - 1)
        weight[:rows] = known[:rows]
    return {name: weight}
