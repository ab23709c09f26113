"""Feature extractors: what the network sees is what its own preprocessing asks for, and the name tells which it was."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from diffusers_macdm.evaluation.features import classifier_features, load_feature_extractor


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}


def radiographs(count=5, size=32):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def saved(folder, model, **preprocessing):
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return model


def test_the_last_layer_of_the_diagnosis_classifier_sees_the_features():
    torch.manual_seed(0)
    classifier = ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=2, **RESNET)).eval()
    extractor = classifier_features(classifier)
    features = extractor(radiographs())
    assert features.shape == (5, 12) and features.dtype == np.float32
    logits = classifier.classifier[-1](torch.from_numpy(features))
    torch.testing.assert_close(logits, classifier(radiographs()).logits)
    assert "ResNet-34" in extractor.name and "trained on the real training cases" in extractor.name


def test_dinov2_gets_the_normalised_square_it_was_trained_on(tmp_path):
    torch.manual_seed(0)
    model = saved(
        tmp_path / "dino",
        Dinov2Model(Dinov2Config(image_size=24, **TRANSFORMER)),
        do_center_crop=True,
        crop_size={"height": 24, "width": 24},
        size={"shortest_edge": 32},
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
    )
    extractor = load_feature_extractor(tmp_path / "dino")
    assert extractor.name == "dinov2 dino, 24 px"
    given = radiographs(size=24)  # at the size that it wants: no resampling
    unit = (given / 2 + 0.5).repeat(1, 3, 1, 1)
    normalised = torch.stack([(unit[:, c] - (0.1, 0.2, 0.3)[c]) / (0.4, 0.5, 0.6)[c] for c in range(3)], dim=1)
    expected = model(pixel_values=normalised).pooler_output.detach()
    torch.testing.assert_close(torch.from_numpy(extractor(given)), expected, atol=2e-5, rtol=1e-4)
    assert extractor(radiographs(size=40)).shape == (5, 16)


def test_resnet_and_vit_from_a_folder(tmp_path):
    torch.manual_seed(0)
    resnet = saved(tmp_path / "resnet", ResNetModel(ResNetConfig(**RESNET)), size=32, image_mean=[0] * 3, image_std=[1] * 3)
    given = radiographs()
    expected = resnet(pixel_values=(given / 2 + 0.5).repeat(1, 3, 1, 1)).pooler_output.flatten(1).detach()
    torch.testing.assert_close(
        torch.from_numpy(load_feature_extractor(tmp_path / "resnet")(given)), expected, atol=2e-5, rtol=1e-4
    )
    # many published ViT have no pooler: its random weights must not be what is measured with
    vit = ViTModel(ViTConfig(image_size=32, **TRANSFORMER), add_pooling_layer=False)
    saved(tmp_path / "vit", vit, size={"height": 32, "width": 32}, image_mean=[0] * 3, image_std=[1] * 3)
    expected = vit(pixel_values=(given / 2 + 0.5).repeat(1, 3, 1, 1)).last_hidden_state[:, 0].detach()
    torch.testing.assert_close(
        torch.from_numpy(load_feature_extractor(tmp_path / "vit")(given)), expected, atol=2e-5, rtol=1e-4
    )


class MeanAndSpread(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


def test_a_torchscript_file_gets_rgb_between_0_and_1(tmp_path):
    torch.jit.script(MeanAndSpread()).save(str(tmp_path / "inception.pt"))
    extractor = load_feature_extractor(tmp_path / "inception.pt")
    given = radiographs()
    unit = (given[:, 0] / 2 + 0.5).flatten(1)
    expected = np.stack([unit.mean(1)] * 3 + [unit.std(1)] * 3, axis=1)
    np.testing.assert_allclose(extractor(given), expected, atol=1e-5)
    assert extractor.name == "inception.pt"


def test_what_cannot_be_loaded_is_said_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_feature_extractor("nowhere")
    with pytest.raises(FileNotFoundError, match="no such TorchScript file"):
        load_feature_extractor(tmp_path / "nowhere.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be loaded as TorchScript"):
        load_feature_extractor(tmp_path / "broken.pt")
    with pytest.raises(ValueError, match="no preprocessor_config.json"):
        load_feature_extractor(tmp_path)
    with pytest.raises(ValueError, match="facebook/dinov2-small.*it is not in the cache"):
        load_feature_extractor("facebook/dinov2-small")
    torch.jit.script(nn.Flatten(0)).save(str(tmp_path / "flat.pt"))
    with pytest.raises(ValueError, match="one vector for each is needed"):
        load_feature_extractor(tmp_path / "flat.pt")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "resnet"
    saved(folder, ResNetModel(ResNetConfig(**RESNET)), size=32)
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("convolution.weight")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        load_feature_extractor(folder)
