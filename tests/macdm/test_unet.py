"""`MaCDMUNet2DModel`: what each of its parameters does, against networks without them and against plain `UNet2DModel`."""

import inspect
import json
import logging

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from tiny_models import TINY_UNET, randomised, tiny_unet

from diffusers_macdm import MaCDMUNet2DModel
from diffusers_macdm.conversion.plain_unet import from_unet2d


LABELS = torch.tensor([0, 1])
# As far from the defaults as a network can be that still runs: whatever is not saved shows.
UNUSUAL = {
    "sample_size": 32,
    "in_channels": 2,
    "out_channels": 4,
    "center_input_sample": True,
    "time_embedding_type": "learned",
    "time_embedding_dim": 24,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "mid_block_scale_factor": 1.5,
    "downsample_padding": 0,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "dropout": 0.1,
    "act_fn": "gelu",
    "attention_head_dim": None,
    "norm_num_groups": 2,
    "attn_norm_num_groups": 4,
    "norm_eps": 1e-4,
    "resnet_time_scale_shift": "scale_shift",
    "add_attention": False,
    "num_class_embeds": 5,
    "num_train_timesteps": 50,
    "channel_weights": (0.9, 0.4),
    "mask_weighting": "signal",
    "mask_timestep": False,
    "patch_size": 2,
    "bound_variance": False,
    "augmentation_dim": 7,
    "num_attention_heads": 4,
    "detail_channels": 4,
    "film_noise": 0.1,
    "beta_schedule": "squaredcos_cap_v2",
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample(batch_size=2, channels=3, size=16):
    return noise(batch_size, channels, size, size)


@torch.no_grad()
def predict(unet, x, timestep=300, class_labels=LABELS, **conditions):
    return unet(x, timestep, class_labels, **conditions).sample


def same_weights(unet, **overrides):
    """A network with the same weights and another configuration."""
    other = type(unet)(**{name: value for name, value in {**unet.config, **overrides}.items() if not name.startswith("_")})
    other.load_state_dict(unet.state_dict())
    return other.eval()


# ------------------------------------------------------------------------------------------------------- configuration


def test_every_parameter_of_the_parent_is_repeated():
    own = inspect.signature(MaCDMUNet2DModel).parameters
    parent = inspect.signature(UNet2DModel).parameters
    assert list(own)[: len(parent)] == list(parent)
    differ = {name for name in parent if own[name].default != parent[name].default}
    assert differ == {"sample_size", "out_channels", "num_class_embeds"}  # what the docstring says


def test_unusual_covers_every_parameter():
    defaults = {name: p.default for name, p in inspect.signature(MaCDMUNet2DModel).parameters.items()}
    # time_proj_dim excludes "learned": see test_conversion.py; one mask needs three channels: see test_one_mask.py.
    fixed = {"class_embed_type", "mid_block_type", "time_proj_dim", "masks"}
    assert set(UNUSUAL) == set(defaults) - fixed
    assert not [name for name, value in UNUSUAL.items() if value == defaults[name]]


def test_config_round_trip(tmp_path):
    unet = randomised(MaCDMUNet2DModel(**UNUSUAL), 0)
    unet.save_pretrained(tmp_path)
    with open(tmp_path / "config.json") as file:
        saved = json.load(file)
    loaded = MaCDMUNet2DModel.from_pretrained(tmp_path)
    for config in (saved, loaded.config, MaCDMUNet2DModel.from_config(unet.config).config):
        for name, value in UNUSUAL.items():
            assert config[name] == (list(value) if isinstance(config[name], list) else value), name
    x = sample(channels=2, size=32)
    timesteps = torch.tensor([7, 40])
    parameters = {"augmentation_labels": noise(2, 7)}
    torch.testing.assert_close(predict(loaded, x, timesteps, **parameters), predict(unet, x, timesteps, **parameters))

    loaded.save_pretrained(tmp_path / "again")  # channels are not multiplied once more
    assert json.loads((tmp_path / "again/config.json").read_text()) | {"_name_or_path": 0} == saved | {"_name_or_path": 0}
    again = MaCDMUNet2DModel.from_pretrained(tmp_path / "again")
    assert again.conv_in.in_channels == 2 * 4 and again.conv_out.out_channels == (4 + 1) * 4  # film noise takes one


def test_ema_makes_the_same_network(tmp_path):
    unet = tiny_unet(patch_size=2, film_noise=0.1)
    EMAModel(unet.parameters(), model_cls=MaCDMUNet2DModel, model_config=unet.config).save_pretrained(tmp_path)
    loaded = MaCDMUNet2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(predict(loaded, sample()), predict(unet, sample()))


def test_sharded_and_variant_files_load(tmp_path):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*-of-*.safetensors"))) > 1
    loaded = MaCDMUNet2DModel.from_pretrained(tmp_path / "sharded")
    torch.testing.assert_close(predict(loaded, sample()), predict(unet, sample()))
    same_weights(unet).half().save_pretrained(tmp_path / "variant", variant="fp16")
    assert (tmp_path / "variant/diffusion_pytorch_model.fp16.safetensors").exists()
    loaded = MaCDMUNet2DModel.from_pretrained(tmp_path / "variant", variant="fp16", torch_dtype=torch.float16)
    assert loaded.dtype == torch.float16
    torch.testing.assert_close(predict(loaded.float(), sample()), predict(unet, sample()), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"out_channels": 4}, "out_channels=4 does not fit in_channels=3: allowed are 3 .* and 6"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep' is not supported"),
        ({"num_class_embeds": 1}, "num_class_embeds=1 is too small"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier' .* allowed are 'positional' and 'learned'"),
        ({"patch_size": 0}, "patch_size=0 must be at least 1"),
        ({"channel_weights": (1.0, 2.0)}, r"channel_weights=\(1.0, 2.0\) does not fit"),
        ({"mask_weighting": "noise"}, "mask_weighting='noise' is not known; allowed are input, signal"),
        ({"sample_size": (16, 24)}, r"sample_size=\(16, 24\) is not supported: one whole number"),
        ({"sample_size": None}, "sample_size=None is not supported"),
    ],
)
def test_refused_configurations(overrides, message):
    with pytest.raises(ValueError, match=message):
        MaCDMUNet2DModel(**{**TINY_UNET, **overrides})


