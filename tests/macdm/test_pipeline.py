"""`MaCDMPipeline`: its four uses with every scheduler, against denoisers that know the answer and steps done by hand."""

import inspect
import json
import logging
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ModelMixin,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import PipelineCallback
from diffusers.configuration_utils import register_to_config
from PIL import Image
from tiny_models import tiny_classifier, tiny_pipeline, tiny_scheduler, tiny_unet

from diffusers_macdm import MaCDMPipeline, MaCDMPipelineOutput
from diffusers_macdm.macdm.forward_process import noise_of, prediction_of


SCHEDULERS = {
    "DDPM": (DDPMScheduler, {}),
    "DDIM": (DDIMScheduler, {}),
    "DPM-Solver++ (2M)": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "UniPC": (UniPCMultistepScheduler, {}),
    "Euler": (EulerDiscreteScheduler, {}),
    "Heun": (HeunDiscreteScheduler, {}),
    "DEIS": (DEISMultistepScheduler, {}),
}
each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
SIZE = 16
STEPS = 4  # divides 1000


def swap(pipe, name):
    cls, config = SCHEDULERS[name]
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **config)
    return pipe


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def real_case(batch_size=1):
    """8-bit radiographs and masks with the lesion inside the anatomy, as tensors `[B, 1, H, W]`."""
    generator = torch.Generator().manual_seed(7)
    image = torch.randint(256, (batch_size, 1, SIZE, SIZE), generator=generator) / 255
    anatomy = torch.zeros(batch_size, 1, SIZE, SIZE)
    anatomy[..., 4:12] = 1
    lesion = torch.zeros_like(anatomy)
    lesion[..., 6:9, 9:12] = 1
    return {"image": image, "anatomy_mask": anatomy, "lesion_mask": lesion}


USES = {
    "pairs": [],
    "variation": ["image", "anatomy_mask", "lesion_mask"],
    "masks to image": ["anatomy_mask", "lesion_mask"],
    "image to masks": ["image"],
    "anatomy to the rest": ["anatomy_mask"],
    "image and lesion to anatomy": ["image", "lesion_mask"],
}


def arguments_of(use, batch_size=1):
    given = {name: value for name, value in real_case(batch_size).items() if name in USES[use]}
    return given | ({"strength": 0.6} if use == "variation" else {})


def final_latents(pipe, **arguments):
    """Latents after the last step, before anything is clipped or thresholded."""
    kept = {}

    def keep(pipe, step, timestep, tensors):
        kept.update(tensors)
        return {}

    output = pipe(**{"num_inference_steps": STEPS, "output_type": "pt", **arguments}, callback_on_step_end=keep)
    return kept["latents"], output


class KnowingUNet(ModelMixin, ConfigMixin):
    """The denoiser that knows the clean joint sample, records what it is fed, and says `v` for its variance."""

    @register_to_config
    def __init__(
        self,
        sample_size=SIZE,
        out_channels=6,
        num_class_embeds=3,
        channel_weights=(1.0, 1.0, 1.0),
        mask_weighting="input",
        mask_timestep=True,
        prediction_type="epsilon",
        v=0.0,
    ):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # gives the module a dtype and a device
        self.learned_variance = out_channels == 6
        self.num_classes = self.null_class_label = num_class_embeds - 1
        generator = torch.Generator().manual_seed(3)
        clean = torch.rand(1, 3, SIZE, SIZE, generator=generator) * 1.8 - 0.9
        clean[:, 1:] = clean[:, 1:].sign()
        self.clean = clean
        weights = torch.tensor(channel_weights if mask_weighting == "signal" else (1.0, 1.0, 1.0))
        self.signal = clean * weights[:, None, None]
        self.log_sigmas = None
        self.fed = []

    def forward(self, sample, timestep, class_labels, mask_timestep=None):
        self.fed.append(
            SimpleNamespace(sample=sample.clone(), timestep=timestep, mask_timestep=mask_timestep, labels=class_labels)
        )
        t = float(timestep if float(timestep) > 0 or mask_timestep is None else mask_timestep)
        abar = abar_at(t)
        noise = (sample - abar**0.5 * self.signal) / (1 - abar) ** 0.5
        prediction = prediction_of(noise, sample, abar, self.config.prediction_type)
        if self.learned_variance:
            prediction = torch.cat([prediction, torch.full_like(prediction, self.config.v)], dim=1)
        return SimpleNamespace(sample=prediction)


