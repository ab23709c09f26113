"""The converter against an independent implementation of the original network, and what it refuses."""

import functools

import pytest
import torch
from diffusers import UNet2DModel
from original_unet import Original

from diffusers_macdm import MaCDMUNet2DModel
from diffusers_macdm.conversion.guided_diffusion import convert_guided_diffusion, load_guided_diffusion, without_class_labels
from diffusers_macdm.conversion.plain_unet import from_plain


LAYOUTS = {
    "as 64x64": functools.partial(Original, 32, (1, 2, 3), 3, (2, 4), num_head_channels=16, new_order=True, num_classes=5),
    "as 128x128": functools.partial(Original, 32, (1, 2, 3), 2, (2, 4), num_heads=4, num_classes=5),
    "as 256x256": functools.partial(Original, 32, (1, 1, 2), 2, (2, 4), num_head_channels=32),
    "as 512x512": functools.partial(Original, 64, (0.5, 1, 2), 1, (4,), num_head_channels=32, num_classes=5),
    "defaults of guided-diffusion": functools.partial(Original, 32, (1, 2), 1, (2,), updown=False, num_heads=4, out_channels=3),
    "no scale and shift": functools.partial(
        Original, 32, (1, 2), 2, (1, 2), updown=False, scale_shift=False, num_head_channels=16
    ),
    "gray, one level": functools.partial(Original, 32, (1,), 1, (), in_channels=1, out_channels=2, num_heads=2, new_order=True),
}


@functools.cache
def original_of(layout):
    return LAYOUTS[layout]()


def convert(original):
    return convert_guided_diffusion(original.weights, **original.heads)


def noisy(channels=3):
    return torch.randn(2, channels, 16, 16, generator=torch.Generator().manual_seed(0))


TIMESTEPS = torch.tensor([3.0, 700.0])


def rgb_network(config, weights):
    """A `UNet2DModel`; where it cannot express the network, a `MaCDMUNet2DModel` without any of its masks."""
    if not {"num_attention_heads", "time_proj_dim"} & set(config):
        network = UNet2DModel(**config)
    else:
        labels = weights.pop("class_embedding.weight", None)
        if labels is not None:
            weights["label_embedding.weight"] = torch.cat([labels, torch.zeros_like(labels[:1])])
            config["num_class_embeds"] += 1
        network = MaCDMUNet2DModel(**{**config, "sample_size": 16}, mask_timestep=False, bound_variance=False)
    network.load_state_dict(weights)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_outputs_as_the_original(layout):
    original = original_of(layout)
    labels = torch.tensor([0, 4]) if original.flags["num_classes"] else None
    sample = noisy(original.flags["in_channels"])
    expected = original(sample, TIMESTEPS, labels)
    output = rgb_network(*convert(original))(sample, TIMESTEPS, class_labels=labels).sample
    assert expected.std() > 0.3
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("layout", "wrong"),
    [
        ("as 64x64", {"use_new_attention_order": False}),
        ("as 256x256", {"use_new_attention_order": True}),
        ("as 256x256", {"num_head_channels": 16}),
        ("as 128x128", {"num_heads": 2}),
    ],
)
def test_the_heads_matter(layout, wrong):
    """Else the comparison above would not see them."""
    original = original_of(layout)
    labels = torch.tensor([0, 4]) if original.flags["num_classes"] else None
    network = rgb_network(*convert_guided_diffusion(original.weights, **{**original.heads, **wrong}))
    difference = network(noisy(), TIMESTEPS, class_labels=labels).sample - original(noisy(), TIMESTEPS, labels)
    assert difference.abs().max() > 0.01


