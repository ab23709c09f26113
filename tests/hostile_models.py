"""Models that are broken or meant to do harm: copies of a good one, each with one thing changed.

`HOSTILE` maps a name to a function of the model's folder. Code in them would write the file that the variable MACDM_SENTINEL
names. Values of `LOADS` say of which a set may come out all the same.
"""

import json
import os
import pickle
import struct

import torch


HOSTILE = {}
CODE = "import os, pathlib\npathlib.Path(os.environ['MACDM_SENTINEL']).write_text('ran')\n"
LOADS = {
    "index: foreign component", "index: foreign key", "index: pipeline file beside", "unet: own module beside",
    "unet config: foreign key", "unet config: auto_map", "scheduler: foreign key", "record: training is a list",
    "record: pipe", "audit: level is a text", "audit: deep", "extra tensors", "pickle beside safetensors",
    "link to itself beside", "unet config: quantization",
    "scheduler: bytes order mark", "unet config: name or path", "weights: half precision",
}  # fmt: skip


class Harm:
    def __reduce__(self):
        return exec, (CODE,)


def hostile(name):
    def add(function):
        assert name not in HOSTILE, name
        HOSTILE[name] = function
        return function

    return add


def edit(path, **values):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **values}))


def in_config(name, part="unet", **values):
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    hostile(f"{part}{'' if part == 'scheduler' else ' config'}: {name}")(lambda model: edit(model / part / file, **values))


def in_index(name, **values):
    hostile(f"index: {name}")(lambda model: edit(model / "model_index.json", **values))


def file_of(name, path, make):
    """Replace a file by what `make(path)` puts there."""

    @hostile(name)
    def replace(model):
        (model / path).unlink(missing_ok=True)
        (model / path).parent.mkdir(exist_ok=True)
        make(model / path)


def deep(path):
    path.write_text("[" * 200_000 + "]" * 200_000)


def deep_object(path):
    path.write_text('{"a":' * 50 + "1" + "}" * 50)


def bomb(path):
    """A file of a terabyte that takes no place."""
    with open(path, "wb") as file:
        file.truncate(2**40)


def header(path, content, data=b""):
    text = json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# --- model_index.json
in_index("module of the system", unet=["os", "system"])
in_index("module beside", unet=["harm", "MaCDMUNet2DModel"])
in_index("module with a path", unet=["../harm", "MaCDMUNet2DModel"])
in_index("class of another kind", unet=["diffusers", "StableDiffusionPipeline"])
in_index("plain U-Net", unet=["diffusers", "UNet2DModel"])
in_index("no unet", unet=[None, None])
in_index("unet is a text", unet="unet")
in_index("unet is a number", unet=7)
in_index("classifier of torch", guidance_classifier=["torch", "load"])
in_index("weak unet of another library", weak_unet=["transformers", "AutoModel"])
in_index("weak unet is not there", weak_unet=["macdm", "MaCDMUNet2DModel"])
in_index("scheduler of another library", scheduler=["subprocess", "Popen"])
in_index("scheduler is no scheduler", scheduler=["diffusers", "UNet2DModel"])
in_index("scheduler is a dunder", scheduler=["diffusers", "__builtins__"])
in_index("scheduler cannot work", scheduler=["diffusers", "LCMScheduler"])
in_index("no scheduler", scheduler=[None, None])
in_index("foreign component", vae=["harm", "Harm"])
in_index("foreign key", _harm={"a": "<script>"})
in_index("class name of another", _class_name="StableDiffusionPipeline", unet=["diffusers", "UNet2DConditionModel"])
file_of("index: a list", "model_index.json", lambda path: path.write_text("[1]"))
file_of("index: not JSON", "model_index.json", lambda path: path.write_text("{"))
file_of("index: binary", "model_index.json", lambda path: path.write_bytes(bytes(range(256))))
file_of("index: empty", "model_index.json", lambda path: path.write_text(""))
file_of("index: deep", "model_index.json", deep)
file_of("index: deep object", "model_index.json", deep_object)
file_of("index: bomb", "model_index.json", bomb)
file_of("index: pipe", "model_index.json", os.mkfifo)
file_of("index: device", "model_index.json", lambda path: path.symlink_to("/dev/zero"))
file_of("index: folder", "model_index.json", lambda path: path.mkdir())
file_of("index: pipeline file beside", "pipeline.py", lambda path: path.write_text(CODE))


