"""`GuidanceClassifier`: what it is fed, what it gives, and that it learns."""

import inspect

import accelerate
import pytest
import torch
from tiny_models import TINY_CLASSIFIER, randomised, tiny_classifier

from diffusers_macdm import GuidanceClassifier
from diffusers_macdm.macdm.guidance import classifier_gradient


UNUSUAL = {
    "sample_size": 32,
    "in_channels": 2,
    "num_classes": 4,
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 2,
    "attention_head_dim": None,
    "norm_num_groups": 2,
    "resnet_time_scale_shift": "scale_shift",
    "dropout": 0.2,
    "channel_weights": (0.9, 0.4),
    "mask_weighting": "signal",
    "mask_timestep": False,
    "patch_size": 2,
}


def sample(batch_size=2, channels=3, size=16, seed=0):
    return torch.randn(batch_size, channels, size, size, generator=torch.Generator().manual_seed(seed))


def same_weights(classifier, **overrides):
    config = {**classifier.config, **overrides}
    other = GuidanceClassifier(**{name: value for name, value in config.items() if not name.startswith("_")})
    other.load_state_dict(classifier.state_dict())
    return other.eval()


def test_config_round_trip(tmp_path):
    parameters = inspect.signature(GuidanceClassifier).parameters
    assert set(UNUSUAL) == set(parameters) - {"masks"}  # of three channels alone: see test_one_mask.py
    assert not [name for name, value in UNUSUAL.items() if value == parameters[name].default]
    classifier = randomised(GuidanceClassifier(**UNUSUAL), 0)
    classifier.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    loaded = GuidanceClassifier.from_pretrained(tmp_path)
    for name, value in UNUSUAL.items():
        assert loaded.config[name] == (list(value) if isinstance(loaded.config[name], list) else value), name
    x = sample(channels=2, size=32)
    assert not loaded.training
    torch.testing.assert_close(loaded(x, 300).logits, classifier(x, 300).logits)
    assert loaded(x, 300).logits.shape == (2, 4)


@pytest.mark.parametrize("patch_size, sides", [(1, [16, 8]), (2, [8, 4])])
@pytest.mark.parametrize("block", ["DownBlock2D", "AttnDownBlock2D"])
def test_features(patch_size, sides, block):
    classifier = tiny_classifier(patch_size=patch_size, down_block_types=(block, block), layers_per_block=2)
    maps = classifier.features(sample(), 300)
    assert [tuple(features.shape) for features in maps] == [(2, 8, sides[0], sides[0]), (2, 16, sides[1], sides[1])]
    # The last ones are those that the head sees, by their mean and their maximum.
    last = maps[-1].flatten(2)
    expected = torch.cat([last.mean(dim=2), last.amax(dim=2)], dim=1) @ classifier.head.weight.T + classifier.head.bias
    torch.testing.assert_close(classifier(sample(), 300).logits, expected)


def test_first_features_are_those_before_downsampling():
    """A change in one corner does not reach the far corner of the finest map before anything is pooled."""
    classifier = tiny_classifier()
    caught = []
    classifier.down_blocks[0].resnets[-1].register_forward_hook(lambda module, inputs, output: caught.append(output))
    assert torch.equal(classifier.features(sample(), 300)[0], caught[0])


