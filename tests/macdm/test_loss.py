"""The hybrid loss: densities against scipy and torch.distributions, the variational bound against closed forms written out
in float64 numpy from the betas alone, gradients, and a real `UNet2DModel` that learns."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from scipy.ndimage import maximum_filter
from scipy.special import log_ndtr
from scipy.stats import norm

from diffusers_macdm.macdm.forward_process import PREDICTION_TYPES, ForwardProcess, per_channel
from diffusers_macdm.macdm.loss import (
    HybridLoss,
    discretized_gaussian_log_likelihood,
    interpolated_log_variance,
    min_snr_weight,
    normal_kl,
    perceptual_distance,
    prior_term,
    region_weights,
    split_learned_variance,
    variational_bound,
    vlb_term,
)


# Two vectors with the moments of independent standard normals (mean square 1, mean product 0) and no sampling error: a mean
# over these four pixels *is* the expectation of any quadratic form.
PIXELS_DATA = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
PIXELS_NOISE = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
PLAIN = {"lesion_region_weight": 1.0, "radiograph_region_weight": 1.0}  # the loss without region weights


def exact_process(**config):
    """The process with `abar` in float64."""
    betas = DDPMScheduler(**config).betas.double()
    return ForwardProcess(betas, torch.cumprod(1 - betas, dim=0))


@pytest.fixture(scope="module")
def process():
    return exact_process()


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(*shape, seed=0, num_bins=256):
    """Values of the 8-bit grid in [-1, 1]."""
    bins = torch.randint(num_bins, shape, generator=torch.Generator().manual_seed(seed))
    return bins.double() / (num_bins - 1) * 2 - 1


class Constants:
    """The constants of the process in numpy, written out here once more."""

    def __init__(self, process):
        self.betas = process.betas.numpy()
        self.abar = np.cumprod(1 - self.betas)
        self.abar_previous = np.append(1.0, self.abar[:-1])
        self.posterior = self.betas * (1 - self.abar_previous) / (1 - self.abar)
        self.posterior[0] = self.posterior[1]
        self.on_clean = self.betas * np.sqrt(self.abar_previous) / (1 - self.abar)
        self.on_noisy = np.sqrt(1 - self.betas) * (1 - self.abar_previous) / (1 - self.abar)

    def variance(self, v):
        """`[T]`, Improved DDPM eq. 15, as a product of powers."""
        return self.betas ** ((1 + v) / 2) * self.posterior ** ((1 - v) / 2)

    def divergence(self, squared_error, variance):
        """`[T]`, bits: divergence for a mean squared error of the clean prediction and a variance of the model."""
        ratio = self.posterior / variance
        return 0.5 * (ratio - 1 - np.log(ratio) + self.on_clean**2 * squared_error / variance) / np.log(2)


# ---------------------------------------------------------------------------------------------- densities


def test_normal_kl_equals_torch_distributions():
    mean1, mean2, log_variance1, log_variance2 = (3 * normal(50, seed=seed) for seed in range(4))
    kl = normal_kl(mean1, log_variance1, mean2, log_variance2)
    first, second = (
        torch.distributions.Normal(mean, (log_variance / 2).exp())
        for mean, log_variance in ((mean1, log_variance1), (mean2, log_variance2))
    )
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(first, second), rtol=1e-12, atol=1e-12)
    assert (normal_kl(mean1, log_variance1, mean1, log_variance1) == 0).all()


@pytest.mark.parametrize("num_bins", [2, 256, 65536])
@pytest.mark.parametrize("mean, std", [(0.0, 0.3), (0.37, 0.005), (-1.2, 0.05), (3.0, 1.0), (0.0, 50.0)])
def test_discretized_likelihood_sums_to_one(num_bins, mean, std):
    grid = torch.linspace(-1, 1, num_bins, dtype=torch.float64)
    mean, log_scale = torch.tensor([mean]).double(), torch.tensor([std]).double().log()
    log_likelihood = discretized_gaussian_log_likelihood(grid, mean, log_scale, num_bins)
    assert math.isclose(log_likelihood.exp().sum(), 1, rel_tol=1e-11)


def test_discretized_likelihood_equals_scipy():
    grid = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mean, std = 0.1, 0.15
    lower, upper = (grid - 1 / 255).numpy(), (grid + 1 / 255).numpy()
    lower[0], upper[-1] = -np.inf, np.inf
    expected = np.log(norm.cdf(upper, mean, std) - norm.cdf(lower, mean, std))
    parameters = torch.tensor([mean, math.log(std)], dtype=torch.float64)
    log_likelihood = discretized_gaussian_log_likelihood(grid, *parameters)
    near = np.abs(grid.numpy() - mean) < 4 * std  # beyond, the difference of CDFs has no digits left
    near[[0, -1]] = False
    np.testing.assert_allclose(log_likelihood.numpy()[near], expected[near], rtol=0, atol=1e-9)
    # the open bins and both tails, by logarithms
    np.testing.assert_allclose(log_likelihood[0], norm.logcdf(upper[0], mean, std), rtol=1e-10)
    np.testing.assert_allclose(log_likelihood[-1], norm.logsf(lower[-1], mean, std), rtol=1e-10)


@pytest.mark.parametrize("x", [-1.0, -0.5, 1 / 255, 1.0])
def test_discretized_likelihood_far_in_the_tail(x):
    """Hundreds of standard deviations away, where both CDFs are 0 or 1 in any floating point format."""
    for mean, std in ((-0.9, 0.004), (0.9, 0.004), (0.3, 0.002)):
        upper, lower = (x + 1 / 255 - mean) / std, (x - 1 / 255 - mean) / std
        upper, lower = (math.inf if x == 1 else upper), (-math.inf if x == -1 else lower)
        if lower > 0:
            upper, lower = -lower, -upper
        expected = log_ndtr(upper) + np.log1p(-np.exp(log_ndtr(lower) - log_ndtr(upper)))
        arguments = torch.tensor([x, mean, math.log(std)], dtype=torch.float64)
        result = discretized_gaussian_log_likelihood(*arguments)
        assert math.isclose(result, expected, rel_tol=1e-10, abs_tol=1e-10)
        single = discretized_gaussian_log_likelihood(*arguments.float())
        assert single.dtype == torch.float32 and math.isclose(single, expected, rel_tol=2e-5, abs_tol=1e-6)


def test_discretized_likelihood_has_right_gradients_everywhere():
    x = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.2, 0.2, 0.2, -0.2]).double()
    means = torch.tensor([-1.1, 0.9, 0.9, -0.9, 0.2, 0.21, -0.3, 0.3]).double().requires_grad_()
    log_scales = torch.tensor([0.1, 0.2, 0.1, 0.3, 0.01, 0.02, 0.05, 0.1]).double().log().requires_grad_()
    function = lambda means, log_scales: discretized_gaussian_log_likelihood(x, means, log_scales)  # noqa: E731
    assert torch.autograd.gradcheck(function, (means, log_scales))
    # 1000 standard deviations away the derivative by the mean is that of -z^2 / 2
    mean = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    discretized_gaussian_log_likelihood(torch.tensor(0.0), mean, torch.tensor(1e-3).log()).backward()
    assert math.isclose(mean.grad, (1 - 1 / 255) / 1e-6, rel_tol=1e-3)


# ---------------------------------------------------------------------------------------------- learned variance


def test_split_learned_variance():
    output = normal(2, 6, 4, 4)
    prediction, v = split_learned_variance(output, 3)
    assert torch.equal(prediction, output[:, :3]) and torch.equal(v, output[:, 3:])
    prediction, v = split_learned_variance(output, 6)
    assert torch.equal(prediction, output) and v is None
    with pytest.raises(ValueError, match="6 channels; for samples of 4 channels it needs 4 .* or 8"):
        split_learned_variance(output, 4)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_interpolated_log_variance_is_what_diffusers_samples_with(schedule):
    scheduler = DDPMScheduler(beta_schedule=schedule, variance_type="learned_range")
    process = exact_process(beta_schedule=schedule)
    v = normal(1, 3, 4, 4, dtype=torch.float32)
    for t in (1, 2, 10, 500, 999):
        # diffusers' float32 has lost three digits of 1 - abar at small t
        ours = interpolated_log_variance(v, torch.tensor([t]), process)
        theirs = scheduler._get_variance(t, predicted_variance=v)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3 if t < 10 else 3e-4)


def test_interpolated_log_variance_between_its_bounds(process):
    timesteps = torch.tensor([[0, 1, 999]])
    ends = [interpolated_log_variance(torch.full((1, 3, 1, 1), v).double(), timesteps, process) for v in (-1, 1)]
    constants = Constants(process)
    np.testing.assert_allclose(ends[0].flatten(), np.log(constants.posterior[[0, 1, 999]]), rtol=1e-12)
    np.testing.assert_allclose(ends[1].flatten(), np.log(constants.betas[[0, 1, 999]]), rtol=1e-12)


# ---------------------------------------------------------------------------------------------- variational bound


def test_vlb_of_a_known_point_mass(process):
    """All data are one grid value: the exact noise is known, so the divergence is that of the variances alone, and the
    decoder is the mass of a Gaussian in the bin around its mean."""
    value = 2 * 77 / 255 - 1

    def model(noisy, timesteps):
        abar = per_channel(process.alphas_cumprod, timesteps)
        return torch.cat([(noisy - abar.sqrt() * value) / (1 - abar).sqrt(), torch.full_like(noisy, v)], dim=1)

    constants = Constants(process)
    clean = torch.full((2, 1, 4, 4), value, dtype=torch.float64)
    for v in (-1.0, 0.3):
        bound = variational_bound(model, clean, process, torch.Generator().manual_seed(0))
        variance = constants.variance(v)
        expected = constants.divergence(0.0, variance)
        half_bin = 1 / 255 / np.sqrt(variance[0])
        expected[0] = -np.log2(norm.cdf(half_bin) - norm.cdf(-half_bin))
        abar = constants.abar[-1]
        prior = 0.5 * (abar * value**2 - abar - np.log1p(-abar)) / np.log(2)
        np.testing.assert_allclose(bound.terms.numpy(), np.stack([expected] * 2), rtol=0, atol=1e-9)
        np.testing.assert_allclose(bound.prior.numpy(), prior, rtol=0, atol=1e-12)
        np.testing.assert_allclose(bound.total.numpy(), expected.sum() + prior, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_expected_vlb_of_a_known_gaussian(process, prediction_type, dtype, tolerance):
    """Data `N(mean, std^2)`: the best prediction of the clean sample is linear in the noisy one, and its mean squared error
    is the posterior variance `std^2 (1 - abar) / (abar std^2 + 1 - abar)`."""
    mean, std = 0.2, 0.3
    timesteps = torch.arange(1, process.num_timesteps)
    abar = per_channel(process.alphas_cumprod, timesteps)
    clean = (mean + std * PIXELS_DATA).expand(len(timesteps), 1, 2, 2)
    noisy = process.add_noise(clean, PIXELS_NOISE.expand_as(clean), timesteps)
    gain = abar.sqrt() * std**2 / (abar * std**2 + 1 - abar)
    best = mean + gain * (noisy - abar.sqrt() * mean)
    noise = (noisy - abar.sqrt() * best) / (1 - abar).sqrt()
    prediction = {
        "epsilon": noise,
        "sample": best,
        "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * best,
    }[prediction_type]
    constants = Constants(process)
    squared_error = std**2 * (1 - constants.abar) / (constants.abar * std**2 + 1 - constants.abar)
    for v in (-1.0, 0.4, 1.0):
        term = vlb_term(
            process,
            clean.to(dtype),
            noisy.to(dtype),
            timesteps,
            prediction.to(dtype),
            torch.full_like(clean, v, dtype=dtype),
            prediction_type,
        )
        assert term.dtype == dtype
        expected = constants.divergence(squared_error, constants.variance(v))[1:]
        np.testing.assert_allclose(term[:, 0].numpy(), expected, rtol=0, atol=tolerance)


def test_expected_vlb_of_an_untrained_model(process):
    """A network of zeros (`eps = 0, v = 0`): it takes the rescaled noisy sample for the clean one, an error of
    `(1 - abar) / abar`, and its variance is the geometric mean of the bounds."""
    timesteps = torch.arange(1, process.num_timesteps)
    clean = (0.2 + 0.3 * PIXELS_DATA).expand(len(timesteps), 1, 2, 2)
    noisy = process.add_noise(clean, PIXELS_NOISE.expand_as(clean), timesteps)
    term = vlb_term(process, clean, noisy, timesteps, torch.zeros_like(clean), torch.zeros_like(clean))
    constants = Constants(process)
    variance = np.sqrt(constants.betas * constants.posterior)
    expected = constants.divergence((1 - constants.abar) / constants.abar, variance)[1:]
    np.testing.assert_allclose(term[:, 0].numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("learned", [True, False])
def test_whole_bound_of_an_untrained_model(process, dtype, learned):
    """Every term of one draw, decoder included, by a numpy that is fed the same noise. A real U-Net, its output at zero."""
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2 if learned else 1,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        add_attention=False,
    ).to(dtype)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    process = exact_process(num_train_timesteps=100, beta_start=1e-3, beta_end=0.2)
    constants = Constants(process)
    clean = images(2, 1, 8, 8).to(dtype)
    clean[0, 0, 0, 0], clean[0, 0, 0, 1] = -1, 1  # open bins
    bound = variational_bound(unet, clean, process, torch.Generator().manual_seed(5))

    generator = torch.Generator().manual_seed(5)
    variance = constants.variance(0.0 if learned else -1.0)
    x = clean.double().numpy()
    expected = np.zeros((2, 100))
    for t in reversed(range(100)):
        noise = torch.randn(clean.shape, generator=generator, dtype=dtype).double().numpy()
        error = np.sqrt(1 - constants.abar[t]) / np.sqrt(constants.abar[t]) * noise  # predicted minus true clean sample
        if t > 0:
            expected[:, t] = constants.divergence((error**2).mean(axis=(1, 2, 3))[:, None], variance)[:, t]
        else:
            upper, lower = (1 / 255 - error) / np.sqrt(variance[0]), (-1 / 255 - error) / np.sqrt(variance[0])
            upper[x == 1], lower[x == -1] = np.inf, -np.inf
            expected[:, 0] = -np.log2(norm.cdf(upper) - norm.cdf(lower)).mean(axis=(1, 2, 3))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(bound.terms.numpy(), expected, rtol=tolerance, atol=tolerance)
    abar = constants.abar[-1]
    prior = 0.5 * (abar * (x**2).mean(axis=(1, 2, 3)) - abar - np.log1p(-abar)) / np.log(2)
    np.testing.assert_allclose(bound.prior.numpy(), prior, rtol=0, atol=tolerance)
    np.testing.assert_allclose(bound.total.numpy(), expected.sum(axis=1) + prior, rtol=tolerance, atol=tolerance)


def test_bound_of_the_exact_model_is_the_entropy_of_the_data():
    """Gaussian data and the exact reverse process: nothing is lost, so the bound is the entropy of the 8-bit data,
    `log2(sqrt(2 pi e) std / bin)`. The reverse variance `beta~ + on_clean^2 Var(I_0 | I_t)` lies between the bounds, as
    Improved DDPM's interpolation supposes; one constant `v` for each timestep hits it."""
    std = 0.2
    process = exact_process(num_train_timesteps=50, beta_start=3e-3, beta_end=0.4)  # noise well above a bin
    constants = Constants(process)
    posterior = std**2 * (1 - constants.abar) / (constants.abar * std**2 + 1 - constants.abar)
    true_posterior = constants.posterior * (np.arange(50) > 0)
    variance = true_posterior + constants.on_clean**2 * posterior
    v = 2 * np.log(variance / constants.posterior) / np.log(constants.betas / constants.posterior) - 1
    assert (np.abs(v[1:]) <= 1).all()
    v = torch.from_numpy(v)

    def model(noisy, timesteps):
        abar = per_channel(process.alphas_cumprod, timesteps)
        noise = (1 - abar).sqrt() * noisy / (abar * std**2 + 1 - abar)
        return torch.cat([noise, per_channel(v, timesteps).expand_as(noisy)], dim=1)

    clean = normal(8, 1, 64, 64)
    clean = std * clean / clean.square().mean().sqrt()  # most of the sampling error, gone
    clean = ((clean + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    bound = variational_bound(model, clean, process, torch.Generator().manual_seed(1))
    entropy = math.log2(math.sqrt(2 * math.pi * math.e) * std * 127.5)
    assert math.isclose(bound.total.mean(), entropy, rel_tol=3e-3)  # of 6.7 bits; 32,768 pixels


def test_prior_term(process):
    clean = images(2, 3, 4, 4)
    abar = Constants(process).abar[-1]
    expected = 0.5 * (abar * clean.numpy() ** 2 - abar - np.log1p(-abar)) / np.log(2)
    np.testing.assert_allclose(prior_term(process, clean).numpy(), expected.mean(axis=(2, 3)), rtol=1e-9)
    assert prior_term(exact_process(rescale_betas_zero_snr=True), clean).eq(0).all()


def test_per_channel_timesteps_are_the_channels_one_by_one(process):
    clean, noise, output = images(2, 3, 4, 4), normal(2, 3, 4, 4), normal(2, 6, 4, 4, seed=1)
    timesteps = torch.tensor([[0, 700, 3], [41, 0, 0]])
    noisy = process.add_noise(clean, noise, timesteps)
    together = vlb_term(process, clean, noisy, timesteps, output[:, :3], output[:, 3:])
    for channel in range(3):
        one = slice(channel, channel + 1)
        arguments = (clean[:, one], noisy[:, one], timesteps[:, channel], output[:, :3][:, one], output[:, 3:][:, one])
        torch.testing.assert_close(together[:, one], vlb_term(process, *arguments), rtol=1e-12, atol=0)


def test_decoder_of_a_scaled_clean_sample(process):
    """`mask_weighting="signal"`: the bin of a scaled value is the scaled bin, and the divergence stays as it is."""
    scale, std_ratio = (1.0, 0.5, 2.0), 0.01
    weights = torch.tensor(scale).double()[:, None, None]
    clean, noise = images(2, 3, 4, 4), normal(2, 3, 4, 4)
    for t in (0, 300):
        timesteps = torch.tensor([t, t])
        noisy = process.add_noise(clean * weights, noise, timesteps)
        prediction = noise + std_ratio * normal(2, 3, 4, 4, seed=1)
        term = vlb_term(process, clean * weights, noisy, timesteps, prediction, None, channel_scale=scale)
        constants = Constants(process)
        error = np.sqrt(1 - constants.abar[t]) / np.sqrt(constants.abar[t]) * (noise - prediction).numpy()
        if t == 0:
            x, std = clean.numpy(), np.sqrt(constants.posterior[0]) / weights.numpy()
            upper, lower = 1 / 255 - error / weights.numpy(), -1 / 255 - error / weights.numpy()
            upper[x == 1], lower[x == -1] = np.inf, -np.inf
            expected = -np.log2(norm.cdf(upper / std) - norm.cdf(lower / std))
        else:
            expected = 0.5 * constants.on_clean[t] ** 2 * error**2 / constants.posterior[t] / np.log(2)
        np.testing.assert_allclose(term.numpy(), expected.mean(axis=(2, 3)), rtol=1e-8)


def test_clipping_bounds_the_predicted_clean_sample(process):
    """A model that cannot be right at t = 900 is bounded by the range of the data; with a scale, by the scaled range."""
    clean, timesteps = torch.ones(1, 1, 2, 2).double(), torch.tensor([900])
    noisy = process.add_noise(clean, PIXELS_NOISE.expand_as(clean), timesteps)
    constants = Constants(process)
    prediction = torch.full_like(clean, 100.0)  # the implied clean sample is far below -1
    term = vlb_term(process, clean, noisy, timesteps, prediction, None, clip_sample_range=1.0)
    assert math.isclose(term, constants.divergence(4.0, constants.posterior)[900], rel_tol=1e-9)
    term = vlb_term(process, clean / 2, noisy, timesteps, prediction, None, clip_sample_range=1.0, channel_scale=(0.5,))
    assert math.isclose(term, constants.divergence(1.0, constants.posterior)[900], rel_tol=1e-9)


# ---------------------------------------------------------------------------------------------- weights


def test_min_snr_weight(process):
    abar = Constants(process).abar
    snr = abar / (1 - abar)
    timesteps = torch.arange(1000)
    expected = {
        "epsilon": np.minimum(snr, 5) / snr,
        "v_prediction": np.minimum(snr, 5) / (snr + 1),
        "sample": np.minimum(snr, 5),
    }
    for prediction_type in PREDICTION_TYPES:
        weight = min_snr_weight(process, timesteps, 5.0, prediction_type)
        np.testing.assert_allclose(weight.numpy(), expected[prediction_type], rtol=1e-6)
    assert min_snr_weight(process, timesteps.reshape(500, 2), 5.0).shape == (500, 2)
    assert min_snr_weight(exact_process(rescale_betas_zero_snr=True), torch.tensor([999]), 5.0) == 1
    with pytest.raises(ValueError, match="'flow'"):
        min_snr_weight(process, timesteps, 5.0, "flow")


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_region_weights_equal_a_dilation(radius):
    lesion = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.99
    lesion[2] = False
    lesion[0, 0, 15] = True  # at the border
    weights = region_weights(lesion, 25.0, radius, radiograph_weight=3.0)
    near = maximum_filter(lesion.numpy(), size=(1, 2 * radius + 1, 2 * radius + 1), mode="constant")
    np.testing.assert_array_equal(weights[:, 0].numpy(), np.where(near, 3.0, 1.0))
    np.testing.assert_array_equal(weights[:, 1].numpy(), 1.0)
    np.testing.assert_array_equal(weights[:, 2].numpy(), np.where(near, 25.0, 1.0))
    assert (weights[2] == 1).all()  # a normal case


# ---------------------------------------------------------------------------------------------- perceptual distance


def test_perceptual_distance_in_closed_form():
    """Unit vectors at an angle are `2 - 2 cos` apart; their lengths do not matter."""
    a = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1).expand(2, 2, 4, 4)
    angles = torch.tensor([0.5, 2.0])
    b = 7 * torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None, None].expand(2, 2, 4, 4)
    distance = perceptual_distance([a], [b])
    torch.testing.assert_close(distance, 2 - 2 * angles.cos())
    both = perceptual_distance([a, a[:, :, :1, :1]], [b, a[:, :, :1, :1]])  # mean over layers, the second is equal
    torch.testing.assert_close(both, distance / 2)
    dead = torch.zeros(2, 2, 4, 4, requires_grad=True)
    perceptual_distance([dead], [b]).sum().backward()
    assert dead.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------- hybrid loss