@pytest.mark.parametrize(
    "overrides, arguments, message",
    [
        ({}, {"sample": torch.zeros(1, 3, 16, 15)}, "16x15 does not fit: both sides must be multiples of 2"),
        ({"patch_size": 2}, {"sample": torch.zeros(1, 3, 14, 16)}, "14x16 does not fit: .* multiples of 4"),
        ({"num_class_embeds": None}, {"class_labels": torch.tensor([0])}, "without class condition"),
        ({"mask_timestep": False}, {"mask_timestep": 0}, "mask_timestep was given to a network without one"),
        ({}, {"augmentation_labels": torch.zeros(1, 2)}, r"without them \(augmentation_dim=0\)"),
    ],
)
def test_refused_inputs(overrides, arguments, message):
    unet = tiny_unet(**overrides)
    with pytest.raises(ValueError, match=message):
        unet(**{"sample": torch.zeros(1, 3, 16, 16), "timestep": 1, **arguments})


# ------------------------------------------------------------------------------------------------------------ conditions


def test_weights_act_on_the_input():
    unet = tiny_unet(channel_weights=(1.5, 0.5, 0.25))
    plain = same_weights(unet, channel_weights=(1.0, 1.0, 1.0))
    weighted = sample() * torch.tensor([1.5, 0.5, 0.25])[:, None, None]
    torch.testing.assert_close(predict(unet, sample()), predict(plain, weighted))
    assert not torch.allclose(predict(unet, sample()), predict(plain, sample()), atol=1e-3)


def test_weights_on_the_signal_leave_the_input_alone():
    unet = tiny_unet(channel_weights=(1.5, 0.5, 0.25), mask_weighting="signal")
    plain = same_weights(unet, channel_weights=(1.0, 1.0, 1.0), mask_weighting="input")
    assert torch.equal(predict(unet, sample()), predict(plain, sample()))


