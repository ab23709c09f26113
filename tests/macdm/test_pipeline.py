"""`MaCDMPipeline`: its four uses with every scheduler, against denoisers that know the answer; outputs, callbacks, files."""

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import PipelineCallback
from known_pipelines import (
    SCHEDULERS,
    SETTINGS,
    SIZE,
    STEPS,
    USES,
    abar_at,
    arguments_of,
    assert_close_to_its_size,
    each_scheduler,
    final_latents,
    generators,
    knowing_pipeline,
    real_case,
    swap,
)
from tiny_models import tiny_classifier, tiny_pipeline, tiny_unet

from diffusers_macdm import MaCDMPipeline, MaCDMPipelineOutput
from diffusers_macdm.macdm.schedulers import VARIANCE_TYPES


# ------------------------------------------------------------------------------------------ four uses, every scheduler


@pytest.mark.parametrize("guidance_scale", [0.0, 2.0])
@pytest.mark.parametrize("use", USES)
@each_scheduler
def test_uses(name, use, guidance_scale):
    """Whatever is given comes back, whatever is generated depends on the label exactly if it is asked to, and refined
    masks are possible ones."""
    pipe = swap(tiny_pipeline(), name)
    given = arguments_of(use, batch_size=2)
    arguments = {"class_labels": [0, 1], "guidance_scale": guidance_scale, "generator": generators(1, 2)}
    latents, output = final_latents(pipe, **given, **arguments)
    assert isinstance(output, MaCDMPipelineOutput)
    assert latents.isfinite().all()
    assert output.class_labels == [0, 1]
    found = {"image": output.images, "anatomy_mask": output.anatomy_masks, "lesion_mask": output.lesion_masks}
    for key, value in found.items():
        assert value.shape == (2, 1, SIZE, SIZE) and value.dtype == torch.float32
        assert value.min() >= 0 and value.max() <= 1
        if key != "image":
            assert set(value.unique().tolist()) <= {0.0, 1.0}
        if key in given and use != "variation":
            assert torch.equal(value, given[key]), f"{key} is kept to the bit"
    if "lesion_mask" not in given or use == "variation":
        assert not output.lesion_masks[0].any()  # label 0 is the normal one
        assert not (output.lesion_masks.bool() & ~output.anatomy_masks.bool()).any()


@pytest.mark.parametrize("use, name", [("pairs", name) for name in SCHEDULERS] + [(use, "DDPM") for use in list(USES)[1:]])
def test_a_batch_is_its_samples_one_by_one(use, name):
    pipe = swap(tiny_pipeline(), name)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.3)  # random networks are rough: they blow up the rounding of the convolutions
    count = 8
    given = arguments_of(use, batch_size=count)
    labels = [0, 1, None, 1, 0, 0, 1, 1]
    settings = {"guidance_scale": 1.5, "num_inference_steps": 4}
    together, outputs = final_latents(pipe, **given, class_labels=labels, generator=generators(*range(count)), **settings)
    for i in range(count):
        one = {key: value if key == "strength" else value[i : i + 1] for key, value in given.items()}
        alone, output = final_latents(pipe, **one, class_labels=[labels[i]], generator=generators(i)[0], **settings)
        assert_close_to_its_size(alone, together[i : i + 1])
        assert output.class_labels == [outputs.class_labels[i]] == [labels[i]]


# ------------------------------------------------------------------------------------------------- a perfect denoiser