def batch(process, timesteps, learned=True, seed=0, requires_grad=True):
    """Clean joint samples with a lesion in the first, noise, and an output of a model."""
    size = len(timesteps)
    clean = images(size, 3, 8, 8, seed=seed)
    clean[:, 2] = -1
    clean[0, 2, 3:5, 4] = 1
    output = normal(size, 6 if learned else 3, 8, 8, seed=seed + 2).requires_grad_(requires_grad)
    return clean, normal(size, 3, 8, 8, seed=seed + 1), output


def test_hybrid_loss_is_the_sum_of_its_terms(process):
    timesteps = torch.tensor([0, 10, 700])
    clean, noise, output = batch(process, timesteps)
    loss = HybridLoss(lambda_vlb=1e-3, channel_weights=(1.0, 0.5, 2.0))
    terms = loss(process, output, clean, noise, timesteps)
    squared_error = (output[:, :3] - noise) ** 2
    torch.testing.assert_close(terms.simple, squared_error.mean(dim=(2, 3)).detach())
    noisy = process.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(terms.vlb, vlb_term(process, clean, noisy, timesteps, output[:, :3], output[:, 3:]).detach())
    weights = region_weights(clean[:, 2] == 1, 10.0, 2, 4.0) * torch.tensor([1.0, 0.5, 2.0])[:, None, None]
    expected = (weights * squared_error).mean() + 1e-3 * 1000 * terms.vlb.mean()
    torch.testing.assert_close(terms.total, expected)
    assert not terms.simple.requires_grad and not terms.vlb.requires_grad and terms.perceptual is None


