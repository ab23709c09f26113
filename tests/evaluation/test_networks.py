"""The downstream networks: their architecture, and that an RGB network's features survive the change to one channel."""

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from diffusers_macdm.evaluation.networks import diagnosis_classifier, segmenter


RGB_RESNET_34 = {"layer_type": "basic", "depths": [3, 4, 6, 3], "num_channels": 3, "num_labels": 1000}


@pytest.fixture(scope="module")
def rgb_network(tmp_path_factory):
    """A narrow ResNet-34 of three channels with statistics that are not those of a fresh one, and its folder."""
    torch.manual_seed(0)
    config = ResNetConfig(**RGB_RESNET_34, embedding_size=4, hidden_sizes=[4, 8, 16, 32])
    network = ResNetForImageClassification(config).train()
    for _ in range(3):
        network(torch.randn(8, 3, 32, 32) * 2 + 1)
    folder = tmp_path_factory.mktemp("rgb") / "resnet-34"
    network.eval().save_pretrained(folder)
    return network, folder


def test_it_is_the_resnet_34():
    network = diagnosis_classifier(2)
    assert network(torch.zeros(2, 1, 32, 32)).logits.shape == (2, 2)
    # torchvision's ResNet-34 has 21,797,672 parameters: minus two channels of the first kernel, another head.
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_797_672 - 2 * 64 * 49 - 998 * 513


def test_a_gray_image_gives_what_it_gives_in_rgb(rgb_network):
    rgb, folder = rgb_network
    gray = diagnosis_classifier(3, str(folder), width=4).eval()
    image = torch.rand(4, 1, 32, 32) * 2 - 1
    expected = rgb.resnet(image.expand(-1, 3, -1, -1)).pooler_output
    torch.testing.assert_close(gray.resnet(image).pooler_output, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01
    assert gray(image).logits.shape == (4, 3)


def test_what_is_no_resnet_34_is_refused(rgb_network, tmp_path):
    with pytest.raises(ValueError, match="embedding_size is 4, and 64 is needed"):
        diagnosis_classifier(2, str(rgb_network[1]))
    with pytest.raises(ValueError, match="nothing-here: cannot be loaded"):
        diagnosis_classifier(2, str(tmp_path / "nothing-here"))
    with pytest.raises(ValueError, match="num_classes=1"):
        diagnosis_classifier(1)


@pytest.mark.parametrize("size", [8, 24, 100])
def test_the_segmenter_keeps_the_size(size):
    network = segmenter(size, width=4)
    assert network.train()(torch.randn(2, 1, size, size)).shape == (2, 2, size, size)


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="size=33"):
        segmenter(33)