def test_mask_timestep_is_neutral_before_training_and_acts_after():
    torch.manual_seed(0)
    unet = MaCDMUNet2DModel(**TINY_UNET).eval()
    assert (predict(unet, sample()) == 0).all()  # an untrained network predicts nothing
    randomised(unet.conv_out, 0)
    assert torch.equal(predict(unet, sample(), mask_timestep=0), predict(unet, sample()))
    without = MaCDMUNet2DModel(**TINY_UNET, mask_timestep=False).eval()
    without.load_state_dict(unet.state_dict(), strict=False)
    assert torch.equal(predict(unet, sample(), mask_timestep=0), predict(without, sample()))

    unet = randomised(unet, 0)
    assert not torch.allclose(predict(unet, sample(), mask_timestep=0), predict(unet, sample()), atol=1e-3)
    assert torch.equal(predict(unet, sample(), mask_timestep=300), predict(unet, sample()))  # omitted: the radiograph's


@pytest.mark.parametrize("patch_size", [1, 2])
def test_timesteps_may_be_numbers_or_one_for_each_sample(patch_size):
    unet = tiny_unet(patch_size=patch_size)
    together = predict(unet, sample(), torch.tensor([10, 500]), mask_timestep=torch.tensor([0, 900]))
    for i, (timestep, mask_timestep) in enumerate([(10, 0), (500, 900)]):
        alone = predict(unet, sample()[i : i + 1], timestep, LABELS[i : i + 1], mask_timestep=mask_timestep)
        torch.testing.assert_close(alone, together[i : i + 1])
    for timestep in (300, 300.0, torch.tensor(300), torch.tensor([300]), torch.tensor([300.0, 300.0])):
        torch.testing.assert_close(predict(unet, sample(), timestep), predict(unet, sample(), 300))


def test_fractional_timesteps_are_not_cut():
    """Sigma-type schedulers visit them; the parent alone would cut a Python float to a whole number."""
    unet = tiny_unet()
    assert torch.equal(predict(unet, sample(), 3.5), predict(unet, sample(), torch.tensor(3.5)))
    assert not torch.equal(predict(unet, sample(), 3.5), predict(unet, sample(), 3))


def test_no_label_is_the_null_label():
    unet = tiny_unet(num_class_embeds=4)
    assert (unet.num_classes, unet.null_class_label) == (3, 3)
    null = predict(unet, sample(), class_labels=torch.tensor([3, 3]))
    assert torch.equal(predict(unet, sample(), class_labels=None), null)
    for label in range(3):
        assert not torch.allclose(predict(unet, sample(), class_labels=torch.tensor([label, label])), null, atol=1e-3)


def test_network_without_classes():
    unet = tiny_unet(num_class_embeds=None)
    assert (unet.num_classes, unet.null_class_label) == (0, None)
    assert predict(unet, sample(), class_labels=None).shape == (2, 6, 16, 16)


def test_augmentation_labels_of_zero_say_nothing():
    unet = tiny_unet(augmentation_dim=3)
    assert torch.equal(predict(unet, sample(), augmentation_labels=torch.zeros(2, 3)), predict(unet, sample()))
    assert not torch.allclose(predict(unet, sample(), augmentation_labels=noise(2, 3)), predict(unet, sample()), atol=1e-3)


def test_learned_variance_is_bounded():
    unet = tiny_unet()
    unbounded = same_weights(unet, bound_variance=False)
    with torch.no_grad():
        for network in (unet, unbounded):
            network.conv_out.weight.mul_(10)
    noise_, v = predict(unbounded, sample()).chunk(2, dim=1)
    assert v.abs().max() > 1
    torch.testing.assert_close(predict(unet, sample()), torch.cat([noise_, v.tanh()], dim=1))
    # Without a learned variance there is nothing to bound.
    alone = tiny_unet(out_channels=3)
    assert torch.equal(predict(alone, sample()), predict(same_weights(alone, bound_variance=False), sample()))


def test_outputs():
    unet = tiny_unet()
    assert unet.learned_variance and not tiny_unet(out_channels=3).learned_variance
    x = sample()
    assert unet(x, 1).sample.shape == (2, 6, 16, 16)
    as_tuple = unet(x, 1, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], unet(x, 1).sample)