def test_bound_trains_the_variance_and_not_the_mean(process):
    """The stop-gradient: what `lambda_vlb` adds to the gradient is exactly 0 for the mean and the bound's for `v`."""
    timesteps = torch.tensor([0, 10, 700])
    clean, noise, output = batch(process, timesteps)
    gradients = []
    for lambda_vlb in (0.0, 1e-3):
        total = HybridLoss(lambda_vlb=lambda_vlb)(process, output, clean, noise, timesteps).total
        gradients.append(torch.autograd.grad(total, output)[0])
    assert torch.equal(gradients[0][:, :3], gradients[1][:, :3])
    assert (gradients[0][:, 3:] == 0).all()
    noisy = process.add_noise(clean, noise, timesteps)
    v = output[:, 3:].detach().requires_grad_()
    bound = vlb_term(process, clean, noisy, timesteps, output[:, :3].detach(), v).mean()
    torch.testing.assert_close(gradients[1][:, 3:], torch.autograd.grad(bound, v)[0])  # 1e-3 times T is 1
    assert gradients[1][:, 3:].abs().min() > 0


def test_bound_alone_has_no_gradient_by_the_mean(process):
    clean, noise, output = batch(process, torch.tensor([0, 10]))
    loss = HybridLoss(channel_weights=(0.0, 0.0, 0.0), **PLAIN)
    gradient = torch.autograd.grad(loss(process, output, clean, noise, torch.tensor([0, 10])).total, output)[0]
    assert (gradient[:, :3] == 0).all() and (gradient[:, 3:] != 0).all()


