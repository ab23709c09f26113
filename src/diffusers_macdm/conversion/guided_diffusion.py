"""Weights of openai/guided-diffusion (ADM, Dhariwal and Nichol, arXiv 2105.05233) in the layout of diffusers' `UNet2DModel`.

Both are the same architecture under other names. The shapes of the weights tell everything of the network but its attention
heads; of the published checkpoints these are known (`PUBLISHED`), of others they must be given.

    config, weights = load_guided_diffusion("256x256_diffusion_uncond.pt")
    unet = from_plain(config, weights, sample_size=256, in_channels=3, out_channels=6, num_class_embeds=3)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.utils import logging


logger = logging.get_logger("diffusers.macdm.conversion")


@dataclass(frozen=True)
class AttentionHeads:
    """Attention heads, which the weights do not tell: flags of guided-diffusion.

    Attributes:
        num_heads: number of heads of every attention layer (`num_heads`), or None.
        num_head_channels: channels of a head in every attention layer (`num_head_channels`), or None.
        new_order: whether queries, keys and values are split before the heads are (`use_new_attention_order`).
    """

    num_heads: int | None = None
    num_head_channels: int | None = None
    new_order: bool = False


# The published checkpoints by (width of the time embedding's input, channels of each level, residual blocks in a level):
# image size, heads. From the MODEL_FLAGS in guided-diffusion's README.
PUBLISHED = {
    (192, (192, 384, 576, 768), 3): (64, AttentionHeads(num_head_channels=64, new_order=True)),
    (256, (256, 256, 512, 768, 1024), 2): (128, AttentionHeads(num_heads=4)),
    (256, (256, 256, 512, 512, 1024, 1024), 2): (256, AttentionHeads(num_head_channels=64)),  # and LSUN's
    (256, (128, 256, 256, 512, 512, 1024, 1024), 2): (512, AttentionHeads(num_head_channels=64)),
}

NUM_GROUPS = 32  # of every group norm


def load_guided_diffusion(
    path: str | Path,
    *,
    num_heads: int | None = None,
    num_head_channels: int | None = None,
    use_new_attention_order: bool | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a checkpoint file of guided-diffusion (`.pt`, a state dict) and convert it; see `convert_guided_diffusion`.

    Nothing but tensors is unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no state dict of a guided-diffusion denoiser, naming the file and the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zipfile, pickle and torch say about bytes that are no checkpoint
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: no PyTorch checkpoint of plain tensors can be read here ({reason})") from error
    try:
        return convert_guided_diffusion(
            state_dict,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            use_new_attention_order=use_new_attention_order,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def convert_guided_diffusion(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_heads: int | None = None,
    num_head_channels: int | None = None,
    use_new_attention_order: bool | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """State dict of guided-diffusion's `UNetModel` -> parameters and state dict of the `UNet2DModel` that computes the same.

    Args:
        state_dict: as `torch.load` gives it; it is not changed.
        num_heads: number of attention heads in every attention layer, or
        num_head_channels: number of channels of a head. Neither is needed for a published checkpoint.
        use_new_attention_order: whether queries, keys and values are split before the heads are; `None` is False, as in
            guided-diffusion, or what is known of a published checkpoint.

    Returns:
        config: for `UNet2DModel(**config)`. Two keys are those of [`MaCDMUNet2DModel`] alone and are there where a plain
            `UNet2DModel` cannot express the network: `num_attention_heads` (the published 128 x 128 model) and
            `time_proj_dim` (the 512 x 512 model).
        weights: float32, by the names of `UNet2DModel`.

    Raises:
        ValueError: for the state dict of another network, for attention heads that are unknown or do not fit.
    """
    layout = _Layout.of(state_dict)
    config = layout.config()
    image_size, heads = _attention_heads(layout, num_heads, num_head_channels, use_new_attention_order)
    config.update(sample_size=image_size, **_head_parameters(layout, heads))
    weights = dict(_renamed(state_dict, layout, heads))
    _check_complete(config, weights)
    return config, {name: weight.float().contiguous() for name, weight in weights.items()}


def without_class_labels(
    config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The network of `convert_guided_diffusion` without its class condition: it is told the mean of all class embeddings.

    For weights whose classes (ImageNet's) have nothing to do with the new ones. The network adds the embedding of the class
    to that of the timestep, so the mean goes into the bias of the latter.
    """
    config, weights = dict(config), dict(weights)
    embedding = weights.pop("class_embedding.weight", None)
    config["num_class_embeds"] = None
    if embedding is not None:
        bias = "time_embedding.linear_2.bias"
        weights[bias] = weights[bias] + embedding.mean(dim=0)
    return config, weights