# ---------------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize("patch_size", [2, 4])
def test_patches_are_those_of_a_plain_network(patch_size):
    """Channel `c p^2 + i p + j` of the inner network is pixel `(i, j)` of each patch of channel `c`, in and out."""
    unet = tiny_unet(patch_size=patch_size, num_class_embeds=None, mask_timestep=False)
    plain = UNet2DModel(**TINY_UNET, in_channels=3 * patch_size**2, out_channels=6 * patch_size**2).eval()
    plain.load_state_dict(unet.state_dict())
    x, p = sample(size=32), patch_size
    cells = 32 // p
    inner = torch.empty(2, 3 * p * p, cells, cells)
    for c in range(3):
        for i in range(p):
            for j in range(p):
                inner[:, c * p * p + i * p + j] = x[:, c, i::p, j::p]
    with torch.no_grad():
        output = plain(inner, 300).sample
    output[:, 3 * p * p :].tanh_()  # the learned variance is bounded
    expected = torch.empty(2, 6, 32, 32)
    for c in range(6):
        for i in range(p):
            for j in range(p):
                expected[:, c, i::p, j::p] = output[:, c * p * p + i * p + j]
    torch.testing.assert_close(predict(unet, x, class_labels=None), expected)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_an_impulse_acts_where_it_is(patch_size):
    """The centre of gravity of an input pixel's influence on the output lies at that pixel."""
    unet = tiny_unet(patch_size=patch_size, sample_size=64)
    for y, x in [(16, 44), (45, 21)]:
        place = noise(1, 3, 64, 64).requires_grad_(False)
        moved = place.clone()
        moved[0, 0, y, x] += 1
        # Locally: the normalisations spread a little of it over the whole sample.
        influence = (predict(unet, moved, class_labels=None) - predict(unet, place, class_labels=None)).abs().sum(dim=1)[0]
        influence = influence * (influence > influence.max() / 4)
        rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        centre = (influence * rows).sum() / influence.sum(), (influence * columns).sum() / influence.sum()
        assert abs(centre[0] - y) <= 2 * patch_size and abs(centre[1] - x) <= 2 * patch_size


def test_pixel_unshuffle_is_undone():
    x = sample()
    assert torch.equal(F.pixel_shuffle(F.pixel_unshuffle(x, 4), 4), x)


# ------------------------------------------------------------------------------------------------------- for free, checked


@pytest.mark.parametrize("patch_size", [1, 2])
def test_detail_head_corrects_pixels(patch_size):
    """It begins at zero; trained, it sees the noisy pixels, the timestep and the label."""
    plain = tiny_unet(patch_size=patch_size)
    unet = type(plain)(**{k: v for k, v in plain.config.items() if not k.startswith("_")} | {"detail_channels": 4})
    unet.load_state_dict(plain.state_dict(), strict=False)
    unet.eval()
    x = sample()
    assert torch.equal(predict(unet, x), predict(plain, x))
    torch.nn.init.normal_(unet.detail_head.conv_out.weight, generator=torch.Generator().manual_seed(0))
    for name in ("conv_out.weight", "conv_out.bias"):  # the U-Net says nothing, so what is left is the head's
        torch.nn.init.zeros_(unet.get_parameter(name))
    before = predict(unet, x)
    x[0, 0, 5, 5] += 1
    changed = (predict(unet, x) - before).abs().amax(dim=1) > 1e-6  # [B, H, W]
    assert not changed[1].any() and changed[0, 5, 5]
    rows, columns = changed[0].nonzero(as_tuple=True)
    assert rows.min() >= 2 and rows.max() <= 8 and columns.min() >= 2 and columns.max() <= 8  # three convolutions of 3 x 3
    assert not torch.equal(predict(unet, x, timestep=10), predict(unet, x))
    assert not torch.equal(predict(unet, x, class_labels=torch.tensor([1, 0])), predict(unet, x))


FILM_NOISE = 0.1
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)  # DDPM, sec. 4


def film_noise_unet(**config):
    """A network with film noise beside the same one without, both tiny."""
    plain = tiny_unet(out_channels=3, **config)
    unet = type(plain)(**{k: v for k, v in plain.config.items() if not k.startswith("_")} | {"film_noise": FILM_NOISE})
    weights = plain.state_dict()
    rest = torch.zeros_like(unet.conv_out.weight[len(plain.conv_out.weight) :])  # sigmoid(0): half of the largest deviation
    weights["conv_out.weight"] = torch.cat([weights["conv_out.weight"], rest])
    weights["conv_out.bias"] = torch.cat([weights["conv_out.bias"], rest[:, 0, 0, 0]])
    unet.load_state_dict(weights)
    return unet.eval(), plain.eval()