PUBLISHED = {
    "64x64_diffusion.pt": (192, (1, 2, 3, 4), 3, (2, 4, 8), 1000),
    "128x128_diffusion.pt": (256, (1, 1, 2, 3, 4), 2, (4, 8, 16), 1000),
    "256x256_diffusion_uncond.pt": (256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), None),
    "512x512_diffusion.pt": (256, (0.5, 1, 1, 2, 2, 4, 4), 2, (16, 32, 64), 1000),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_need_no_flags(name):
    """By their shapes; there are hundreds of millions of weights."""
    channels, multipliers, layers, attention, num_classes = PUBLISHED[name]
    original = Original(channels, multipliers, layers, attention, num_classes=num_classes, num_head_channels=64, device="meta")
    config, weights = convert_guided_diffusion(original.weights)
    assert sum(weight.numel() for weight in weights.values()) == sum(w.numel() for w in original.weights.values())
    assert f"{config['sample_size']}x" == name[: name.index("x") + 1]
    assert config["num_class_embeds"] == num_classes
    assert config["block_out_channels"] == tuple(int(channels * multiplier) for multiplier in multipliers)
    assert [kind.startswith("Attn") for kind in config["down_block_types"]] == [
        2**level in attention for level in range(len(multipliers))
    ]
    heads = {key: config.get(key) for key in ("attention_head_dim", "num_attention_heads", "time_proj_dim")}
    assert heads == {
        "attention_head_dim": 32 if name.startswith("128") else 64,
        "num_attention_heads": 4 if name.startswith("128") else None,
        "time_proj_dim": 256 if name.startswith("512") else None,
    }


def joint_network(config, weights, **overrides):
    overrides = {"sample_size": 16, "in_channels": 3, "out_channels": 6, "num_class_embeds": 3, **overrides}
    return from_plain(config, weights, **overrides).eval()


@torch.no_grad()
@pytest.mark.parametrize("layout", ["as 128x128", "as 256x256", "as 512x512", "gray, one level"])
def test_the_radiograph_channel_of_the_joint_model(layout):
    """A gray image in all three channels in, the mean of what comes out; masks neither seen nor said."""
    original = original_of(layout)
    labels = original.flags["num_classes"] and original.weights["label_emb.weight"].mean(dim=0)
    channels = original.flags["in_channels"]
    sample = noisy()
    expected = original(sample[:, :1].expand(-1, channels, -1, -1), TIMESTEPS, label_embedding=labels)
    expected = expected.unflatten(1, (2, channels)).mean(dim=2)  # [B, 2, H, W]: noise and variance

    model = joint_network(*without_class_labels(*convert(original)))
    assert model.learned_variance and not model.config.bound_variance
    for label in (0, 1, None):
        output = model(sample, TIMESTEPS, class_labels=None if label is None else torch.tensor([label, label])).sample
        torch.testing.assert_close(output[:, [0, 3]], expected, rtol=1e-5, atol=1e-5)
        assert output[:, [1, 2, 4, 5]].abs().max() == 0
    weighted = joint_network(*without_class_labels(*convert(original)), channel_weights=(2.0, 1.0, 0.5))
    torch.testing.assert_close(weighted(sample, TIMESTEPS).sample[:, [0, 3]], expected, rtol=1e-5, atol=1e-5)


def test_class_labels_are_kept_where_they_are_ours():
    original = Original(32, (1, 2), 1, (2,), num_head_channels=32, num_classes=2)
    model = joint_network(*convert(original))
    torch.testing.assert_close(model.label_embedding.weight[:2], original.weights["label_emb.weight"])
    assert (model.label_embedding.weight[2] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("layout", ["as 128x128", "as 512x512"])
def test_the_joint_model_is_saved_and_loaded(layout, tmp_path):
    model = joint_network(*without_class_labels(*convert(original_of(layout))))
    model.save_pretrained(tmp_path)
    loaded = MaCDMUNet2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(noisy(), TIMESTEPS).sample, model(noisy(), TIMESTEPS).sample, rtol=1e-5, atol=1e-5)