@hostile("index: custom pipeline")
def _(model):
    edit(model / "model_index.json", _class_name=["pipeline", "MaCDMPipeline"])
    (model / "pipeline.py").write_text(CODE)
    edit(model / "model_index.json", unet=["macdm", "Harm"])


@hostile("unet: module of its own")
def _(model):
    edit(model / "model_index.json", unet=["harm", "MaCDMUNet2DModel"])
    (model / "unet" / "harm.py").write_text(CODE)


file_of("unet: own module beside", "unet/macdm.py", lambda path: path.write_text(CODE))

# --- the networks' configurations
in_config("layers without end", layers_per_block=10**9)
in_config("layers without end, classifier", "guidance_classifier", layers_per_block=10**9)
in_config("sample of a million pixels a side", sample_size=10**6)
in_config("sample size beyond all numbers", sample_size=10**30)
in_config("sample size negative", sample_size=-16)
in_config("sample size is a text", sample_size="16")
in_config("sample size is a fraction", sample_size=16.5)
in_config("widths without end", block_out_channels=[8] * 5000)
in_config("a width of a million", block_out_channels=[8, 2**20])
in_config("widths beyond all numbers", block_out_channels=[8, 10**18])
in_config("other widths", block_out_channels=[16, 16])
in_config("widths are a number", block_out_channels=8)
in_config("one channel", in_channels=1, out_channels=2)
in_config("padding without end", downsample_padding=10**6)
in_config("labels without end", num_class_embeds=10**9)
in_config("blocks of another kind", down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"])
in_config("blocks that are none", down_block_types=["os.system", "DownBlock2D"])
in_config("activation that is none", act_fn="__import__('os').system('true')")
in_config("weights of NaN", channel_weights=[float("nan"), 1, 1])
in_config("weights of two channels", channel_weights=[1, 1])
in_config("heads of no channels", attention_head_dim=0)
in_config("groups that do not divide", norm_num_groups=3)
in_config("patches larger than the sample", patch_size=64)
in_config("a sample that cannot be halved", sample_size=15)
in_config("normalised by nothing", norm_eps=float("nan"))
in_config("scaled by nothing", mid_block_scale_factor=0)
in_config("foreign key", harm="<script>", trust_remote_code=True)
in_config("auto_map", auto_map={"AutoModel": "harm.Harm"})
in_config("quantization", _name_or_path="/", quantization_harm={"a": 1})
in_config("name or path", _name_or_path="https://example.org/x")
in_config("another class", _class_name="AutoencoderKL")
in_config("classes of another number", "guidance_classifier", num_classes=5)
in_config("deep", harm=json.loads("[" * 60 + "]" * 60))
file_of("unet config: pipe", "unet/config.json", os.mkfifo)
file_of("unet config: missing", "unet/config.json", lambda path: None)
file_of("unet config: bomb", "unet/config.json", bomb)

# --- the scheduler
in_config("a thousand million timesteps", "scheduler", num_train_timesteps=10**9)
in_config("one timestep", "scheduler", num_train_timesteps=1)
in_config("no timesteps", "scheduler", num_train_timesteps=0)
in_config("betas of another number", "scheduler", trained_betas=[0.1, 0.2])
in_config("betas beyond one", "scheduler", beta_end=7.0)
in_config("betas of NaN", "scheduler", beta_start=float("nan"))
in_config("betas in words", "scheduler", beta_start="small")
in_config("unknown schedule", "scheduler", beta_schedule="harm")
in_config("offset beyond the end", "scheduler", steps_offset=900, timestep_spacing="leading")
in_config("unknown spacing", "scheduler", timestep_spacing="harm")
in_config("range in words", "scheduler", clip_sample_range="all")
in_config("switch in words", "scheduler", clip_sample="yes")
in_config("unknown prediction", "scheduler", prediction_type="harm")
in_config("foreign key", "scheduler", harm=["<script>"])
file_of("scheduler: device", "scheduler/scheduler_config.json", lambda path: path.symlink_to("/dev/zero"))

# --- the weights
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
file_of("weights: missing", WEIGHTS, lambda path: None)
file_of("weights: empty", WEIGHTS, lambda path: path.write_bytes(b""))
file_of("weights: pipe", WEIGHTS, os.mkfifo)
file_of("weights: device", WEIGHTS, lambda path: path.symlink_to("/dev/zero"))
file_of("weights: folder", WEIGHTS, lambda path: path.mkdir())
file_of("weights: bomb", WEIGHTS, bomb)
file_of("weights: header of an exabyte", WEIGHTS, lambda path: path.write_bytes(struct.pack("<Q", 2**60) + b"{}"))
file_of("weights: deep header", WEIGHTS, lambda path: path.write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000))
file_of(
    "weights: header of a tensor of a petabyte",
    WEIGHTS,
    lambda path: header(path, {"conv_in.weight": {"dtype": "F32", "shape": [2**25, 2**25], "data_offsets": [0, 2**52]}}),
)
file_of(
    "weights: shape without data",
    WEIGHTS,
    lambda path: header(path, {"conv_in.weight": {"dtype": "F32", "shape": [8, 3, 3, 3], "data_offsets": [0, 4]}}, b"0000"),
)
file_of("weights: a pickle in their place", WEIGHTS, lambda path: path.write_bytes(pickle.dumps(Harm())))
file_of("weights: torch's file in their place", WEIGHTS, lambda path: torch.save({"a": Harm()}, path))