WEIGHTED = {"channel_weights": (1.5, 0.5, 2.0)}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"out_channels": 3},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
        {**WEIGHTED},
        {**WEIGHTED, "mask_weighting": "signal"},
        {**WEIGHTED, "mask_weighting": "signal", "prediction_type": "v_prediction"},
        {**WEIGHTED, "mask_weighting": "signal", "prediction_type": "sample"},
    ],
    ids=lambda config: " ".join(map(str, config.values())) or "plain",
)
@each_scheduler
def test_perfect_denoiser_returns_what_it_knows(name, config):
    fixed = {"variance_type": "fixed_small"} if config.get("out_channels") == 3 else {}
    pipe = knowing_pipeline(name, fixed, **config)
    latents, output = final_latents(pipe, class_labels=1, num_inference_steps=5, generator=generators(0)[0], refine_masks=False)
    # DEIS ends at the noise level of t = 0, standard deviation 0.01.
    tolerance = 0.06 if name == "DEIS" else 2e-3
    torch.testing.assert_close(latents, pipe.unet.signal, rtol=0, atol=tolerance)
    torch.testing.assert_close(output.images, (pipe.unet.clean[:, :1] + 1) / 2, rtol=0, atol=tolerance)
    assert torch.equal(output.anatomy_masks, (pipe.unet.clean[:, 1:2] > 0).float())
    assert torch.equal(output.lesion_masks, (pipe.unet.clean[:, 2:] > 0).float())


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDPMParallelScheduler"])
def test_the_last_step_adds_no_noise(name, variance_type, spacing):
    """DDPM with the largest learned variance: with trailing timesteps the last one is not 0, and still nothing is added."""
    pipe = knowing_pipeline("DDPM", {"timestep_spacing": spacing}, v=1.0)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, variance_type=variance_type)
    for steps in (1, 5, 50):
        latents, _ = final_latents(pipe, class_labels=1, num_inference_steps=steps, generator=generators(0)[0])
        torch.testing.assert_close(latents, pipe.unet.signal, rtol=0, atol=2e-3)
    latents, _ = final_latents(pipe, **real_case(), strength=0.5, class_labels=1, num_inference_steps=5)
    torch.testing.assert_close(latents, pipe.unet.signal, rtol=0, atol=2e-3)


@pytest.mark.parametrize("use", ["masks to image", "image to masks", "anatomy to the rest", "image and lesion to anatomy"])
@each_scheduler
def test_what_the_network_is_fed_for_given_channels(name, use):
    """Clean channels at timestep 0; a lone mask noised to the current level, since both masks share one timestep."""
    pipe = knowing_pipeline(name, **WEIGHTED, mask_weighting="signal")
    given = arguments_of(use)
    noise = torch.randn(1, 3, SIZE, SIZE, generator=generators(5)[0])
    _, output = final_latents(pipe, **given, class_labels=1, latents=noise, refine_masks=False)
    image_kept, masks_kept = "image" in given, use == "masks to image"
    clean = torch.cat(list(real_case().values()), dim=1) * 2 - 1
    clean = clean * torch.tensor(WEIGHTED["channel_weights"])[:, None, None]
    assert len(pipe.unet.fed) == len(pipe.scheduler.timesteps)
    for fed, t in zip(pipe.unet.fed, pipe.scheduler.timesteps, strict=True):
        assert fed.timestep == (0 if image_kept else t)
        assert (t if fed.mask_timestep is None else fed.mask_timestep) == (0 if masks_kept else t)
        level = abar_at(float(t)) ** 0.5 * clean + (1 - abar_at(float(t))) ** 0.5 * noise
        for channel, key in enumerate(real_case()):
            if key in given:
                at_zero = image_kept if key == "image" else masks_kept
                expected = (clean if at_zero else level)[:, channel]
                torch.testing.assert_close(fed.sample[:, channel], expected, rtol=1e-4, atol=1e-5)
    tolerance = 0.06 if name == "DEIS" else 2e-3
    known = {
        "image": (pipe.unet.clean[:, :1] + 1) / 2,
        "anatomy_mask": pipe.unet.clean[:, 1:2],
        "lesion_mask": pipe.unet.clean[:, 2:],
    }
    if "image" not in given:
        torch.testing.assert_close(output.images, known["image"], rtol=0, atol=tolerance)
    for key, found in (("anatomy_mask", output.anatomy_masks), ("lesion_mask", output.lesion_masks)):
        if key not in given:
            assert torch.equal(found, (known[key] > 0).float())


# -------------------------------------------------------------------------------------------- variation of a real case


