"""Networks that a training is given and that are broken, absurd or meant to do harm: one sentence, and no memory or code."""

import dataclasses
import json
import resource

import pytest
import torch
from diffusers import UNet2DModel
from hostile_models import HOSTILE, edit
from launching import SETTINGS, resolve_here, settings_of
from tiny_models import tiny_pipeline


MOST_MEGABYTES = 300
OF_UNET = (
    "unet config: layers without end", "unet config: sample of a million pixels a side", "unet config: sample size is a text",
    "unet config: a width of a million", "unet config: other widths", "unet config: labels without end",
    "unet config: blocks that are none", "weights: missing", "weights: pipe", "weights: device", "weights: bomb",
    "weights: a pickle in their place", "weights: pickle alone", "weights: one missing", "weights: one turned",
    "weights: cut off", "weights: index that leaves the folder", "weights: NaN",
)  # fmt: skip


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("MACDM_SENTINEL", str(tmp_path / "ran"))
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(phantom, message, **values):
    """Resolve; the sentence that it is refused by has the message, and came before memory was taken."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, OSError), match=message) as caught:
        resolve_here("train_macdm", train_data_dir=phantom, resolution=16, **values)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEGABYTES * 1024


@pytest.mark.parametrize("name", OF_UNET)
def test_a_hostile_network_to_start_from(phantom, model, tmp_path, name):
    HOSTILE[name](model)
    words = "are not finite" if name == "weights: NaN" else "no model can be read here"
    refused(phantom, f"^--pretrained_unet {model / 'unet'}: .*{words}", pretrained_unet=model / "unet")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers_per_block": 10**9}, "layers_per_block=1000000000 is not allowed"),
        ({"sample_size": [16, 10**7]}, "sample_size=10000000 is not allowed"),
        ({"block_out_channels": [8, 16]}, "the weights are not those of the network"),
    ],
)
def test_a_hostile_plain_network(phantom, tmp_path, values, message):
    layers = {"block_out_channels": (8, 8), "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    plain = UNet2DModel(sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4, **layers)
    plain.save_pretrained(tmp_path / "plain")
    edit(tmp_path / "plain" / "config.json", **values)
    refused(phantom, message, pretrained_unet=tmp_path / "plain")


@pytest.mark.parametrize("safe", [True, False])
def test_a_plain_network_of_former_names_and_pickles(phantom, tmp_path, safe):
    """What diffusers called attention's weights before 2023 is read; a pickle is not."""
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    shape = {"block_out_channels": (8, 16), "attention_head_dim": 8, "norm_num_groups": 4, "layers_per_block": 1}
    plain = UNet2DModel(sample_size=[16, 16], in_channels=1, out_channels=1, **blocks, **shape)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, tensor in plain.state_dict().items():
        for now, before in former.items():
            name = name.replace(f".{now}.", f".{before}.")
        weights[name] = tensor
    plain.save_pretrained(tmp_path / "plain", safe_serialization=safe, state_dict=weights)
    if not safe:
        refused(phantom, "is a pickle, which can run code", pretrained_unet=tmp_path / "plain")
        return
    from safetensors.torch import save_file

    save_file(weights, tmp_path / "plain" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    given = {"pretrained_unet": tmp_path / "plain", "resolution": 16, "patch_size": 1, "learned_variance": False}
    unet = resolve_here("train_macdm", train_data_dir=phantom, **given)["unet"]
    taken = unet.state_dict()
    for name, tensor in plain.state_dict().items():
        if ".to_" in name:
            assert torch.equal(taken[name], tensor), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers_per_block": 10**9}, "layers_per_block=1000000000 is not allowed"),
        ({"block_out_channels": [2**18, 2**18]}, "parameters is too large: at most 4,294,967,296"),
        ({"sample_size": 10**6}, "sample_size=1000000 is not allowed"),
        ({"block_out_channels": 8}, "block_out_channels=8 is not allowed"),
    ],
)
def test_an_absurd_configuration(phantom, model, values, message):
    edit(model / "unet" / "config.json", **values)
    for path in (model / "unet", model / "unet" / "config.json"):
        refused(phantom, f"^--model_config_name_or_path {path}: .*{message}", model_config_name_or_path=path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers_per_block": 10**9}, "--layers_per_block 1000000000 is not allowed: it must be at most 64"),
        ({"resolution": 2**24}, "--resolution 16777216 is not allowed"),
        ({"block_out_channels": [2**18, 2**18]}, "parameters is too large"),
        ({"ddpm_num_steps": 10**10}, "--ddpm_num_steps 10000000000 is not allowed"),
    ],
)
@pytest.mark.parametrize("script", ["train_macdm", "train_guidance_classifier"])
def test_absurd_options(phantom, script, values, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message):
        resolve_here(script, train_data_dir=phantom, **{"patch_size": 1, **values})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEGABYTES * 1024


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit(folder / "config.json", layers_per_block=10**9),
        lambda folder: edit(folder / "config.json", num_classes=10**9),
        lambda folder: edit(folder / "config.json", block_out_channels=[16, 16]),
        lambda folder: (folder / "config.json").write_text("[" * 200_000),
        lambda folder: (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100),
        lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(),
    ],
    ids=["layers", "classes", "widths", "deep", "damaged", "missing"],
)
@pytest.mark.parametrize("option", [True, False], ids=["named", "found"])
def test_a_hostile_classifier(phantom, model, change, option):
    """Named by the option, or found in the output folder."""
    folder = model / "guidance_classifier"
    change(folder)
    values = {"guidance_classifier": folder} if option else {"output_dir": model}
    refused(phantom, f"{folder}", **values)


def test_a_scheduler_that_is_no_object(phantom, model):
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps([1]))
    refused(phantom, "scheduler_config.json holds no JSON object", guidance_classifier=model)


@pytest.mark.parametrize("script", SETTINGS)
def test_numbers_that_are_none(phantom, script):
    """Every option that is a number, as NaN and as infinity; an infinite `--max_grad_norm` clips nothing."""
    tried = 0
    for field in dataclasses.fields(SETTINGS[script]):
        if isinstance(field.default, float):
            words = 1
        elif isinstance(field.default, tuple) and field.default and isinstance(field.default[0], float):
            words = len(field.default)
        else:
            continue
        for value in ("nan", "inf"):
            if (field.name, value) == ("max_grad_norm", "inf"):
                continue
            with pytest.raises(ValueError, match=f"^--{field.name} {value}.* is not allowed"):
                settings_of(script, train_data_dir=phantom, **{field.name: [value] * words}).check()
            tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    "values", [{"adam_epsilon": -1}, {"adam_weight_decay": -1}, {"ema_inv_gamma": 0}, {"ema_max_decay": 2}]
)
def test_numbers_out_of_range(phantom, values):
    with pytest.raises(ValueError, match="is not allowed"):
        resolve_here("train_guidance_classifier", train_data_dir=phantom, **values)