def test_model_without_learned_variance_has_no_bound_to_train(process):
    timesteps = torch.tensor([5, 10])
    clean, noise, output = batch(process, timesteps, learned=False)
    terms = HybridLoss(**PLAIN)(process, output, clean, noise, timesteps)
    assert terms.vlb is None
    torch.testing.assert_close(terms.total, ((output - noise) ** 2).mean())


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_truth_has_no_loss(process, prediction_type):
    timesteps = torch.tensor([0, 10, 999])
    clean, noise, _ = batch(process, timesteps)
    velocity = DDPMScheduler().get_velocity(clean, noise, timesteps)
    truth = {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction_type]
    terms = HybridLoss(prediction_type=prediction_type)(process, truth, clean, noise, timesteps)
    assert terms.total < 1e-8  # diffusers' abar is float32


def test_min_snr_makes_the_three_predictions_one_loss(process):
    """Min-SNR weights are defined on the clean prediction: for the same clean prediction all three losses are equal."""
    timesteps = torch.tensor([0, 50, 400, 999])
    clean, noise, _ = batch(process, timesteps)
    noisy, abar = process.add_noise(clean, noise, timesteps), per_channel(process.alphas_cumprod, timesteps)
    predicted = clean + 0.1 * normal(*clean.shape, seed=9)
    predicted_noise = (noisy - abar.sqrt() * predicted) / (1 - abar).sqrt()
    predictions = {
        "epsilon": predicted_noise,
        "sample": predicted,
        "v_prediction": abar.sqrt() * predicted_noise - (1 - abar).sqrt() * predicted,
    }
    totals = [
        HybridLoss(prediction_type=prediction_type, min_snr_gamma=5.0)(process, output, clean, noise, timesteps).total
        for prediction_type, output in predictions.items()
    ]
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(totals[2], totals[0], rtol=1e-6, atol=0)


