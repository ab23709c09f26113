"""A world in which everything is known in closed form: the pipeline must reproduce it, with every scheduler.

Each pixel is drawn on its own from Gaussians over (radiograph, anatomy mask, lesion mask) with one covariance. Noised
Gaussians are Gaussians, so the best noise prediction, its learned variance and the classifier `p(y | I_t, t)` are
exact, also where the masks have a timestep of their own or are given clean; what the sampler makes of them has known
moments.
"""

import math
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.macdm.guidance import classifier_gradient, classifier_guided_noise


STD = np.array([0.35, 0.5, 0.3])
COVARIANCE = np.array([[1.0, 0.4, 0.2], [0.4, 1.0, 0.5], [0.2, 0.5, 1.0]]) * np.outer(STD, STD)
# Two classes, two standard deviations apart in each channel: many noisy pixels could belong to either.
MEANS = np.array([[0.35, -0.5, -0.3], [-0.35, 0.5, 0.3]])

BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
BASE = {**BETAS, "clip_sample": False}

# diffusers' sigma-type schedulers use numpy in ways that it deprecates, at every step.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class World:
    """Mixture of Gaussians `N(means[m], COVARIANCE)` under the noise of `BETAS`, in float64.

    Args:
        means: `[M, 3]`.
        members: `[labels, M]`, which components a class label allows; the last row is the null label. By default the
            labels do not matter to the denoiser: what tells the classes apart is the classifier.
        weights: `[3]`, scale of the clean channels (`mask_weighting="signal"`).
    """

    def __init__(self, means=MEANS, members=((1, 1), (1, 1), (1, 1)), weights=(1.0, 1.0, 1.0)):
        weights = np.array(weights)
        self.means = torch.from_numpy(means * weights)
        self.covariance = torch.from_numpy(COVARIANCE * weights[:, None] * weights)
        self.members = torch.tensor(members, dtype=torch.float64)
        betas = np.linspace(BETAS["beta_start"], BETAS["beta_end"], BETAS["num_train_timesteps"])
        self.betas, self.abar = betas, np.cumprod(1 - betas)

    def abar_at(self, timestep, mask_timestep=None):
        """`[3]`: `abar` of each channel; a channel at timestep 0 beside a noisier one was given clean."""
        mask_timestep = timestep if mask_timestep is None else mask_timestep
        image, masks = (float(torch.as_tensor(t).flatten()[0]) for t in (timestep, mask_timestep))
        timesteps = np.array([image, masks, masks])
        log_sigmas = 0.5 * np.log((1 - self.abar) / self.abar)
        abar = 1 / (1 + np.exp(2 * np.interp(timesteps, np.arange(len(log_sigmas)), log_sigmas)))
        return torch.from_numpy(np.where((timesteps == 0) & (timesteps.max() > 0), 1.0, abar))

    def posterior(self, noisy, abar, labels):
        """What the noisy sample `[B, 3, H, W]` says about the clean one: log-probabilities of the components for each
        pixel `[B, M, H, W]`, and mean `gain noisy + offsets[m]` and covariance `[3, 3]` of each component's clean
        sample."""
        signal = abar.sqrt().diag()
        precision = torch.linalg.inv(signal @ self.covariance @ signal + (1 - abar).diag())
        gain = self.covariance @ signal @ precision
        noisy_means = self.means @ signal
        directions = noisy_means @ precision  # [M, 3]
        bias = self.members[labels].log() - 0.5 * (directions * noisy_means).sum(dim=1)  # [B, M]
        log_probabilities = (channel_product(directions, noisy) + bias[:, :, None, None].float()).log_softmax(dim=1)
        offsets, covariance = self.means - noisy_means @ gain.T, self.covariance - gain @ signal @ self.covariance
        return log_probabilities, gain, offsets, covariance

    def predict(self, noisy, abar, labels):
        """Mean of the clean sample given the noisy one, `[B, 3, H, W]`."""
        log_probabilities, gain, offsets, _ = self.posterior(noisy, abar, labels)
        return channel_product(gain, noisy) + channel_product(offsets.T, log_probabilities.exp())

    def predict_variance(self, noisy, abar, labels):
        """Variance of the clean sample given the noisy one, `[B, 3, H, W]`: within and between the components."""
        log_probabilities, _, offsets, covariance = self.posterior(noisy, abar, labels)
        probabilities = log_probabilities.exp()
        between = channel_product(offsets.T**2, probabilities) - channel_product(offsets.T, probabilities) ** 2
        return between + covariance.diag()[:, None, None].float()