def abar_at(timestep):
    """Of the default process: linear betas; between timesteps log sigma is interpolated."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    log_sigma = np.interp(timestep, np.arange(1000), 0.5 * np.log((1 - abar) / abar))
    return float(1 / (1 + np.exp(2 * log_sigma)))


def knowing_pipeline(name="DDIM", scheduler=None, **config):
    weights = config.get("channel_weights", (1.0,)) if config.get("mask_weighting") == "signal" else (1.0,)
    scheduler = {
        "prediction_type": config.get("prediction_type", "epsilon"),
        "clip_sample_range": max(weights),
        **(scheduler or {}),
    }
    pipe = MaCDMPipeline(KnowingUNet(**config), tiny_scheduler(**scheduler))
    pipe.set_progress_bar_config(disable=True)
    return swap(pipe, name) if name != "DDPM" else pipe


def assert_close_to_its_size(found, expected, tolerance=1e-4):
    """Random networks make large samples: the tolerance is that of their size."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)  # diffusers' loggers do not propagate
    yield caplog
    logger.removeHandler(caplog.handler)


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
def test_the_last_step_adds_no_noise(spacing):
    """DDPM with the largest learned variance: with trailing timesteps the last one is not 0, and still nothing is added."""
    pipe = knowing_pipeline("DDPM", {"timestep_spacing": spacing}, v=1.0)
    latents, _ = final_latents(pipe, class_labels=1, num_inference_steps=5, generator=generators(0)[0])
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


# ------------------------------------------------------------------------------------------------------------ guidance


def first_step(pipe, **arguments):
    """Latents after one step of four."""

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = True
        caught.append(tensors["latents"])
        return {}

    caught = []
    pipe(**{"num_inference_steps": STEPS, "output_type": "pt", **arguments}, callback_on_step_end=stop)
    return caught[0]


def unclipped(prediction_type="epsilon"):
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", prediction_type=prediction_type)
    pipe = MaCDMPipeline(tiny_unet(), scheduler, tiny_classifier(), tiny_unet(seed=9))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_another_prediction_type_is_refused():
    pipe = tiny_pipeline()
    pipe.scheduler = DDIMScheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="prediction_type='v_prediction', the denoiser was trained with 'epsilon'"):
        pipe(class_labels=1)