@pytest.mark.parametrize("strength", [0.25, 0.6, 1.0])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@each_scheduler
def test_level_where_a_variation_starts(name, spacing, strength):
    """The network first sees `sqrt(abar) I_0 + sqrt(1 - abar) eps` at the first timestep that is not above `Z`."""
    pipe = knowing_pipeline(name, {"timestep_spacing": spacing}, **WEIGHTED, mask_weighting="signal")
    noise = torch.randn(1, 3, SIZE, SIZE, generator=generators(5)[0])
    pipe(**real_case(), strength=strength, class_labels=1, latents=noise, num_inference_steps=10, output_type="pt")
    levels = sorted(set(pipe.scheduler.timesteps.tolist()), reverse=True)
    assert len(levels) == 10
    visited = [t for t in levels if t <= strength * 1000]
    first = pipe.unet.fed[0]
    assert float(first.timestep) == visited[0]
    clean = torch.cat(list(real_case().values()), dim=1) * 2 - 1
    clean = clean * torch.tensor(WEIGHTED["channel_weights"])[:, None, None]
    abar = abar_at(visited[0])
    torch.testing.assert_close(first.sample, abar**0.5 * clean + (1 - abar) ** 0.5 * noise, rtol=1e-4, atol=1e-4)
    # One evaluation for each level; Heun takes two, but for the last.
    evaluations = len(visited) if pipe.scheduler.order == 1 else 2 * len(visited) - 1
    assert len(pipe.unet.fed) == pipe.num_timesteps == evaluations
    assert pipe.unet.fed[0].mask_timestep is None  # nothing is kept


@each_scheduler
def test_perfect_denoiser_leads_a_variation_to_what_it_knows(name):
    pipe = knowing_pipeline(name)
    latents, _ = final_latents(pipe, **real_case(), strength=0.5, class_labels=1, num_inference_steps=10)
    torch.testing.assert_close(latents, pipe.unet.signal, rtol=0, atol=0.06 if name == "DEIS" else 2e-3)


def test_a_small_strength_changes_little():
    pipe = tiny_pipeline()
    weak = pipe(**real_case(), strength=0.01, num_inference_steps=200, output_type="pt", generator=generators(0))
    assert (weak.images - real_case()["image"]).abs().mean() < 0.1


def test_strength_below_the_schedule_is_refused():
    with pytest.raises(
        ValueError, match=r"strength=0.05 lies below the lowest level .* num_inference_steps=4.* at least 0.2490"
    ):
        tiny_pipeline()(**real_case(), strength=0.05, num_inference_steps=4)


@pytest.mark.parametrize("skip_prk_steps", [True, False])
def test_pndm_cannot_start_from_a_real_case(skip_prk_steps):
    pipe = tiny_pipeline()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=skip_prk_steps)
    with pytest.raises(ValueError, match="PNDMScheduler cannot start from a real case"):
        pipe(**real_case(), strength=0.5, num_inference_steps=10)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # which keeps the key skip_prk_steps
    pipe(**real_case(), strength=0.5, num_inference_steps=10)


# -------------------------------------------------------------------------------------------------- outputs and callbacks


def test_output_types():
    pipe = tiny_pipeline()
    outputs = {
        kind: pipe([0, 1], generator=generators(0, 1), num_inference_steps=2, output_type=kind) for kind in ("pt", "np", "pil")
    }
    for field in ("images", "anatomy_masks", "lesion_masks"):
        tensor, array, images = (outputs[kind][field] for kind in ("pt", "np", "pil"))
        assert array.shape == (2, SIZE, SIZE, 1) and array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1))
        assert [(image.mode, image.size) for image in images] == [("L", (SIZE, SIZE))] * 2
        np.testing.assert_array_equal(np.stack(images), np.rint(array[..., 0] * 255))
    as_tuple = pipe([0, 1], generator=generators(0, 1), num_inference_steps=2, output_type="pt", return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 4
    assert torch.equal(as_tuple[0], outputs["pt"].images) and as_tuple[3] == [0, 1]


@each_scheduler
def test_callback(name):
    pipe = swap(tiny_pipeline(), name)
    calls = []

    def callback(pipe, step, timestep, tensors):
        calls.append((step, float(timestep), sorted(tensors)))
        if step == pipe.num_timesteps - 1:
            return {"latents": torch.zeros_like(tensors["latents"]), "class_labels": torch.tensor([0])}

    output = pipe(
        1,
        num_inference_steps=STEPS,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "class_labels"],
        output_type="pt",
    )
    timesteps = pipe.scheduler.timesteps.tolist()
    assert calls == [(i, float(t), ["class_labels", "latents"]) for i, t in enumerate(timesteps)]
    assert (output.images == 0.5).all() and output.class_labels == [0]