def channel_product(matrix, sample):
    """`[D, C]` times `[B, C, H, W]` -> `[B, D, H, W]`."""
    return (matrix.float() @ sample.flatten(2)).unflatten(2, sample.shape[2:])


class ToyUNet(ModelMixin, ConfigMixin):
    """The exact denoiser of a world."""

    @register_to_config
    def __init__(
        self,
        sample_size=32,
        out_channels=6,
        num_class_embeds=3,
        channel_weights=(1.0, 1.0, 1.0),
        mask_weighting="input",
        mask_timestep=True,
        prediction_type="epsilon",
    ):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # gives the module a dtype and a device
        self.world = World()
        self.learned_variance = out_channels == 6
        self.num_classes = self.null_class_label = num_class_embeds - 1

    def forward(self, sample, timestep, class_labels, mask_timestep=None):
        abar = self.world.abar_at(timestep, mask_timestep)
        clean = self.world.predict(sample, abar, class_labels)
        if self.learned_variance:
            v = self.interpolation(self.world.predict_variance(sample, abar, class_labels), timestep)
        abar = abar[:, None, None].float()
        noise = (sample - abar.sqrt() * clean) / (1 - abar).sqrt().clamp(min=1e-6)  # a given channel has none
        prediction = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * clean,
        }[self.config.prediction_type]
        if self.learned_variance:
            prediction = torch.cat([prediction, v], dim=1)
        return SimpleNamespace(sample=prediction)

    def interpolation(self, clean_variance, timestep):
        """`v` of Improved DDPM eq. 15 for the exact variance of `p(I_{t-1} | I_t)`, which is the posterior's and what not
        knowing the clean sample adds."""
        t = round(float(timestep))
        if t == 0:
            return torch.zeros_like(clean_variance)  # no noise is added any more
        beta, abar, abar_previous = self.world.betas[t], self.world.abar[t], self.world.abar[t - 1]
        low = beta * (1 - abar_previous) / (1 - abar)
        variance = low + (beta * math.sqrt(abar_previous) / (1 - abar)) ** 2 * clean_variance
        return 2 * (variance / low).log() / math.log(beta / low) - 1


class ToyClassifier(ModelMixin, ConfigMixin):
    """Log-probability that *all* pixels belong to class `y`: the sum over pixels. The further class, "anything else",
    takes nearly all of the probability, as it does for hundreds of pixels, so that the sums need no common
    normalisation."""

    @register_to_config
    def __init__(self, channel_weights=(1.0, 1.0, 1.0), mask_weighting="input"):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))
        self.world = World()

    def logits(self, log_probabilities):
        anything_else = torch.full_like(log_probabilities[:, :1], 1e6)
        return torch.cat([log_probabilities, anything_else], dim=1)

    def forward(self, sample, timestep, mask_timestep=None):
        abar = self.world.abar_at(timestep, mask_timestep)
        everything = torch.full((len(sample),), -1)
        return self.logits(self.world.posterior(sample, abar, everything)[0].sum(dim=(2, 3)))


class TiltClassifier(ToyClassifier):
    """`p(y | I_0) ~ exp(tilt . I_0)` in a world of one Gaussian: `log p(y | I_t)` is `tilt . E[I_0 | I_t]` and a
    constant. Guidance with scale `g` turns `N(mean, C)` into `N(mean + g C tilt, C)`, for every `g`."""

    tilt = torch.tensor([2.0, -3.0, 4.0], dtype=torch.float64)

    def forward(self, sample, timestep, mask_timestep=None):
        abar = self.world.abar_at(timestep, mask_timestep)
        clean = self.world.predict(sample, abar, torch.full((len(sample),), -1))
        return self.logits(channel_product(self.tilt[None], clean).sum(dim=(2, 3)).expand(-1, 2))