# --------------------------------------------------------------------------------------------------- what the shapes tell


@dataclass(frozen=True)
class _Layout:
    """The architecture as far as names and shapes of the weights show it."""

    in_channels: int
    out_channels: int
    time_proj_dim: int
    time_embedding_dim: int
    num_classes: int | None
    block_out_channels: tuple[int, ...]  # of each level, finest first
    attention: tuple[bool, ...]  # whether each level has it
    layers_per_block: int
    resblock_updown: bool
    scale_shift: bool

    @classmethod
    def of(cls, state_dict: Mapping[str, torch.Tensor]) -> _Layout:
        if not isinstance(state_dict, Mapping) or not all(torch.is_tensor(weight) for weight in state_dict.values()):
            raise ValueError("this is no state dict: a mapping from names to tensors is needed.")
        names = set(state_dict)
        needed = ("time_embed.0.weight", "time_embed.2.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight")
        missing = sorted(set(needed) - names)
        if missing:
            raise ValueError(f"this is no network of guided-diffusion: {', '.join(missing)} is not there.")
        if not {"output_blocks.0.0.in_layers.0.weight", "out.2.weight"} <= names:
            raise ValueError("this network has no output_blocks: a classifier of guided-diffusion, not a denoiser.")

        # An upsampling layer closes each level but the finest: a residual block, or a convolution.
        num_inputs, num_outputs = _count(names, "input_blocks"), _count(names, "output_blocks")
        up_layers = [
            {match[1] for name in names if (match := re.match(rf"output_blocks\.{i}\.[12]\.(in_layers|conv)\.", name))}
            for i in range(num_outputs)
        ]
        kinds = set().union(*up_layers)
        num_levels = sum(map(bool, up_layers)) + 1
        layers = num_outputs // num_levels - 1
        if (
            len(kinds) > 1
            or layers < 1
            or num_outputs != num_levels * (layers + 1)
            or num_inputs != num_levels * (layers + 1)
            or (num_levels > 1 and (f"input_blocks.{layers + 1}.0.op.weight" in names) != (kinds == {"conv"}))
        ):
            raise ValueError(
                f"{num_inputs} input_blocks and {num_outputs} output_blocks, {num_levels - 1} of them with weights for "
                "upsampling, are not the layout of guided-diffusion (with conv_resample=True)."
            )
        first_of_level = [f"input_blocks.{1 + level * (layers + 1)}" for level in range(num_levels)]
        channels = tuple(state_dict[f"{block}.0.in_layers.2.weight"].shape[0] for block in first_of_level)
        convolution = state_dict["input_blocks.0.0.weight"]
        if convolution.ndim != 4:
            raise ValueError(f"input_blocks.0.0.weight has {convolution.ndim} dimensions: a network for images has 4.")
        in_channels, out_channels = convolution.shape[1], state_dict["out.2.weight"].shape[0]
        if in_channels not in (1, 3) or out_channels not in (in_channels, 2 * in_channels):
            raise ValueError(
                f"this network takes {in_channels} channels and gives {out_channels}: allowed are 1 (gray) or 3 (RGB) image "
                "channels, and as many or, with learned variance, twice as many out (an upsampler takes two images)."
            )
        labels = state_dict.get("label_emb.weight")
        embedding = state_dict[f"{first_of_level[0]}.0.emb_layers.1.weight"]
        return cls(
            in_channels=in_channels,
            out_channels=out_channels,
            time_proj_dim=state_dict["time_embed.0.weight"].shape[1],
            time_embedding_dim=state_dict["time_embed.0.weight"].shape[0],
            num_classes=None if labels is None else len(labels),
            block_out_channels=channels,
            attention=tuple(f"{block}.1.qkv.weight" in names for block in first_of_level),
            layers_per_block=layers,
            resblock_updown=kinds == {"in_layers"},
            scale_shift=embedding.shape[0] == 2 * channels[0],
        )

    @property
    def attention_channels(self) -> list[int]:
        """Channels of the levels that have attention; the middle, at the coarsest level's width, always has."""
        levels = zip(self.block_out_channels, self.attention, strict=True)
        return sorted({channels for channels, has_attention in levels if has_attention} | {self.block_out_channels[-1]})

    def config(self) -> dict[str, Any]:
        plain = "Resnet{}sampleBlock2D" if self.resblock_updown else "{}Block2D"
        down, up = ((plain.format(way), f"Attn{way}Block2D") for way in ("Down", "Up"))
        config = {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.block_out_channels,
            "down_block_types": tuple(down[has_attention] for has_attention in self.attention),
            "up_block_types": tuple(up[has_attention] for has_attention in reversed(self.attention)),
            "layers_per_block": self.layers_per_block,
            "downsample_type": "resnet" if self.resblock_updown else "conv",
            "upsample_type": "resnet" if self.resblock_updown else "conv",
            "norm_num_groups": NUM_GROUPS,
            "attn_norm_num_groups": NUM_GROUPS,  # the middle would have none with scale_shift
            "norm_eps": 1e-5,
            "resnet_time_scale_shift": "scale_shift" if self.scale_shift else "default",
            "num_class_embeds": self.num_classes,
            "time_embedding_dim": self.time_embedding_dim,
            # [cos, sin] with frequencies 10000^(-i / (d / 2))
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        }
        if self.time_proj_dim != self.block_out_channels[0]:
            config["time_proj_dim"] = self.time_proj_dim
        return config


