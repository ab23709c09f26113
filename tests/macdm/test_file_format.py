"""What is written into saved pipelines, frozen: old checkpoints must load for ever."""

import inspect
import json

import diffusers
import pytest
from tiny_models import tiny_pipeline, tiny_unet

import diffusers_macdm


MODEL_INDEX = {
    "_class_name": "MaCDMPipeline",
    "guidance_classifier": ["macdm", "GuidanceClassifier"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["macdm", "MaCDMUNet2DModel"],
    "weak_unet": [None, None],
}
UNET_KEYS = """
    act_fn add_attention attention_head_dim attn_norm_num_groups augmentation_dim beta_schedule block_out_channels
    bound_variance
    center_input_sample channel_weights class_embed_type detail_channels down_block_types downsample_padding
    downsample_type dropout film_noise
    flip_sin_to_cos freq_shift in_channels layers_per_block mask_timestep mask_weighting masks mid_block_scale_factor
    mid_block_type norm_eps norm_num_groups num_attention_heads num_class_embeds num_train_timesteps out_channels
    patch_size resnet_time_scale_shift sample_size time_embedding_dim time_embedding_type time_proj_dim up_block_types
    upsample_type
"""
CLASSIFIER_KEYS = """
    attention_head_dim block_out_channels channel_weights down_block_types dropout in_channels layers_per_block
    mask_timestep mask_weighting masks norm_num_groups num_classes patch_size resnet_time_scale_shift sample_size
"""
# Names of the tensors that are not the parent's, and of all of the classifier's outside of diffusers' blocks.
OWN_UNET_TENSORS = [
    "augmentation_embedding.weight",
    "label_embedding.weight",
    "mask_time_embedding.linear_1.bias",
    "mask_time_embedding.linear_1.weight",
    "mask_time_embedding.linear_2.bias",
    "mask_time_embedding.linear_2.weight",
]
OWN_CLASSIFIER_TENSORS = [
    "conv_in.bias",
    "conv_in.weight",
    "head.bias",
    "head.weight",
    "mask_time_embedding.linear_1.bias",
    "mask_time_embedding.linear_1.weight",
    "mask_time_embedding.linear_2.bias",
    "mask_time_embedding.linear_2.weight",
    "norm_out.bias",
    "norm_out.weight",
    "time_embedding.linear_1.bias",
    "time_embedding.linear_1.weight",
    "time_embedding.linear_2.bias",
    "time_embedding.linear_2.weight",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(folder)
    return folder


def read(path):
    return json.loads(path.read_text())


def test_model_index(saved):
    assert read(saved / "model_index.json") == MODEL_INDEX | {"_diffusers_version": diffusers.__version__}


def test_weak_unet_in_the_model_index(tmp_path):
    pipe = tiny_pipeline()
    pipe.register_modules(weak_unet=tiny_unet())
    pipe.save_pretrained(tmp_path)
    assert read(tmp_path / "model_index.json")["weak_unet"] == ["macdm", "MaCDMUNet2DModel"]


def test_files(saved):
    files = sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file())
    assert files == [
        "guidance_classifier/config.json",
        "guidance_classifier/diffusion_pytorch_model.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


@pytest.mark.parametrize(
    "folder, name, keys",
    [("unet", "MaCDMUNet2DModel", UNET_KEYS), ("guidance_classifier", "GuidanceClassifier", CLASSIFIER_KEYS)],
)
def test_configurations(saved, folder, name, keys):
    config = read(saved / folder / "config.json")
    assert config["_class_name"] == name
    assert sorted(key for key in config if not key.startswith("_")) == sorted(keys.split())


def test_tensor_names():
    pipe = tiny_pipeline(augmentation_dim=2)
    parent = diffusers.UNet2DModel(
        **{
            key: value
            for key, value in pipe.unet.config.items()
            if not key.startswith("_")
            and key in inspect.signature(diffusers.UNet2DModel).parameters
            and key != "num_class_embeds"
        }
    )
    assert sorted(set(pipe.unet.state_dict()) - set(parent.state_dict())) == OWN_UNET_TENSORS
    assert set(parent.state_dict()) <= set(pipe.unet.state_dict())
    own = [name for name in pipe.guidance_classifier.state_dict() if not name.startswith(("down_blocks.", "mid_block."))]
    assert sorted(own) == OWN_CLASSIFIER_TENSORS


def test_where_diffusers_looks_for_the_classes():
    from diffusers_macdm import macdm

    assert diffusers.pipelines.macdm is macdm
    assert diffusers.MaCDMPipeline is diffusers_macdm.MaCDMPipeline is macdm.MaCDMPipeline
    assert sorted(macdm.__all__) == ["GuidanceClassifier", "MaCDMPipeline", "MaCDMPipelineOutput", "MaCDMUNet2DModel"]
    for name in macdm.__all__:
        assert getattr(macdm, name) is getattr(diffusers_macdm, name)
    modules = {name: getattr(macdm, name).__module__ for name in ("GuidanceClassifier", "MaCDMPipeline", "MaCDMUNet2DModel")}
    assert modules == {
        "GuidanceClassifier": "diffusers_macdm.macdm.guidance_classifier",
        "MaCDMPipeline": "diffusers_macdm.macdm.pipeline",
        "MaCDMUNet2DModel": "diffusers_macdm.macdm.unet",
    }