def test_gradient_flows_to_the_input():
    classifier = tiny_classifier(patch_size=2, channel_weights=(1.0, 0.5, 0.5))
    gradient = classifier_gradient(classifier, sample(), torch.tensor([0, 1]), timestep=300, mask_timestep=0)
    assert (gradient.flatten(2).norm(dim=2) > 0).all()
    # Against differences, in float64.
    double = same_weights(classifier).double()
    direction = sample(seed=1).double()

    def log_probability(x):
        return double(x, 300, 0).logits.log_softmax(dim=1).diagonal().sum()

    step = 1e-5
    with torch.no_grad():
        x = sample().double()
        expected = (log_probability(x + step * direction) - log_probability(x - step * direction)) / (2 * step)
    found = (gradient.double() * direction).sum()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_weights_act_on_the_input_or_not_at_all():
    weights = (1.5, 0.5, 0.25)
    classifier = tiny_classifier(channel_weights=weights)
    plain = same_weights(classifier, channel_weights=(1.0, 1.0, 1.0))
    torch.testing.assert_close(classifier(sample(), 3).logits, plain(sample() * torch.tensor(weights)[:, None, None], 3).logits)
    on_signal = same_weights(classifier, mask_weighting="signal")
    assert torch.equal(on_signal(sample(), 3).logits, plain(sample(), 3).logits)


def test_timesteps():
    classifier = tiny_classifier()
    assert not torch.allclose(classifier(sample(), 3).logits, classifier(sample(), 900).logits)
    assert not torch.allclose(classifier(sample(), 900, 0).logits, classifier(sample(), 900).logits)
    assert torch.equal(classifier(sample(), 900, 900).logits, classifier(sample(), 900).logits)
    together = classifier(sample(), torch.tensor([3, 900]), torch.tensor([0, 10])).logits
    torch.testing.assert_close(together[1:], classifier(sample()[1:], 900, 10).logits)
    with pytest.raises(ValueError, match="mask_timestep was given to a classifier without one"):
        tiny_classifier(mask_timestep=False)(sample(), 3, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    classifier = tiny_classifier()
    gradient = classifier_gradient(same_weights(classifier).to(dtype), sample(), torch.tensor([0, 1]), timestep=300)
    expected = classifier_gradient(classifier, sample(), torch.tensor([0, 1]), timestep=300)
    assert gradient.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.98


def test_gradient_checkpointing():
    classifier = tiny_classifier().train()
    expected = torch.autograd.grad(classifier(sample(), 300).logits.square().sum(), list(classifier.parameters()))
    classifier.enable_gradient_checkpointing()
    found = torch.autograd.grad(classifier(sample(), 300).logits.square().sum(), list(classifier.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_offloaded_weights():
    """Between calls they are on no device at all; the timestep goes where the sample is."""
    classifier = tiny_classifier()
    expected = classifier(sample(), 300, 0).logits
    accelerate.cpu_offload(classifier, execution_device=torch.device("cpu"))
    assert classifier.device.type == "meta"
    torch.testing.assert_close(classifier(sample(), 300, 0).logits, expected)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"num_classes": 1}, "num_classes=1 is too small"),
        ({"block_out_channels": (8, 16, 16)}, "differ in length"),
        ({"channel_weights": (1.0,)}, "does not fit: one positive number for each of the 3 channels"),
        ({"mask_weighting": "both"}, "mask_weighting='both' is not known"),
    ],
)
def test_refused_configurations(overrides, message):
    with pytest.raises(ValueError, match=message):
        GuidanceClassifier(**{**TINY_CLASSIFIER, **overrides})


def test_it_learns_a_lesion_of_four_pixels():
    """Noisy samples with a bright 2 x 2 spot at a random place, or without: seen after a few seconds of training."""
    torch.manual_seed(0)
    classifier = GuidanceClassifier(**TINY_CLASSIFIER).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)

    def batch(size, generator):
        labels = torch.randint(2, (size,), generator=generator)
        x = 0.5 * torch.randn(size, 3, 16, 16, generator=generator)
        for i, (row, column) in enumerate(torch.randint(14, (size, 2), generator=generator).tolist()):
            x[i, 2, row : row + 2, column : column + 2] += 3.0 * labels[i]
        return x, labels

    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        x, labels = batch(32, generator)
        loss = torch.nn.functional.cross_entropy(classifier(x, 100).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, labels = batch(200, generator)
    with torch.no_grad():
        accuracy = (classifier.eval()(x, 100).logits.argmax(dim=1) == labels).float().mean()
    assert accuracy > 0.95
