"""Densities against scipy and torch.distributions, the variational bound against closed forms written out in float64 numpy from
the betas alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from bound import PIXELS_DATA, PIXELS_NOISE, Constants, exact_process, images, normal, prior_term, variational_bound
from diffusers import DDPMScheduler, UNet2DModel
from scipy.special import log_ndtr
from scipy.stats import norm

from diffusers_macdm.macdm.forward_process import PREDICTION_TYPES, per_channel
from diffusers_macdm.macdm.variational_bound import (
    discretized_gaussian_log_likelihood,
    interpolated_log_variance,
    normal_kl,
    split_learned_variance,
    vlb_term,
)


@pytest.fixture(scope="module")
def process():
    return exact_process()


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


def test_number_of_bins_is_checked():
    clean = torch.zeros(1)
    with pytest.raises(ValueError, match="num_bins=1"):
        discretized_gaussian_log_likelihood(clean, clean, clean, num_bins=1)


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
    noisy_sample = process.sample(clean, timesteps, noise=PIXELS_NOISE.expand_as(clean))
    noisy = noisy_sample.noisy
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
            replace(noisy_sample, clean=clean.to(dtype), noisy=noisy.to(dtype)),
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
    sample = process.sample(clean, timesteps, noise=PIXELS_NOISE.expand_as(clean))
    term = vlb_term(process, sample, torch.zeros_like(clean), torch.zeros_like(clean))
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
    together = vlb_term(process, process.sample(clean, timesteps, noise=noise), output[:, :3], output[:, 3:])
    for channel in range(3):
        one = slice(channel, channel + 1)
        sample = process.sample(clean[:, one], timesteps[:, channel], noise=noise[:, one])
        alone = vlb_term(process, sample, output[:, :3][:, one], output[:, 3:][:, one])
        torch.testing.assert_close(together[:, one], alone, rtol=1e-12, atol=0)


def test_decoder_of_a_scaled_clean_sample(process):
    """`mask_weighting="signal"`: the bin of a scaled value is the scaled bin, and the divergence stays as it is."""
    scale, std_ratio = (1.0, 0.5, 2.0), 0.01
    weights = torch.tensor(scale).double()[:, None, None]
    clean, noise = images(2, 3, 4, 4), normal(2, 3, 4, 4)
    for t in (0, 300):
        timesteps = torch.tensor([t, t])
        sample = process.sample(clean * weights, timesteps, noise=noise)
        prediction = noise + std_ratio * normal(2, 3, 4, 4, seed=1)
        term = vlb_term(process, sample, prediction, None, channel_scale=scale)
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
    sample = process.sample(clean, timesteps, noise=PIXELS_NOISE.expand_as(clean))
    constants = Constants(process)
    prediction = torch.full_like(clean, 100.0)  # the implied clean sample is far below -1
    term = vlb_term(process, sample, prediction, None, clip_sample_range=1.0)
    assert math.isclose(term, constants.divergence(4.0, constants.posterior)[900], rel_tol=1e-9)
    sample = replace(sample, clean=clean / 2)
    term = vlb_term(process, sample, prediction, None, clip_sample_range=1.0, channel_scale=(0.5,))
    assert math.isclose(term, constants.divergence(1.0, constants.posterior)[900], rel_tol=1e-9)
