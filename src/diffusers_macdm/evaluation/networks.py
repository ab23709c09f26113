"""The two networks that the pairs are meant to help: a ResNet-34 that tells the classes apart, a U-Net that finds the masks.

Both see the radiograph as `[B, 1, H, W]` in [-1, 1] and are trained by `downstream.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch


if TYPE_CHECKING:
    from transformers import ResNetForImageClassification

DIAGNOSIS, SEGMENTATION = "diagnosis", "segmentation"
TASKS = (DIAGNOSIS, SEGMENTATION)  # one network each
RESNET_34_DEPTHS = (3, 4, 6, 3)  # He et al., arXiv 1512.03385, table 1
SEGMENTED_MASKS = 2  # anatomy and lesion
MAX_LEVELS, LEAST_SIDE = 4, 4  # of the segmenter: times that it halves the image, and the side where it stops to


def diagnosis_classifier(
    num_classes: int, pretrained: str | Path | None = None, width: int = 64
) -> ResNetForImageClassification:
    """ResNet-34 of one channel; `network(pixel_values).logits` is `[B, num_classes]`.

    Args:
        num_classes: number of labels.
        pretrained: folder or Hub name of a ResNet-34 of transformers, for example `microsoft/resnet-34`. The weights of its
            first convolution are summed over RGB, so that a radiograph gives what the same gray image in RGB gives; its head
            is replaced. None: random weights.
        width: channels of the first stage; 64 is ResNet-34's, a small one is for tests.

    Raises:
        ValueError: when `pretrained` cannot be loaded or is no ResNet-34, or a number is not positive.
    """
    from transformers import ResNetConfig, ResNetForImageClassification

    for name, value, least in (("num_classes", num_classes, 2), ("width", width, 1)):
        if value < least:
            raise ValueError(f"{name}={value} is not allowed: at least {least} is needed.")
    config = ResNetConfig(
        num_channels=1,
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=list(RESNET_34_DEPTHS),
        layer_type="basic",
        num_labels=num_classes,
    )
    network = ResNetForImageClassification(config)
    if pretrained is not None:
        _load_pretrained(network, str(pretrained))
    return network


def _load_pretrained(network: ResNetForImageClassification, pretrained: str) -> None:
    from transformers import ResNetModel

    try:
        source = ResNetModel.from_pretrained(pretrained)
    except Exception as error:  # of many classes: no such folder, no network, no weights, another architecture
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{pretrained}: cannot be loaded as a ResNet of transformers: {reason}") from error
    theirs, ours = source.config, network.config
    for name in ("layer_type", "depths", "embedding_size", "hidden_sizes"):
        if getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f"{pretrained}: {name} is {getattr(theirs, name)}, and {getattr(ours, name)} is needed: it is no ResNet-34."
            )
    weights = source.state_dict()
    first = "embedder.embedder.convolution.weight"
    weights[first] = weights[first].sum(dim=1, keepdim=True)  # [C, 3, 7, 7] -> [C, 1, 7, 7]
    network.resnet.load_state_dict(weights)


def segmenter(size: int, width: int = 32) -> torch.nn.Module:
    """MONAI's residual U-Net from one channel to the logits of anatomy and lesion, `[B, 2, size, size]`.

    Args:
        size: side of the radiographs. It is halved up to 4 times, as long as it stays whole and at least 4.
        width: channels at full size; they double at each level. A small one is for tests.

    Raises:
        ValueError: when the side cannot be halved even once, or the width is not positive.
    """
    from monai.networks.nets import UNet

    if width < 1:
        raise ValueError(f"width={width} is not allowed: at least 1 is needed.")
    levels = 0
    while levels < MAX_LEVELS and size % 2 ** (levels + 1) == 0 and size // 2 ** (levels + 1) >= LEAST_SIDE:
        levels += 1
    if levels == 0:
        raise ValueError(f"size={size} is not allowed: the U-Net needs an even side of at least {2 * LEAST_SIDE}.")
    return UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=SEGMENTED_MASKS,
        channels=[width * 2**level for level in range(levels + 1)],
        strides=[2] * levels,
        num_res_units=2,
    )