def test_guidance_works_in_inference_mode():
    arguments = {"class_labels": [0, 1], "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}
    pipe = tiny_pipeline()
    usual = pipe(**arguments, generator=generators(1, 2))
    with torch.inference_mode():
        output = pipe(**arguments, generator=generators(1, 2))
    torch.testing.assert_close(output.images, usual.images)


def test_images_of_different_sizes_are_refused():
    images = [Image.new("L", size) for size in ((16, 16), (32, 24), (16, 16))]
    with pytest.raises(ValueError, match="lesion_mask has 32x24 pixels|anatomy_mask has 32x24 pixels"):
        tiny_pipeline()(
            class_labels=1, **dict(zip(("image", "anatomy_mask", "lesion_mask"), images, strict=True)), strength=0.5
        )


@pytest.mark.parametrize("kind", ["classifier", "classifier-free", "autoguidance", "all"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_one_step_by_hand(kind, prediction_type):
    pipe = unclipped(prediction_type)
    x = torch.randn(2, 3, SIZE, SIZE, generator=generators(4)[0])
    labels, null = torch.tensor([0, 1]), torch.tensor([2, 2])
    t, abar = 999, float(pipe.scheduler.alphas_cumprod[999])
    scales = {"classifier": (3.0, 1.0, 1.0), "classifier-free": (0.0, 2.5, 1.0), "autoguidance": (0.0, 1.0, 1.7)}
    g, s, w = scales.get(kind, (3.0, 2.5, 1.7))

    def eps_of(unet, y):
        return noise_of(unet(x, t, y).sample[:, :3], x, abar, prediction_type)

    eps, eps_null, eps_weak = eps_of(pipe.unet, labels), eps_of(pipe.unet, null), eps_of(pipe.weak_unet, labels)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        log_p = pipe.guidance_classifier(leaf, t).log_softmax(dim=1)
        gradient = torch.autograd.grad(log_p[0, 0] + log_p[1, 1], leaf)[0]
    guided = eps + (s - 1) * (eps - eps_null) + (w - 1) * (eps - eps_weak) - (1 - abar) ** 0.5 * g * gradient
    clean = (x - (1 - abar) ** 0.5 * guided) / abar**0.5
    abar_next = float(pipe.scheduler.alphas_cumprod[749])
    expected = abar_next**0.5 * clean + (1 - abar_next) ** 0.5 * guided  # DDIM eq. 12
    scales = {"guidance_scale": g, "classifier_free_guidance_scale": s, "autoguidance_scale": w}
    found = first_step(pipe, class_labels=[0, 1], latents=x, **scales)
    assert_close_to_its_size(found, expected, 1e-3)
    assert not torch.allclose(found, first_step(pipe, class_labels=[0, 1], latents=x), atol=1e-2)


@each_scheduler
def test_guidance_interval(name):
    """Classifier and null label are asked at the noise levels inside, borders included, and nowhere else."""
    pipe = swap(tiny_pipeline(), name)
    asked = []
    pipe.guidance_classifier.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(float(kwargs["timestep"])), with_kwargs=True
    )
    arguments = {"class_labels": 1, "guidance_scale": 1.0, "num_inference_steps": 10, "generator": generators(0)[0]}
    pipe(**arguments, guidance_interval=(0.3, 0.7))
    assert asked == [t for t in pipe.scheduler.timesteps.tolist() if 0.3 <= t / 999 <= 0.7] != []
    asked.clear()
    nowhere = pipe(**arguments | {"generator": generators(0)[0]}, guidance_interval=(0.31, 0.31), output_type="np")
    assert not asked
    off = pipe(**arguments | {"generator": generators(0)[0], "guidance_scale": 0}, output_type="np")
    np.testing.assert_array_equal(nowhere.images, off.images)


def test_guidance_towards_the_null_label_does_nothing():
    pipe = tiny_pipeline()
    settings = {"class_labels": [None, 2, 1]}
    free, _ = final_latents(pipe, **settings, generator=generators(1, 2, 3))
    guided, output = final_latents(
        pipe, **settings, generator=generators(1, 2, 3), guidance_scale=9.0, classifier_free_guidance_scale=3.0
    )
    assert_close_to_its_size(guided[:2], free[:2])
    assert not torch.allclose(guided[2], free[2], rtol=0.01)
    assert output.class_labels == [None, None, 1]


def test_guidance_raises_the_probability_of_its_label():
    """On average, after the first step: the gradient is that of the noisier sample before it."""
    pipe = unclipped()
    x = torch.randn(4, 3, SIZE, SIZE, generator=generators(4)[0])
    probabilities = []
    for scale in (0.0, 0.05):
        latents = first_step(pipe, class_labels=1, latents=x, guidance_scale=scale)
        probabilities.append(pipe.guidance_classifier(latents, 749).log_softmax(dim=1)[:, 1].detach())
    assert probabilities[1].mean() > probabilities[0].mean() + 1e-3


# ----------------------------------------------------------------------------------------------------------- schedulers


@each_scheduler
def test_learned_variance_is_for_ddpm_alone(name):
    pipe = swap(tiny_pipeline(), name)
    before, _ = final_latents(pipe, class_labels=1, generator=generators(0)[0])
    with torch.no_grad():
        pipe.unet.conv_out.bias[3:] += 0.5
    after, _ = final_latents(pipe, class_labels=1, generator=generators(0)[0])
    assert torch.equal(before, after) == (name != "DDPM")


def test_ddpm_with_a_fixed_variance_ignores_the_learned_one():
    pipe = tiny_pipeline()
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="fixed_small")
    before, _ = final_latents(pipe, class_labels=1, generator=generators(0)[0])
    with torch.no_grad():
        pipe.unet.conv_out.bias[3:] += 0.5
    assert torch.equal(before, final_latents(pipe, class_labels=1, generator=generators(0)[0])[0])


@pytest.mark.parametrize(
    "name, reason",
    [
        ("LCMScheduler", "distilled for consistency"),
        ("TCDScheduler", "distilled for consistency"),
        ("SCMScheduler", "distilled for consistency"),
        ("DDIMInverseScheduler", "from the image to noise"),
        ("DPMSolverMultistepInverseScheduler", "from the image to noise"),
        ("RePaintScheduler", "give the known channels to the pipeline"),
        ("UnCLIPScheduler", "image embeddings"),
        ("CogVideoXDDIMScheduler", "video"),
        ("CogVideoXDPMScheduler", "video"),
        ("FlowMatchEulerDiscreteScheduler", "does not integrate the variance-preserving process"),
        ("FlowMatchHeunDiscreteScheduler", "does not integrate the variance-preserving process"),
        ("EDMEulerScheduler", "does not integrate the variance-preserving process"),
        ("EDMDPMSolverMultistepScheduler", "does not integrate the variance-preserving process"),
        ("CMStochasticIterativeScheduler", "does not integrate the variance-preserving process"),
        ("KarrasVeScheduler", "does not integrate the variance-preserving process"),
        ("ScoreSdeVeScheduler", "does not integrate the variance-preserving process"),
        ("IPNDMScheduler", "does not integrate the variance-preserving process"),
        ("DDPMWuerstchenScheduler", "continuous timesteps"),
    ],
)
def test_refused_schedulers(name, reason):
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, name)()
    with pytest.raises(ValueError, match=f"{name} cannot sample from this model: .*{reason}"):
        pipe(class_labels=1, num_inference_steps=2)