def test_the_state_dict_is_left_alone():
    original = original_of("as 64x64")
    before = {name: weight.clone() for name, weight in original.weights.items()}
    config, weights = convert(original)
    without_class_labels(config, weights)
    assert "class_embedding.weight" in weights and config["num_class_embeds"] == 5
    assert all(torch.equal(weight, before[name]) for name, weight in original.weights.items())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    half = {name: weight.half() for name, weight in original.weights.items()}
    assert {weight.dtype for weight in convert_guided_diffusion(half, **original.heads)[1].values()} == {torch.float32}


def changed(remove="", **add):
    weights = original_of("as 256x256").weights
    kept = {name: weight for name, weight in weights.items() if not (remove and name.startswith(remove))}
    return {**kept, **{name.replace("__", "."): weight for name, weight in add.items()}}


@pytest.mark.parametrize(
    ("state_dict", "heads", "message"),
    [
        (lambda: {}, {}, "this is no network of guided-diffusion: input_blocks.0.0.weight, middle_block.1.qkv.weight"),
        (lambda: {"state_dict": {}}, {}, "this is no state dict"),
        (lambda: changed("output_blocks"), {}, "no output_blocks: a classifier of guided-diffusion"),
        (lambda: changed("input_blocks.3.0"), {"num_heads": 1}, "has shape none, needed is"),
        (lambda: changed("output_blocks.8"), {"num_heads": 1}, "are not the layout of guided-diffusion"),
        (lambda: changed(extra__weight=torch.zeros(1)), {"num_heads": 1}, "extra.weight is no weight of a guided-diffusion"),
        (
            lambda: changed(output_blocks__0__0__skip__weight=torch.zeros(1)),
            {"num_heads": 1},
            "output_blocks.0.0.skip.*has shape",
        ),
        (
            lambda: Original(32, (1, 2), 1, (2,), in_channels=6, num_heads=4).weights,
            {"num_heads": 4},
            "takes 6 channels and gives 6: .*an upsampler takes two images",
        ),
        (changed, {}, "attention heads of this network are unknown.*num_heads or num_head_channels"),
        (changed, {"num_heads": 3}, "num_heads=3 does not fit: .* here 32"),
        (changed, {"num_heads": 0}, "num_heads=0 does not fit"),
        (changed, {"num_head_channels": 64}, "num_head_channels=64 does not fit: .* here 32"),
        (changed, {"num_heads": 1, "num_head_channels": 32}, "exclude each other"),
    ],
)
def test_what_is_refused(state_dict, heads, message):
    with pytest.raises(ValueError, match=message):
        convert_guided_diffusion(state_dict(), **heads)


def test_checkpoint_files(tmp_path):
    original = original_of("as 256x256")
    torch.save(original.weights, tmp_path / "model.pt")
    config, weights = load_guided_diffusion(tmp_path / "model.pt", num_head_channels=32)
    expected_config, expected = convert(original)
    assert config == expected_config and all(torch.equal(weights[name], expected[name]) for name in expected)

    with pytest.raises(FileNotFoundError, match="nowhere.pt: there is no such file"):
        load_guided_diffusion(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="model.pt: the attention heads of this network are unknown"):
        load_guided_diffusion(tmp_path / "model.pt")
    torch.save({"model": Original}, tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").touch()
    for name in ("code.pt", "text.pt", "empty.pt"):
        with pytest.raises(ValueError, match=f"{name}: no PyTorch checkpoint of plain tensors can be read here"):
            load_guided_diffusion(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 3}, "num_attention_heads=3 does not fit: it must divide .* here 16"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 does not fit"),
        ({"time_proj_dim": 7}, "time_proj_dim=7 is not allowed"),
        ({"time_proj_dim": 8, "time_embedding_type": "learned", "num_train_timesteps": 10}, "time_embedding_type='positional'"),
    ],
)
def test_parameters_that_are_refused(values, message):
    tiny = {"block_out_channels": (8, 16), "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    with pytest.raises(ValueError, match=message):
        MaCDMUNet2DModel(**tiny, norm_num_groups=4, layers_per_block=1, **values)