def _count(names: set[str], group: str) -> int:
    """Number of blocks in `group`, by the highest index."""
    return 1 + max((int(match[1]) for name in names if (match := re.match(rf"{group}\.(\d+)\.", name))), default=-1)


# ---------------------------------------------------------------------------------------------------- the attention heads


def _attention_heads(
    layout: _Layout, num_heads: int | None, num_head_channels: int | None, new_order: bool | None
) -> tuple[int | None, AttentionHeads]:
    """The image size, if known, and the heads: as given, or else those of the published checkpoint of this layout."""
    image_size, known = None, None
    if layout.in_channels == 3 and layout.resblock_updown and layout.scale_shift:
        signature = (layout.time_proj_dim, layout.block_out_channels, layout.layers_per_block)
        image_size, known = PUBLISHED.get(signature, (None, None))
    if num_heads is not None and num_head_channels is not None:
        raise ValueError(f"num_heads={num_heads} and num_head_channels={num_head_channels} exclude each other: give one.")
    if num_heads is None and num_head_channels is None:
        if known is None:
            raise ValueError(
                "the attention heads of this network are unknown, for its weights do not tell them and it is none of the "
                "published ones: give the num_heads or num_head_channels it was trained with (guided-diffusion's default is "
                "num_heads=4), and use_new_attention_order."
            )
        order = known.new_order if new_order is None else new_order
        known = AttentionHeads(known.num_heads, known.num_head_channels, order)
        logger.warning(
            f"Taken for the published {image_size} x {image_size} model of guided-diffusion: "
            + (f"{known.num_heads} attention heads" if known.num_heads else f"{known.num_head_channels} channels a head")
            + f", use_new_attention_order={order}."
        )
        return image_size, known
    return image_size, AttentionHeads(num_heads, num_head_channels, bool(new_order))