def test_lesion_region_is_weighted_in_its_own_channel(process):
    timesteps = torch.tensor([100, 100])
    clean, noise, output = batch(process, timesteps)
    gradients = []
    for weight in (1.0, 25.0):
        loss = HybridLoss(lambda_vlb=0.0, lesion_region_weight=weight, lesion_region_radius=1)
        total = loss(process, output, clean, noise, timesteps).total
        gradients.append(torch.autograd.grad(total, output)[0][:, :3])
    ratio = gradients[1] / gradients[0]
    expected = torch.ones_like(ratio)
    expected[0, 2, 2:6, 3:6] = 25  # the lesion is rows 3-4, column 4 of the first sample
    torch.testing.assert_close(ratio, expected)


def test_given_channels_carry_no_loss(process):
    """Masks -> image, image -> masks, pairs, and a sample with everything given."""
    noised = torch.tensor([[True, False, False], [False, True, True], [True, True, True], [False, False, False]])
    timesteps = torch.where(noised, torch.tensor([[400], [30], [0], [7]]), 0)
    clean, noise, output = batch(process, timesteps)
    terms = HybridLoss(**PLAIN)(process, output, clean, noise, timesteps, noised_channels=noised)
    assert torch.equal(terms.simple.isnan(), ~noised) and torch.equal(terms.vlb.isnan(), ~noised)
    gradient = torch.autograd.grad(terms.total, output, retain_graph=True)[0]
    carries = torch.cat([noised, noised], dim=1)
    assert (gradient[~carries] == 0).all() and (gradient[carries] != 0).all()
    each = terms.simple + terms.vlb  # lambda_vlb times T is 1
    expected = (each[0, 0] + each[1, 1:].mean() + each[2].mean() + 0) / 4
    torch.testing.assert_close(terms.total.detach(), expected)