@pytest.mark.parametrize(
    "cls, config, message",
    [
        (UniPCMultistepScheduler, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "'flow_prediction'"),
        (DDIMScheduler, {"beta_schedule": "squaredcos_cap_v2"}, "DDIMScheduler has another noise schedule"),
        (HeunDiscreteScheduler, {}, r"another noise schedule .* HeunDiscreteScheduler.from_config\(pipe.scheduler.config\)"),
        (DDIMScheduler, {"num_train_timesteps": 500}, "another noise schedule"),
        (DDPMScheduler, {"variance_type": "learned"}, "variance_type='learned'.* use variance_type='learned_range'"),
    ],
)
def test_refused_settings(cls, config, message):
    pipe = tiny_pipeline()
    pipe.scheduler = cls(**config)
    with pytest.raises(ValueError, match=message):
        pipe(class_labels=1, num_inference_steps=2)


def test_network_without_learned_variance():
    with pytest.raises(ValueError, match=r"variance_type='learned_range', but the network has no learned variance"):
        tiny_pipeline(out_channels=3)(class_labels=1, num_inference_steps=2)


def test_scheduler_that_cuts_off_the_weighted_sample():
    message = (
        r"DDPMScheduler with clip_sample=True, clip_sample_range=1.0 would cut off .* reaches 2.0 .* use clip_sample_range=2.0"
    )
    pipe = tiny_pipeline(with_classifier=False, channel_weights=(1.0, 0.5, 2.0), mask_weighting="signal")
    with pytest.raises(ValueError, match=message):
        pipe(class_labels=1, num_inference_steps=2)
    pipe = tiny_pipeline(with_classifier=False, channel_weights=(1.0, 0.5, 2.0))
    pipe(class_labels=1, num_inference_steps=2)


def test_zero_terminal_snr():
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    pipe = MaCDMPipeline(tiny_unet(), DDIMScheduler(**config), tiny_classifier())
    pipe.set_progress_bar_config(disable=True)
    for use in ("pairs", "masks to image", "image to masks", "anatomy to the rest"):
        latents, _ = final_latents(pipe, **arguments_of(use), class_labels=1)
        assert latents.isfinite().all(), use
    with pytest.raises(ValueError, match="starts at pure noise"):
        pipe(class_labels=1, guidance_scale=1.0)
    pipe = MaCDMPipeline(tiny_unet(), DDIMScheduler(**config | {"prediction_type": "epsilon"}))
    with pytest.raises(ValueError, match="starts at pure noise"):
        pipe(class_labels=1)


@each_scheduler
def test_swapping_in_memory_keeps_the_process(name):
    """`from_config` drops values that the first scheduler had by default; for the pipeline's they are trained ones."""
    pipe = MaCDMPipeline(tiny_unet(), DDPMScheduler(variance_type="learned_range"))
    betas = pipe.scheduler.betas
    for _ in range(2):  # there and back and there again
        swap(pipe, name)
        torch.testing.assert_close(pipe.scheduler.betas, betas)
        assert pipe.scheduler.config.timestep_spacing == "leading"
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        torch.testing.assert_close(pipe.scheduler.betas, betas)
        assert pipe.scheduler.config.clip_sample and pipe.scheduler.config.variance_type == "learned_range"