def toy_pipeline(scheduler=None, world=None, classifier=ToyClassifier, weak_world=None, **config):
    unet = ToyUNet(**config)
    guidance_classifier = classifier(unet.config.channel_weights, unet.config.mask_weighting)
    unet.world = guidance_classifier.world = world or World()
    weak_unet = None
    if weak_world is not None:
        weak_unet = ToyUNet(**config)
        weak_unet.world = weak_world
    pipe = MaCDMPipeline(unet, scheduler or DDIMScheduler(**BASE), guidance_classifier, weak_unet)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def white_noise(batch_size, size, seed=0):
    """Standard normal latents whose mean is exactly 0 and whose covariance over the pixels is exactly 1."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, batch_size * size * size, generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(dim=1, keepdim=True)
    noise = torch.linalg.solve(torch.linalg.cholesky(noise @ noise.T / noise.shape[1]), noise)
    return noise.reshape(3, batch_size, size, size).transpose(0, 1).float()


def sample(pipe, num_inference_steps, batch_size=1, **arguments):
    """The final latents `[B, 3, H, W]` of a call, before they become images and thresholded masks."""
    last = {}

    def keep(pipe, step, timestep, tensors):
        last.update(tensors)
        return {}

    pipe(
        latents=white_noise(batch_size, pipe.unet.config.sample_size),
        num_inference_steps=num_inference_steps,
        generator=torch.Generator().manual_seed(1),
        refine_masks=False,
        output_type="pt",
        callback_on_step_end=keep,
        **arguments,
    )
    return last["latents"]


def moments(latents):
    pixels = latents.double().transpose(0, 1).flatten(1).numpy()  # [channels, pixels]
    mean = pixels.mean(axis=1)
    pixels = pixels - mean[:, None]
    return mean, pixels @ pixels.T / pixels.shape[1]


def assert_moments(latents, mean, covariance=COVARIANCE, channels=(0, 1, 2), tolerance=0.02):
    """Means and standard deviations are right to 2 % of the standard deviation, correlations to 0.02."""
    channels = list(channels)
    covariance = covariance if covariance.shape == (len(channels),) * 2 else covariance[np.ix_(channels, channels)]
    found_mean, found = moments(latents[:, channels])
    std, found_std = np.sqrt(np.diag(covariance)), np.sqrt(np.diag(found))
    np.testing.assert_allclose((found_mean - np.array(mean)) / std, 0, atol=tolerance)
    np.testing.assert_allclose(found_std / std, 1, atol=tolerance)
    correlation = covariance / np.outer(std, std)
    np.testing.assert_allclose(found / np.outer(found_std, found_std), correlation, atol=tolerance)


def scheduler_of(name, prediction_type="epsilon", **config):
    """Another scheduler of the same process, made as the pipeline's users make it."""
    base = DDPMScheduler(**BASE, timestep_spacing="trailing", prediction_type=prediction_type)
    pipe = toy_pipeline(base)
    return getattr(diffusers, name).from_config(pipe.scheduler.config, **config)