@pytest.mark.parametrize("patch_size", [1, 2])
def test_film_noise_is_a_posterior_mean(patch_size):
    """Prior N(estimate, s^2), likelihood N(input / sqrt(abar), sigma^2), by Bayes' rule in precisions; masks stay estimates."""
    unet, plain = film_noise_unet(patch_size=patch_size)
    estimate = predict(plain, sample(), timestep=3)
    abar = ABAR[3]
    prior, likelihood = 1 / (FILM_NOISE / 2) ** 2, abar / (1 - abar)
    expected = (prior * estimate + likelihood * sample() / abar.sqrt()) / (prior + likelihood)
    output = predict(unet, sample(), timestep=3)
    torch.testing.assert_close(output[:, :1], expected[:, :1].float(), rtol=0, atol=1e-5)
    assert torch.equal(output[:, 1:], estimate[:, 1:])


def test_film_noise_between_timesteps_and_in_signal_units():
    unet, plain = film_noise_unet(channel_weights=(0.5, 0.5, 0.5), mask_weighting="signal")
    sigma = ((1 - ABAR) / ABAR).sqrt()
    for timestep, variance in ((4, sigma[4] ** 2), (3.5, sigma[3] * sigma[4]), (999, sigma[999] ** 2)):
        estimate = predict(plain, sample(), timestep=timestep)
        ratio = (FILM_NOISE * 0.5 / 2) ** 2 / variance  # w1 halves what a film spans
        expected = (estimate + ratio * sample() * (1 + variance).sqrt()) / (1 + ratio)
        torch.testing.assert_close(predict(unet, sample(), timestep=timestep)[:, 0], expected[:, 0].float(), rtol=0, atol=1e-5)


def test_film_noise_of_a_network_without_weights():
    with torch.device("meta"):
        unet = tiny_unet(out_channels=3, film_noise=FILM_NOISE)
    assert unet.conv_in.weight.is_meta
    torch.testing.assert_close(unet.log_sigmas.double(), ((1 - ABAR) / ABAR).log() / 2, rtol=0, atol=1e-6)


def test_film_noise_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"film_noise=-0.1 must be 0 \(none is modelled\) or more"):
        tiny_unet(film_noise=-0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    unet = tiny_unet(augmentation_dim=2, channel_weights=(1.0, 0.5, 0.5))
    expected = predict(unet, sample(), mask_timestep=0, augmentation_labels=noise(2, 2))
    output = predict(same_weights(unet).to(dtype), sample().to(dtype), mask_timestep=0, augmentation_labels=noise(2, 2))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.05 if dtype == torch.float16 else 0.3)


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    unet = tiny_unet(patch_size=2).train()
    for checkpointing in (False, True):
        unet.zero_grad()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet(sample(), 300, LABELS, mask_timestep=0).sample.square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# ------------------------------------------------------------------------------------------------------------ from_unet2d


def plain_unet(**overrides):
    return randomised(UNet2DModel(**{**TINY_UNET, "in_channels": 1, "out_channels": 1, **overrides}), 3)


def start(plain, **config):
    return from_unet2d(plain, **config).eval()


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)  # diffusers' loggers do not propagate
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("config", [{}, {"out_channels": 3}, {"channel_weights": (2.0, 0.5, 0.1)}, {"mask_timestep": False}])
def test_started_from_grayscale(config):
    plain = plain_unet()
    unet = start(plain, **config)
    expected = plain(sample()[:, :1], 300).sample
    for labels in (None, LABELS):
        output = predict(unet, sample(), class_labels=labels)
        torch.testing.assert_close(output[:, :1], expected, rtol=1e-5, atol=1e-5)
        assert (output[:, 1:] == 0).all()  # masks: "no noise"; v = 0: half-way between the bounds
    assert unet.config.sample_size == 16 and unet.config.num_class_embeds == 3