def test_scaled_clean_sample_in_the_hybrid_loss(process):
    """With `mask_weighting="signal"` the lesion is still found, and the decoder knows its grid."""
    timesteps, scale = torch.tensor([0, 10]), (1.0, 0.5, 0.5)
    clean, noise, output = batch(process, timesteps)
    scaled = clean * torch.tensor(scale)[:, None, None]
    terms = HybridLoss()(process, output, scaled, noise, timesteps, channel_scale=scale)
    weights = region_weights(clean[:, 2] == 1, 10.0, 2, 4.0)
    expected = (weights * (output[:, :3] - noise) ** 2).mean() + terms.vlb.mean()
    torch.testing.assert_close(terms.total, expected)
    noisy = process.add_noise(scaled, noise, timesteps)
    expected = vlb_term(process, scaled, noisy, timesteps, output[:, :3], output[:, 3:], channel_scale=scale)
    torch.testing.assert_close(terms.vlb, expected.detach())


def test_perceptual_term(process):
    """Weighted by `abar_t`, 0 for the truth, trains the mean; a given channel enters as it was given."""
    features = torch.nn.Conv2d(3, 5, 3, dtype=torch.float64).requires_grad_(False)
    timesteps = torch.tensor([0, 300])
    clean, noise, output = batch(process, timesteps)
    loss = HybridLoss(lambda_perceptual=0.5, **PLAIN)
    terms = loss(process, output, clean, noise, timesteps, perceptual_features=lambda x: [features(x)])
    noisy, abar = process.add_noise(clean, noise, timesteps), process.alphas_cumprod[timesteps]
    predicted = (noisy - (1 - abar).sqrt()[:, None, None, None] * output[:, :3]) / abar.sqrt()[:, None, None, None]
    expected = abar * perceptual_distance([features(predicted)], [features(clean)])
    torch.testing.assert_close(terms.perceptual, expected.detach())
    without = HybridLoss(**PLAIN)(process, output, clean, noise, timesteps).total
    torch.testing.assert_close(terms.total - without, 0.5 * expected.mean())
    assert torch.autograd.grad(terms.total - without, output)[0][:, :3].abs().max() > 0
    truth = torch.cat([noise, noise], dim=1)
    terms = loss(process, truth, clean, noise, timesteps, perceptual_features=lambda x: [features(x)])
    assert terms.perceptual.abs().max() < 1e-12

    seen = []
    noised = torch.tensor([[True, False, False], [True, True, True]])
    timesteps = torch.tensor([[300, 0, 0], [300, 600, 600]])
    terms = loss(
        process,
        output,
        clean,
        noise,
        timesteps,
        noised_channels=noised,
        perceptual_features=lambda x: [seen.append(x) or features(x)],
    )
    assert torch.equal(seen[1][0, 1:], clean[0, 1:]) and not torch.equal(seen[1][0, 0], clean[0, 0])
    distance = perceptual_distance([features(seen[1])], [features(clean)]).detach()
    torch.testing.assert_close(terms.perceptual, process.alphas_cumprod[[300, 600]] * distance)