def _head_parameters(layout: _Layout, heads: AttentionHeads) -> dict[str, int]:
    """`attention_head_dim` of `UNet2DModel`, and `num_attention_heads` where no single width of a head is right."""
    name = "num_head_channels" if heads.num_heads is None else "num_heads"
    value = getattr(heads, name)
    wrong = [channels for channels in layout.attention_channels if not value or value < 0 or channels % value]
    if wrong:
        raise ValueError(f"{name}={value} does not fit: it must divide the channels of all attention layers, here {wrong[0]}.")
    if heads.num_heads is None:
        return {"attention_head_dim": value}
    widths = {channels // value for channels in layout.attention_channels}
    if len(widths) == 1:
        return {"attention_head_dim": widths.pop()}
    return {"attention_head_dim": NUM_GROUPS, "num_attention_heads": value}


# ---------------------------------------------------------------------------------------------------------- the weights

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
_OUTSIDE_OF_BLOCKS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def _renamed(state_dict: Mapping[str, torch.Tensor], layout: _Layout, heads: AttentionHeads):
    """Yields (name, weight) of `UNet2DModel`."""
    blocks = _block_names(layout)
    for name, weight in state_dict.items():
        module, _, kind = name.rpartition(".")  # kind: weight or bias
        if module in _OUTSIDE_OF_BLOCKS:
            yield f"{_OUTSIDE_OF_BLOCKS[module]}.{kind}", weight
            continue
        match = re.match(r"((?:input_blocks|output_blocks)\.\d+|middle_block)\.(\d+)\.(.+)", module)
        if match is None:
            raise ValueError(f"{name} is no weight of a guided-diffusion denoiser.")
        block, position, layer = match.groups()
        if layer == "qkv":
            target = blocks.get((block, int(position), "attention"), f"?{module}")
            for part, projection in zip("qkv", _split_qkv(weight, heads), strict=True):
                yield f"{target}.to_{part}.{kind}", projection
        elif layer in _ATTENTION:
            weight = weight[..., 0] if kind == "weight" and weight.ndim == 3 else weight  # a convolution of size 1
            yield f"{blocks.get((block, int(position), 'attention'), f'?{module}')}.{_ATTENTION[layer]}.{kind}", weight
        elif layer in _RESNET:
            yield f"{blocks.get((block, int(position), 'resnet'), f'?{module}')}.{_RESNET[layer]}.{kind}", weight
        else:  # a convolution that halves (`op`) or follows a doubling of the sides (`conv`)
            yield f"{blocks.get((block, int(position), layer), f'?{module}')}.conv.{kind}", weight


def _block_names(layout: _Layout) -> dict[tuple[str, int, str], str]:
    """(block of guided-diffusion, position in it, kind of layer) -> module of `UNet2DModel`."""
    names = {("middle_block", 1, "attention"): "mid_block.attentions.0"}
    names |= {("middle_block", 2 * i, "resnet"): f"mid_block.resnets.{i}" for i in range(2)}
    layers, num_levels = layout.layers_per_block, len(layout.block_out_channels)
    for level in range(num_levels):
        first = 1 + level * (layers + 1)
        for i in range(layers):
            names[f"input_blocks.{first + i}", 0, "resnet"] = f"down_blocks.{level}.resnets.{i}"
            names[f"input_blocks.{first + i}", 1, "attention"] = f"down_blocks.{level}.attentions.{i}"
        kind = "resnet" if layout.resblock_updown else "op"
        names[f"input_blocks.{first + layers}", 0, kind] = f"down_blocks.{level}.downsamplers.0"

        first = level * (layers + 1)  # the output blocks begin with the coarsest level
        for i in range(layers + 1):
            names[f"output_blocks.{first + i}", 0, "resnet"] = f"up_blocks.{level}.resnets.{i}"
            names[f"output_blocks.{first + i}", 1, "attention"] = f"up_blocks.{level}.attentions.{i}"
        kind = "resnet" if layout.resblock_updown else "conv"
        position = 1 + layout.attention[num_levels - 1 - level]
        names[f"output_blocks.{first + layers}", position, kind] = f"up_blocks.{level}.upsamplers.0"
    return names


def _split_qkv(weight: torch.Tensor, heads: AttentionHeads) -> tuple[torch.Tensor, ...]:
    """`[3 C, C, 1]` or `[3 C]` -> queries', keys' and values' `[C, C]` or `[C]`, heads one after the other.

    The new order is (3, heads, d): queries of all heads first. The older one is (heads, 3, d).
    """
    channels = weight.shape[0] // 3
    num_heads = heads.num_heads or channels // heads.num_head_channels
    order = (3, num_heads, -1) if heads.new_order else (num_heads, 3, -1)
    parts = weight.reshape(*order, *weight.shape[1:2])  # [3, H, d, C] or [H, 3, d, C]; without C for a bias
    parts = parts.unbind(0 if heads.new_order else 1)
    return tuple(part.reshape(channels, *weight.shape[1:2]) for part in parts)


def _check_complete(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Every weight of the network is there in its shape, and none is left over."""
    own = ("num_attention_heads", "time_proj_dim")
    with torch.device("meta"):
        network = UNet2DModel(**{key: value for key, value in config.items() if key not in own})
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    if "time_proj_dim" in config:
        shapes["time_embedding.linear_1.weight"] = (config["time_embedding_dim"], config["time_proj_dim"])
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != shapes:
        name = min(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
        raise ValueError(
            f"this is no network of guided-diffusion that UNet2DModel has an equal for: {name.lstrip('?')} has shape "
            f"{found.get(name, 'none')}, needed is {shapes.get(name, 'none')}."
        )