@hostile("weights: pickle alone")
def _(model):
    (model / WEIGHTS).unlink()
    torch.save(Harm(), model / "unet/diffusion_pytorch_model.bin")


@hostile("pickle beside safetensors")
def _(model):
    torch.save(Harm(), model / "unet/diffusion_pytorch_model.bin")


def changed_weights(name, change):
    @hostile(name)
    def _(model):
        from safetensors.torch import load_file, save_file

        tensors = load_file(model / WEIGHTS)
        change(tensors)
        save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})


changed_weights("weights: NaN", lambda tensors: tensors["conv_in.bias"].fill_(torch.nan))
changed_weights("weights: infinite", lambda tensors: tensors["conv_out.bias"].fill_(torch.inf))
changed_weights("weights: huge", lambda tensors: [tensor.fill_(3e38) for tensor in tensors.values()])
changed_weights("weights: one missing", lambda tensors: tensors.pop("conv_in.weight"))
changed_weights("weights: one turned", lambda tensors: tensors.update({"conv_in.weight": torch.zeros(3, 8, 3, 3)}))
changed_weights("extra tensors", lambda tensors: tensors.update(harm=torch.zeros(3)))
changed_weights("weights: half precision", lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
changed_weights("weights: whole numbers", lambda tensors: tensors.update({k: v.long() for k, v in tensors.items()}))


@hostile("weights: cut off")
def _(model):
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[: len(content) // 2])


@hostile("weights: index that leaves the folder")
def _(model):
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"conv_in.weight": "../../x.safetensors"}}))


@hostile("weights: index without a map")
def _(model):
    (model / f"{WEIGHTS}.index.json").write_text("{}")


# --- what lies beside
file_of("record: training is a list", "training_config.json", lambda path: path.write_text("{}"))
file_of("record: data is a text", "training_config.json", lambda path: path.write_text('{"data": "harm"}'))
file_of("record: data is a list", "training_config.json", lambda path: path.write_text('{"data": [1]}'))
file_of(
    "record: earlier trainings are numbers", "training_config.json", lambda path: path.write_text('{"earlier_trainings": 3}')
)
file_of("record: deep", "training_config.json", deep)
file_of("record: pipe", "training_config.json", os.mkfifo)
file_of(
    "audit: level is a text", "audit/audit.json", lambda path: path.write_text('{"strength_curve": 1, "strength_level": "x"}')
)
file_of("audit: deep", "audit/audit.json", deep)
file_of("link to itself beside", "loop", lambda path: path.symlink_to(path.name))