def test_interrupt():
    pipe = tiny_pipeline()
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        return tensors

    pipe(1, num_inference_steps=5, callback_on_step_end=callback)
    assert steps == [0, 1] and pipe.interrupt
    pipe(1, num_inference_steps=2)  # the next call starts anew
    assert not pipe.interrupt


def test_callback_object_says_what_it_wants():
    class Labels(PipelineCallback):
        tensor_inputs = ["class_labels"]

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            seen.append(sorted(callback_kwargs))
            return callback_kwargs

    seen = []
    tiny_pipeline()(1, num_inference_steps=2, callback_on_step_end=Labels())
    assert seen == [["class_labels"]] * 2


def test_progress_bar(capsys):
    pipe = swap(tiny_pipeline(), "Heun")
    pipe.set_progress_bar_config(disable=False)
    pipe(1, num_inference_steps=3)
    assert "5/5" in capsys.readouterr().err  # Heun evaluates twice in each step but the last


def test_refinement_can_be_switched_off():
    """Without it a normal case keeps the lesion that the network drew."""
    pipe = knowing_pipeline()
    known = (pipe.unet.clean[:, 2:] > 0).float()
    settings = {"latents": torch.randn(1, 3, SIZE, SIZE, generator=generators(0)[0]), "num_inference_steps": 5}
    raw = pipe(0, **settings, refine_masks=False, output_type="pt")
    assert torch.equal(raw.lesion_masks, known)
    refined = pipe(0, **settings, output_type="pt")
    assert not refined.lesion_masks.any()
    assert torch.equal(raw.images, refined.images)


def test_lesion_in_a_small_part_of_a_given_anatomy_stays():
    """What is given is not refined, nor is the generated lesion held against a refined form of it."""
    pipe = knowing_pipeline()
    anatomy = torch.zeros(SIZE, SIZE)
    anatomy[:, :10] = 1
    anatomy[2:4, 13:15] = 1  # smaller than a speck
    lesion = torch.zeros(SIZE, SIZE)
    lesion[2:4, 13:15] = 1
    pipe.unet.signal = torch.stack([torch.zeros(SIZE, SIZE), anatomy, lesion])[None] * 2 - 1
    output = pipe(1, anatomy_mask=anatomy, num_inference_steps=5, output_type="pt")
    assert torch.equal(output.anatomy_masks[0, 0], anatomy)
    assert torch.equal(output.lesion_masks[0, 0], lesion)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["DDPM", "Euler"])
def test_half_precision(name, dtype):
    pipe = swap(tiny_pipeline(), name)
    settings = {"class_labels": 1, "guidance_scale": 1.0, "num_inference_steps": 2}
    expected, _ = final_latents(pipe, **settings, generator=generators(0)[0])
    latents, output = final_latents(pipe.to(dtype), **settings, generator=generators(0)[0])
    assert latents.dtype == torch.float32 and output.images.dtype == torch.float32
    assert latents.isfinite().all()
    if dtype == torch.float16:
        assert_close_to_its_size(latents, expected, 0.05)


# -------------------------------------------------------------------------------------------------------- saving, loading