# Name, configuration, steps that bring the solver's own error below 2 %, and images (what draws noise needs more
# pixels).
SCHEDULERS = [
    ("DDPMScheduler", {"variance_type": "learned_range"}, 250, 32),
    ("DDPMScheduler", {"variance_type": "fixed_small"}, 1000, 32),
    ("DDPMScheduler", {"variance_type": "fixed_large"}, 250, 32),
    ("DDIMScheduler", {}, 500, 1),
    ("DPMSolverMultistepScheduler", {}, 100, 1),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 100, 1),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 250, 32),
    ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, 200, 1),
    ("UniPCMultistepScheduler", {}, 100, 1),
    ("EulerDiscreteScheduler", {}, 300, 1),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 300, 1),
    ("EulerAncestralDiscreteScheduler", {}, 800, 32),
    ("HeunDiscreteScheduler", {}, 75, 1),
    ("DEISMultistepScheduler", {}, 100, 1),
    ("KDPM2DiscreteScheduler", {}, 100, 1),
    ("KDPM2AncestralDiscreteScheduler", {}, 120, 32),
    ("LMSDiscreteScheduler", {}, 50, 1),
    ("PNDMScheduler", {}, 100, 1),
    ("SASolverScheduler", {}, 100, 32),
]
IDS = [" ".join([name, *map(str, config.values())]) for name, config, *_ in SCHEDULERS]
# Variance-preserving and sigma-type, one and two evaluations for each step, with and without state.
SOME = [
    ("DPMSolverMultistepScheduler", {}, 100),
    ("EulerDiscreteScheduler", {}, 300),
    ("HeunDiscreteScheduler", {}, 75),
]
SOME_IDS = [name for name, *_ in SOME]


# ---------------------------------------------------------------------------------------------- classifier guidance


@pytest.mark.parametrize("name, config, steps, images", SCHEDULERS, ids=IDS)
def test_guidance_turns_the_mixture_into_its_class(name, config, steps, images):
    """The denoiser knows no classes; guided with scale 1 by the exact classifier it must sample from one of them."""
    fixed_variance = config.get("variance_type", "").startswith("fixed")  # others are offered a variance and must cope
    pipe = toy_pipeline(scheduler_of(name, **config), out_channels=3 if fixed_variance else 6)
    latents = sample(pipe, steps, images, class_labels=1, guidance_scale=1.0)
    assert_moments(latents, MEANS[1])


def test_without_guidance_the_mixture_stays():
    latents = sample(toy_pipeline(scheduler_of("DPMSolverMultistepScheduler")), 100, 16, class_labels=1)
    mean = MEANS.mean(axis=0)
    assert_moments(latents, mean, COVARIANCE + (MEANS - mean).T @ (MEANS - mean) / 2)


@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize(
    "name, config, steps, images",
    [*((*row, 1) for row in SOME), ("DDPMScheduler", {"variance_type": "learned_range"}, 250, 32)],
    ids=[*SOME_IDS, "DDPMScheduler"],
)
def test_guidance_scale(name, config, steps, images, scale):
    """`N(mean, C)` tilted by `exp(g tilt . I_0)` is `N(mean + g C tilt, C)`, at any scale."""
    world = World(means=MEANS[:1], members=((1,), (1,), (1,)))
    pipe = toy_pipeline(scheduler_of(name, **config), world, TiltClassifier)
    latents = sample(pipe, steps, images, class_labels=0, guidance_scale=scale)
    assert_moments(latents, MEANS[0] + scale * COVARIANCE @ TiltClassifier.tilt.numpy())


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("name, config, steps", SOME[:2], ids=SOME_IDS[:2])
def test_other_predictions_are_guided_alike(name, config, steps, prediction_type):
    pipe = toy_pipeline(scheduler_of(name, prediction_type, **config), prediction_type=prediction_type)
    latents = sample(pipe, steps, class_labels=1, guidance_scale=1.0)
    assert_moments(latents, MEANS[1])


@pytest.mark.parametrize("scheduler", [DDIMScheduler(**BASE), EulerDiscreteScheduler(**BETAS)], ids=["DDIM", "Euler"])
def test_guidance_in_a_loop_of_ones_own(scheduler):
    """The functions alone, around any scheduler: the recipe that `guidance.py` promises."""
    unet, classifier = ToyUNet(out_channels=3), ToyClassifier()
    process, labels = ForwardProcess.from_scheduler(scheduler), torch.tensor([1])
    scheduler.set_timesteps(500)
    latents = white_noise(1, 32) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, t)
        noise = unet(model_input, t, labels).sample
        gradient = classifier_gradient(classifier, model_input, labels, timestep=t)
        noise = classifier_guided_noise(noise, gradient, process.alphas_cumprod_at(t), 1.0)
        latents = scheduler.step(noise, t, latents).prev_sample
    assert_moments(latents, MEANS[1])