def test_uneven_steps_are_warned_of(log):
    pipe = tiny_pipeline()
    pipe(class_labels=1, num_inference_steps=4)
    assert not log.text
    pipe(class_labels=1, num_inference_steps=3)
    assert "num_inference_steps=3 does not divide 1000" in log.text


def test_eta_reaches_ddim():
    pipe = swap(tiny_pipeline(), "DDIM")
    results = [final_latents(pipe, class_labels=1, eta=eta, generator=generators(0)[0])[0] for eta in (0.0, 1.0)]
    assert not torch.allclose(*results)


# -------------------------------------------------------------------------------------------- labels, generators, inputs


@pytest.mark.parametrize(
    "labels, expected",
    [
        (1, [1]),
        (None, [None]),
        (2, [None]),
        ([0, None, 1], [0, None, 1]),
        ((1, 0), [1, 0]),
        (range(2), [0, 1]),
        (np.int64(1), [1]),
        ([np.int32(0), np.uint8(1)], [0, 1]),
        (np.array([1, 0]), [1, 0]),
        (torch.tensor([0, 1]), [0, 1]),
        (torch.tensor(1), [1]),
        ([torch.tensor(1), torch.tensor(0)], [1, 0]),
        (True, [1]),
    ],
)
def test_labels(labels, expected):
    assert tiny_pipeline()(labels, num_inference_steps=1).class_labels == expected


@pytest.mark.parametrize("labels", [3, -1, [0, 7], 0.5, "1", ["0"], [], float("nan"), torch.tensor([0.0, 1.0]), [[0, 1]]])
def test_refused_labels(labels):
    with pytest.raises(ValueError, match="is not allowed: whole numbers from 0 to 1, or 2"):
        tiny_pipeline()(labels, num_inference_steps=1)


def test_model_without_classes():
    pipe = tiny_pipeline(num_class_embeds=None)
    assert pipe(num_inference_steps=1).class_labels == [None]
    with pytest.raises(ValueError, match=r"class_labels=\[1\] were given to a model that was trained without classes"):
        pipe(1, num_inference_steps=1)


def test_everything_there_is_once_is_used_for_all():
    pipe = tiny_pipeline()
    output = pipe(1, **arguments_of("masks to image"), generator=generators(0, 1, 2), num_inference_steps=2, output_type="pt")
    assert output.images.shape[0] == 3 and output.class_labels == [1, 1, 1]
    assert not torch.equal(output.images[0], output.images[1])
    output.images.zero_()  # the user's own


def test_given_radiographs_are_not_aliased():
    image = real_case()["image"]
    output = tiny_pipeline()(1, image=image, num_inference_steps=1, output_type="pt")
    output.images.zero_()
    assert torch.equal(image, real_case()["image"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"class_labels": [0, 1], "generator": 3}, "class_labels 2, generator 3. Each must be 1 or 3"),
        ({"class_labels": [0, 1], "generator": 1}, "generator 1. .* a list of generators exactly 2"),
        ({"class_labels": [0, 1], "image": torch.zeros(3, SIZE, SIZE)}, "class_labels 2, radiograph 3"),
        ({"class_labels": [0, 1, 1], "latents": torch.zeros(2, 3, SIZE, SIZE)}, "class_labels 3, latents 2"),
    ],
)
def test_numbers_of_samples_must_agree(arguments, message):
    if "generator" in arguments:
        arguments = {**arguments, "generator": generators(*range(arguments["generator"]))}
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(**arguments, num_inference_steps=1)


def test_latents_are_the_generators_noise():
    pipe = swap(tiny_pipeline(), "Euler")
    noise = torch.randn(2, 3, SIZE, SIZE, generator=generators(0)[0])
    drawn = pipe([0, 1], generator=generators(0)[0], num_inference_steps=3, output_type="pt")
    given = pipe([0, 1], latents=noise, num_inference_steps=3, output_type="pt")
    assert torch.equal(drawn.images, given.images)
    with pytest.raises(ValueError, match=r"latents has shape \(2, 3, 8, 8\); this call needs \(2, 3, 16, 16\)"):
        pipe([0, 1], latents=torch.zeros(2, 3, 8, 8))