def test_started_from_rgb():
    plain = plain_unet(in_channels=3, out_channels=3)
    expected = plain(sample()[:, :1].expand(-1, 3, -1, -1), 300).sample.mean(dim=1)
    torch.testing.assert_close(predict(start(plain), sample())[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_learned_variance_is_taken_over(channels):
    plain = plain_unet(in_channels=channels, out_channels=2 * channels)
    mean, variance = plain(sample()[:, :1].expand(-1, channels, -1, -1), 300).sample.chunk(2, dim=1)
    output = predict(start(plain), sample())
    torch.testing.assert_close(output[:, 0], mean.mean(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output[:, 3], variance.mean(dim=1), rtol=1e-5, atol=1e-5)
    assert (output[:, [1, 2, 4, 5]] == 0).all()
    without = predict(start(plain, out_channels=3), sample())
    torch.testing.assert_close(without[:, 0], mean.mean(dim=1), rtol=1e-5, atol=1e-5)


def test_class_labels_are_taken_over():
    plain = plain_unet(num_class_embeds=2)
    unet = start(plain, num_class_embeds=4)
    expected = plain(sample()[:, :1], 300, class_labels=LABELS).sample
    torch.testing.assert_close(predict(unet, sample())[:, :1], expected, rtol=1e-5, atol=1e-5)
    assert (unet.label_embedding.weight[2:] == 0).all()


def test_all_new_channels_learn():
    """Zero channels are no dead ones: a step of training reaches them."""
    unet = start(plain_unet())
    unet(sample(), 300, LABELS).sample.sub(1).square().mean().backward()
    assert (unet.conv_out.weight.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert unet.conv_in.weight.grad[:, 1:].abs().max() > 0
    assert unet.label_embedding.weight.grad[:2].abs().sum() > 0


def test_the_log_says_what_was_done(log):
    start(plain_unet())
    assert "mask channels 1 -> 3 initialised to zero in conv_in and conv_out" in log.text
    assert "new tensors: label_embedding.weight, mask_time_embedding.linear_1.bias" in log.text
    plain = plain_unet()
    assert f"{len(plain.state_dict())} of {len(start(plain).state_dict())} tensors taken over" in log.text
    log.clear()
    start(plain_unet(), patch_size=2)
    assert "conv_in starts at random and conv_out at zero (patch_size=2)" in log.text and "conv_in.weight" in log.text


def test_patches_keep_the_inner_weights():
    plain = plain_unet()
    unet = start(plain, patch_size=2, sample_size=32)
    taken = {name for name, w in plain.state_dict().items() if torch.equal(unet.state_dict().get(name, w.new_zeros(0)), w)}
    assert set(plain.state_dict()) - taken == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}
    assert (predict(unet, sample(size=32)) == 0).all()
    assert start(plain_unet(out_channels=2), patch_size=2).config.bound_variance
    assert not start(plain_unet(out_channels=2)).config.bound_variance


def test_start_from_an_ema_folder(tmp_path):
    """Its config.json holds parameters of the average as well."""
    plain = plain_unet()
    EMAModel(plain.parameters(), model_cls=UNet2DModel, model_config=plain.config).save_pretrained(tmp_path)
    unet = start(UNet2DModel.from_pretrained(tmp_path))
    torch.testing.assert_close(predict(unet, sample())[:, :1], plain(sample()[:, :1], 300).sample, rtol=1e-5, atol=1e-5)
    assert "decay" not in unet.config


def test_sizes_of_the_plain_network():
    assert start(plain_unet(sample_size=(16, 16))).config.sample_size == 16
    assert start(plain_unet(sample_size=None), sample_size=16).config.sample_size == 16
    for size in (None, (16, 32)):
        with pytest.raises(ValueError, match="sample_size="):
            start(plain_unet(sample_size=size))


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="No weight of the plain UNet2DModel fits: keep its block_out_channels"):
        start(plain_unet(), block_out_channels=(12, 24), layers_per_block=1)


def test_started_network_can_be_saved(tmp_path):
    unet = start(plain_unet(in_channels=3, out_channels=3), channel_weights=(1.0, 0.5, 0.5))
    unet.save_pretrained(tmp_path)
    loaded = MaCDMUNet2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(predict(loaded, sample()), predict(unet, sample()))