def test_save_and_load(tmp_path):
    pipe = tiny_pipeline(patch_size=2, channel_weights=(1.0, 0.5, 0.5))
    pipe.register_modules(
        guidance_classifier=tiny_classifier(patch_size=2, channel_weights=(1.0, 0.5, 0.5)),
        weak_unet=tiny_unet(5, patch_size=2, channel_weights=(1.0, 0.5, 0.5)),
    )
    scales = {"guidance_scale": 1.0, "autoguidance_scale": 1.5}
    expected, _ = final_latents(pipe, **SETTINGS, **scales, generator=generators(1, 2))
    pipe.save_pretrained(tmp_path)
    weights = sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"
    )
    folders = ("guidance_classifier", "unet", "weak_unet")
    assert weights == [f"{folder}/diffusion_pytorch_model.safetensors" for folder in folders]
    for cls in (MaCDMPipeline, DiffusionPipeline):
        loaded = cls.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is MaCDMPipeline
        assert type(loaded.scheduler) is DDPMScheduler and loaded.scheduler.config.variance_type == "learned_range"
        latents, _ = final_latents(loaded, **SETTINGS, **scales, generator=generators(1, 2))
        assert_close_to_its_size(latents, expected)


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated")  # the oldest diffusers allowed has no `dtype` yet
def test_save_and_load_half_precision(tmp_path):
    tiny_pipeline().to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    loaded = MaCDMPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert loaded.unet.dtype == loaded.guidance_classifier.dtype == torch.float16
    loaded.set_progress_bar_config(disable=True)
    loaded(**SETTINGS, guidance_scale=1.0)


def test_without_a_classifier(tmp_path):
    tiny_pipeline(with_classifier=False).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["guidance_classifier"] == [None, None]
    for pipe in (MaCDMPipeline.from_pretrained(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)):
        pipe.set_progress_bar_config(disable=True)
        pipe(**SETTINGS)
        with pytest.raises(ValueError, match="guidance_scale=2.0 needs a guidance_classifier, which this pipeline lacks"):
            pipe(**SETTINGS, guidance_scale=2.0)


def test_loaded_with_another_scheduler(tmp_path):
    """It samples what the pipeline in memory does with the same scheduler."""
    in_memory = tiny_pipeline()
    in_memory.save_pretrained(tmp_path)
    scheduler = UniPCMultistepScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    pipe = MaCDMPipeline.from_pretrained(tmp_path, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    for cls in (UniPCMultistepScheduler, HeunDiscreteScheduler):
        pipe.scheduler = cls.from_config(pipe.scheduler.config) if type(pipe.scheduler) is not cls else pipe.scheduler
        in_memory.scheduler = cls.from_config(in_memory.scheduler.config)
        latents = [final_latents(p, **SETTINGS, generator=generators(0)[0])[0] for p in (pipe, in_memory)]
        assert_close_to_its_size(*latents)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "DDIMScheduler has another noise schedule"),
        ({"num_train_timesteps": 500}, "DDIMScheduler has another noise schedule"),
        ({"prediction_type": "v_prediction"}, "prediction_type='v_prediction', the denoiser was trained with 'epsilon'"),
    ],
)
def test_a_scheduler_that_is_loaded_in_place_of_the_checkpoints_own_is_held_to_it(config, message, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        MaCDMPipeline.from_pretrained(tmp_path, scheduler=DDIMScheduler(**config))
    pipe = MaCDMPipeline.from_pretrained(tmp_path, scheduler=DDIMScheduler())
    assert type(pipe.scheduler) is DDIMScheduler
    pipe.scheduler = DDIMScheduler(**config)
    with pytest.raises(ValueError, match=message):
        pipe.check_scheduler()


def test_a_checkpoint_without_a_scheduler_takes_any(tmp_path):
    pipe = tiny_pipeline()
    pipe.register_modules(scheduler=None)
    pipe.save_pretrained(tmp_path)
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    loaded = MaCDMPipeline.from_pretrained(tmp_path, scheduler=scheduler)
    loaded.set_progress_bar_config(disable=True)
    loaded.check_scheduler()
    in_memory = MaCDMPipeline(pipe.unet, DDIMScheduler(beta_schedule="squaredcos_cap_v2"))
    in_memory.set_progress_bar_config(disable=True)
    latents = [final_latents(p, **SETTINGS, generator=generators(0)[0])[0] for p in (loaded, in_memory)]
    assert_close_to_its_size(*latents)


def test_signature_is_documented():
    documented = MaCDMPipeline.__call__.__doc__
    for name in list(inspect.signature(MaCDMPipeline.__call__).parameters)[1:]:
        assert name in documented, name