def test_half_precision_output_is_taken_to_float32(process):
    timesteps = torch.tensor([0, 900])
    clean, noise, output = batch(process, timesteps)
    clean, noise, output = clean.float(), noise.float(), output.bfloat16()
    terms = HybridLoss()(process, output, clean, noise, timesteps)
    expected = HybridLoss()(process, output.float(), clean, noise, timesteps)
    assert terms.total.dtype == torch.float32
    assert torch.equal(terms.total, expected.total)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prediction_type": "flow"}, "prediction_type='flow'.*epsilon, v_prediction, sample"),
        ({"lambda_vlb": -1.0}, "lambda_vlb=-1.0.*0 or more"),
        ({"lesion_region_weight": math.nan}, "lesion_region_weight=nan"),
        ({"channel_weights": (1.0, -1.0, 1.0)}, r"channel_weights=\(1.0, -1.0, 1.0\)"),
        ({"lesion_region_radius": -1}, "lesion_region_radius=-1"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma=0.0"),
        ({"channel_weights": (1.0,)}, "lesion_region_weight and radiograph_region_weight to 1"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HybridLoss(**arguments)


def test_bad_calls_are_refused(process):
    timesteps = torch.tensor([0, 900])
    clean, noise, output = batch(process, timesteps)
    with pytest.raises(ValueError, match="5 channels; for samples of 3 channels"):
        HybridLoss()(process, output[:, :5], clean, noise, timesteps)
    with pytest.raises(ValueError, match="does not fit samples of 1 channels"):
        HybridLoss()(process, output[:, :2], clean[:, :1], noise[:, :1], timesteps)
    with pytest.raises(ValueError, match="lambda_perceptual=1.0 needs perceptual_features"):
        HybridLoss(lambda_perceptual=1.0)(process, output, clean, noise, timesteps)
    with pytest.raises(ValueError, match="num_bins=1"):
        discretized_gaussian_log_likelihood(clean, clean, clean, num_bins=1)


def test_plain_unet_learns_its_variance():
    """Any `UNet2DModel` and `DDPMScheduler`: the bound falls when the hybrid loss is minimised, and the scheduler samples
    with the variance that was learned."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=25, beta_start=1e-3, beta_end=0.5, variance_type="learned_range", clip_sample=False
    )
    process = ForwardProcess.from_scheduler(scheduler)
    clean = images(16, 1, 1, 1).float().expand(16, 1, 8, 8) * 0.8
    loss = HybridLoss(lambda_vlb=1e-2, channel_weights=(1.0,), **PLAIN)
    optimizer = torch.optim.Adam(unet.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    before = variational_bound(unet, clean, process, torch.Generator().manual_seed(1)).total.mean()
    for _ in range(50):
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(25, (len(clean),), generator=generator)
        output = unet(process.add_noise(clean, noise, timesteps), timesteps).sample
        optimizer.zero_grad()
        loss(process, output, clean, noise, timesteps).total.backward()
        optimizer.step()
    after = variational_bound(unet, clean, process, torch.Generator().manual_seed(1)).total.mean()
    assert after < 0.5 * before
    output = unet(clean, 20).sample
    assert scheduler.step(output, 20, clean, generator=generator).prev_sample.shape == clean.shape