# ----------------------------------------------------------------------------------------- guidance by a second prediction


@pytest.mark.parametrize("name, config, steps", SOME, ids=SOME_IDS)
def test_classifier_free_guidance(name, config, steps):
    """Between Gaussians of one covariance the extrapolated noise is that of the extrapolated mean."""
    means = np.array([*MEANS, [0.1, 0.1, 0.1]])
    world = World(means, members=((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    pipe = toy_pipeline(scheduler_of(name, **config), world)
    latents = sample(pipe, steps, class_labels=1, classifier_free_guidance_scale=2.0)
    assert_moments(latents, 2 * MEANS[1] - means[2])


def test_autoguidance_and_all_kinds_together():
    """Each kind of guidance adds its own shift of the mean."""
    members = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    means, weak_means = np.array([*MEANS, [0.1, 0.1, 0.1]]), np.array([*(0.5 * MEANS), [0.0, 0.0, 0.0]])
    pipe = toy_pipeline(
        scheduler_of("UniPCMultistepScheduler"), World(means, members), TiltClassifier, World(weak_means, members)
    )
    latents = sample(pipe, 100, class_labels=1, autoguidance_scale=2.0)
    assert_moments(latents, 1.5 * MEANS[1])
    pipe.guidance_classifier.world = World(MEANS[:1], members=((1,),))
    latents = sample(pipe, 100, class_labels=1, autoguidance_scale=2.0, classifier_free_guidance_scale=2.0, guidance_scale=0.5)
    shift = 0.5 * COVARIANCE @ TiltClassifier.tilt.numpy()
    assert_moments(latents, 1.5 * MEANS[1] + (MEANS[1] - means[2]) + shift)


# ---------------------------------------------------------------------------------------------- the learned variance


def test_learned_variance_is_what_makes_few_steps_right():
    """The same 100 steps of DDPM: the exact variance gives the right spread, the fixed lower bound loses 6 to 9 %."""
    spreads = {}
    for variance_type in ("learned_range", "fixed_small"):
        pipe = toy_pipeline(scheduler_of("DDPMScheduler", variance_type=variance_type))
        latents = sample(pipe, 100, 32, class_labels=1, guidance_scale=1.0)
        spreads[variance_type] = np.sqrt(np.diag(moments(latents)[1])) / STD
    assert np.abs(spreads["learned_range"] - 1).max() < 0.02
    assert spreads["fixed_small"].max() < 0.95


# ---------------------------------------------------------------------------------------------- what is given is kept


def conditional(mean, given, value):
    """Mean and covariance of the channels that are not `given`, under `N(mean, COVARIANCE)`."""
    free = [channel for channel in range(3) if channel not in given]
    gain = COVARIANCE[np.ix_(free, given)] @ np.linalg.inv(COVARIANCE[np.ix_(given, given)])
    covariance = COVARIANCE[np.ix_(free, free)] - gain @ COVARIANCE[np.ix_(given, free)]
    return mean[free] + gain @ (np.array(value) - mean[given]), covariance


WITH_DDPM = [*((*row, 1) for row in SOME), ("DDPMScheduler", {"variance_type": "learned_range"}, 250, 32)]


@pytest.mark.parametrize("name, config, steps, images", WITH_DDPM, ids=[*SOME_IDS, "DDPMScheduler"])
def test_masks_to_image(name, config, steps, images):
    """The radiograph follows `p(x | b, c, y)`, which depends on the masks through the covariance."""
    pipe = toy_pipeline(scheduler_of(name, **config))
    anatomy, lesion = torch.ones(32, 32), torch.zeros(32, 32)
    latents = sample(pipe, steps, images, class_labels=1, guidance_scale=1.0, anatomy_mask=anatomy, lesion_mask=lesion)
    mean, covariance = conditional(MEANS[1], [1, 2], [1.0, -1.0])
    assert_moments(latents, mean, covariance, channels=[0])


@pytest.mark.parametrize("name, config, steps, images", WITH_DDPM, ids=[*SOME_IDS, "DDPMScheduler"])
def test_image_to_masks(name, config, steps, images):
    pipe = toy_pipeline(scheduler_of(name, **config))
    image = torch.full((32, 32), 0.7)  # 0.4 in [-1, 1]
    latents = sample(pipe, steps, images, class_labels=0, guidance_scale=1.0, image=image)
    mean, covariance = conditional(MEANS[0], [0], [0.4])
    assert_moments(latents, mean, covariance, channels=[1, 2])


@pytest.mark.parametrize("strength", [0.3, 0.6])
@pytest.mark.parametrize("name, config, steps", SOME, ids=SOME_IDS)
def test_variation_of_a_real_case(name, config, steps, strength):
    """The flow from level `Z` to the sample is linear where the data are Gaussian: `I_0 = m + F (I_Z - sqrt(abar) m)`
    with `F = C^(1/2) (abar C + 1 - abar)^(-1/2)`. So is what becomes of a real case and of its noise."""
    pipe = toy_pipeline(scheduler_of(name, **config), World(MEANS[:1], members=((1,), (1,), (1,))))
    real = np.array([0.4, 1.0, -1.0])
    maps = {"image": 0.7, "anatomy_mask": 1.0, "lesion_mask": 0.0}
    given = {name: torch.full((32, 32), value) for name, value in maps.items()}
    latents = sample(pipe, steps, class_labels=0, strength=strength, **given)

    timesteps = pipe.scheduler.timesteps
    abar = float(pipe.unet.world.abar_at(max(t for t in timesteps if t <= strength * 1000), None)[0])
    values, vectors = np.linalg.eigh(COVARIANCE)
    flow = vectors @ np.diag(np.sqrt(values / (abar * values + 1 - abar))) @ vectors.T
    mean = MEANS[0] + math.sqrt(abar) * flow @ (real - MEANS[0])
    assert_moments(latents, mean, (1 - abar) * flow @ flow.T)


@pytest.mark.parametrize("name, config, steps", SOME[:2], ids=SOME_IDS[:2])
def test_weights_on_the_clean_sample(name, config, steps):
    """`mask_weighting="signal"`: the network lives in the scaled world, what is given and what comes out does not."""
    weights = (1.0, 0.8, 1.5)
    config = {"channel_weights": weights, "mask_weighting": "signal"}
    pipe = toy_pipeline(scheduler_of(name), World(weights=weights), **config)
    latents = sample(pipe, steps, class_labels=1, guidance_scale=1.0) / torch.tensor(weights)[:, None, None]
    assert_moments(latents, MEANS[1])
    latents = sample(
        pipe,
        steps,
        class_labels=1,
        guidance_scale=1.0,
        anatomy_mask=torch.ones(32, 32),
        lesion_mask=torch.zeros(32, 32),
    )
    mean, covariance = conditional(MEANS[1], [1, 2], [1.0, -1.0])
    assert_moments(latents, mean, covariance, channels=[0])


def test_output_is_the_latents_in_images_and_masks():
    """Latents [-1, 1] -> radiograph in [0, 1]; masks are 1 where their channel is above 0."""
    pipe = toy_pipeline(scheduler_of("DDIMScheduler"))
    arguments = {"class_labels": 1, "guidance_scale": 1.0, "latents": white_noise(1, 32), "num_inference_steps": 50}
    latents = sample(pipe, 50, class_labels=1, guidance_scale=1.0)
    output = pipe(**arguments, refine_masks=False, output_type="pt")
    torch.testing.assert_close(output.images[:, 0], (latents[:, 0] / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    assert torch.equal(output.anatomy_masks[:, 0], (latents[:, 1] >= 0).float())
    assert torch.equal(output.lesion_masks[:, 0], (latents[:, 2] >= 0).float())