def test_pil_images_of_16_bits_and_of_another_size():
    pipe = tiny_pipeline()
    values = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE)).astype(np.uint16)
    output = pipe(1, image=Image.fromarray(values), num_inference_steps=1, output_type="np")
    np.testing.assert_array_equal(output.images[0, ..., 0], values.astype(np.float32) / np.float32(65535))
    large = Image.fromarray(np.full((40, 40), 51, np.uint8))
    output = pipe(1, image=large, num_inference_steps=1)
    np.testing.assert_array_equal(np.asarray(output.images[0]), np.full((SIZE, SIZE), 51))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strength": 0.0}, r"strength=0.0 is not allowed: .* in \(0, 1\]"),
        ({"strength": 1.5}, "strength=1.5 is not allowed"),
        ({"strength": float("nan")}, "strength=nan is not allowed"),
        ({"strength": 0.5}, "strength=0.5 starts from a real case .* given: none"),
        ({"strength": 0.5, "image": real_case()["image"]}, "needs image, anatomy_mask and lesion_mask; given: radiograph"),
        (real_case(), "all given: nothing to generate without strength"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is not allowed: a whole number from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001 is not allowed"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 is not allowed"),
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0 is not allowed: 0 is off"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan is not allowed"),
        ({"guidance_interval": (0.5, 0.2)}, r"guidance_interval=\(0.5, 0.2\) is not allowed"),
        ({"guidance_interval": (0.1, 0.2, 0.3)}, r"guidance_interval=\(0.1, 0.2, 0.3\) is not allowed"),
        ({"guidance_interval": (0.0, 999)}, r"guidance_interval=\(0.0, 999\) is not allowed"),
        ({"autoguidance_scale": 2.0}, "autoguidance_scale=2.0 needs a weak_unet"),
        ({"guidance_scale": 1.0, "class_labels": None}, "guidance_scale=1.0 steers towards a label: give class_labels"),
        ({"classifier_free_guidance_scale": 2.0, "class_labels": None}, "classifier_free_guidance_scale=2.0 steers"),
        ({"output_type": "jpg"}, "output_type='jpg' is not known; allowed are pil, np, pt"),
        (
            {"callback_on_step_end_tensor_inputs": ["latents", "eps"]},
            r"has \['eps'\]; allowed are \['latents', 'class_labels'\]",
        ),
        ({"image": torch.zeros(8, 8)}, r"image has shape \(8, 8\)"),
        ({"anatomy_mask": "mask.png"}, "anatomy_mask is a str"),
    ],
)
def test_refused_inputs(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(**{"class_labels": 1, **arguments})


def test_whole_numbers_of_numpy():
    assert tiny_pipeline()(1, num_inference_steps=np.int64(2)).class_labels == [1]


def test_model_without_a_timestep_for_the_masks():
    pipe = tiny_pipeline(mask_timestep=False, with_classifier=False)
    for use in ("image to masks", "masks to image", "image and lesion to anatomy"):
        with pytest.raises(ValueError, match=r"without a timestep for the masks \(mask_timestep=False\) and cannot keep"):
            pipe(1, **arguments_of(use))
    for use in ("pairs", "variation", "anatomy to the rest"):
        pipe(1, **arguments_of(use), num_inference_steps=2)


def test_components_that_do_not_fit():
    pipe = tiny_pipeline(channel_weights=(1.0, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"guidance_classifier was trained with \(\(1.0, 1.0, 1.0\), 'input'\) and the unet"):
        pipe(1, guidance_scale=1.0)
    pipe = tiny_pipeline()
    pipe.guidance_classifier = tiny_classifier(num_classes=3)
    with pytest.raises(ValueError, match="guidance_classifier knows 3 classes and the unet 2"):
        pipe(1, guidance_scale=1.0)
    pipe.weak_unet = tiny_unet(channel_weights=(1.0, 0.5, 0.5), mask_weighting="signal")
    with pytest.raises(ValueError, match="weak_unet was trained with .* their noisy samples are not the same"):
        pipe(1, autoguidance_scale=2.0)


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


SETTINGS = {"class_labels": [0, 1], "num_inference_steps": 3}


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
