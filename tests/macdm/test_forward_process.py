"""The forward process against Bayes' rule, against closed forms and against what diffusers' schedulers do."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler

from diffusers_macdm.macdm.forward_process import (
    PREDICTION_TYPES,
    ForwardProcess,
    clean_of,
    draw_timesteps,
    lognormal_timesteps,
    noise_of,
    per_channel,
    prediction_of,
)


SCHEDULES = ("linear", "squaredcos_cap_v2", "scaled_linear")
NUM_TIMESTEPS = 1000


@pytest.fixture(params=SCHEDULES)
def scheduler(request):
    return DDPMScheduler(beta_schedule=request.param, clip_sample=False)


@pytest.fixture
def process(scheduler):
    return ForwardProcess.from_scheduler(scheduler)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------------------------------------- constants


def test_constants_belong_together(process):
    """`abar` is the product of `1 - beta` to float64's precision: float32's cumulative product is off by up to 5e-4 in
    `1 - abar` at small t, where the decoder term of the variational bound is decided."""
    assert process.betas.dtype == process.alphas_cumprod.dtype == torch.float64
    assert process.num_timesteps == NUM_TIMESTEPS
    expected = torch.cumprod(1 - process.betas, dim=0)
    torch.testing.assert_close(process.alphas_cumprod, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(1 - process.alphas_cumprod, 1 - expected, rtol=1e-10, atol=0)


def test_constants_are_the_schedulers(process, scheduler):
    torch.testing.assert_close(process.betas.float(), scheduler.betas, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(process.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=2e-6, atol=1e-9)
    assert process.alphas_cumprod_previous[0] == 1
    torch.testing.assert_close(process.snr, 1 / (1 / process.alphas_cumprod - 1))


@pytest.mark.parametrize("cls", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_every_scheduler_gives_the_same_process(cls):
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    ddpm, other = (ForwardProcess.from_scheduler(scheduler(**betas)) for scheduler in (DDPMScheduler, cls))
    torch.testing.assert_close(other.alphas_cumprod, ddpm.alphas_cumprod, rtol=1e-9, atol=0)


def test_scheduler_without_signal_at_the_end():
    process = ForwardProcess.from_scheduler(DDPMScheduler(rescale_betas_zero_snr=True))
    assert process.alphas_cumprod[-1] == 0 and process.snr[-1] == 0
    assert process.posterior_log_variance.isfinite().all()
    trace = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", rescale_betas_zero_snr=True)
    assert ForwardProcess.from_scheduler(trace).alphas_cumprod[-1] == 2**-24  # as this one samples


# ---------------------------------------------------------------------------------------------- q(I_t | I_0)


def test_add_noise_equals_diffusers(process, scheduler):
    clean, noise = normal(6, 3, 4, 4), normal(6, 3, 4, 4, seed=1)
    timesteps = torch.tensor([0, 1, 10, 500, 998, 999])
    expected = scheduler.add_noise(clean.float(), noise.float(), timesteps)
    torch.testing.assert_close(process.add_noise(clean.float(), noise.float(), timesteps), expected, rtol=0, atol=2e-5)


def test_moments_of_the_noised_sample(process):
    """Any two vectors of mean square 1 that are orthogonal have the moments of a Gaussian, without sampling error."""
    data, noise = torch.tensor([1.0, 1, -1, -1]).double(), torch.tensor([1.0, -1, 1, -1]).double()
    mean, std, t = 0.3, 0.2, 321
    clean = (mean + std * data).reshape(1, 1, 2, 2)
    noisy = process.add_noise(clean, noise.reshape(1, 1, 2, 2), torch.tensor([t]))
    abar = process.alphas_cumprod[t]
    assert math.isclose(noisy.mean(), abar.sqrt() * mean, rel_tol=1e-12)
    assert math.isclose(noisy.var(correction=0), abar * std**2 + 1 - abar, rel_tol=1e-12)


def test_one_step_at_a_time_ends_in_the_same_distribution(process):
    """Mean and variance of `q(I_t | I_{t-1}) = N(sqrt(1 - beta_t) I_{t-1}, beta_t)`, iterated (DDPM eq. 2)."""
    mean, variance = 1.0, 0.0
    for t in range(NUM_TIMESTEPS):
        beta = float(process.betas[t])
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert math.isclose(mean, process.alphas_cumprod[t].sqrt(), rel_tol=1e-9)
        assert math.isclose(variance, 1 - process.alphas_cumprod[t], rel_tol=1e-9)


# ---------------------------------------------------------------------------------------------- q(I_{t-1} | I_t, I_0)


def test_posterior_is_bayes_rule(process):
    """`q(I_{t-1} | I_t, I_0)` as the product of the two Gaussians `q(I_t | I_{t-1})` and `q(I_{t-1} | I_0)`."""
    timesteps = torch.tensor([1, 2, 17, 400, 999])
    clean, noisy = normal(5, 1, 3, 3), normal(5, 1, 3, 3, seed=1)
    mean = process.posterior_mean(clean, noisy, timesteps)
    for i, t in enumerate(timesteps.tolist()):
        alpha, abar_previous = 1 - process.betas[t], process.alphas_cumprod[t - 1]
        precision = alpha / (1 - alpha) + 1 / (1 - abar_previous)
        weighted = alpha.sqrt() / (1 - alpha) * noisy[i] + abar_previous.sqrt() / (1 - abar_previous) * clean[i]
        torch.testing.assert_close(process.posterior_variance[t], 1 / precision, rtol=1e-9, atol=0)
        torch.testing.assert_close(mean[i], weighted / precision, rtol=1e-9, atol=1e-12)


def test_posterior_at_the_first_timestep_is_the_clean_sample(process):
    clean, noisy = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    mean = process.posterior_mean(clean, noisy, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(mean, clean, rtol=1e-9, atol=1e-12)
    assert process.posterior_variance[0] == 0
    assert process.posterior_log_variance[0] == process.posterior_log_variance[1]
    torch.testing.assert_close(process.posterior_log_variance[1:].exp(), process.posterior_variance[1:])


def test_posterior_equals_a_step_of_diffusers(process, scheduler):
    """The sampler's step with the true noise is a draw from the posterior."""
    clean, noise = normal(1, 3, 8, 8).float(), normal(1, 3, 8, 8, seed=1).float()
    for t in (1, 2, 10, 500, 900):
        noisy = process.add_noise(clean, noise, torch.tensor([t]))
        step = scheduler.step(noise, t, noisy, generator=torch.Generator().manual_seed(7)).prev_sample
        draw = normal(1, 3, 8, 8, seed=7, dtype=torch.float32)
        expected = process.posterior_mean(clean, noisy, torch.tensor([t]))
        expected = expected + process.posterior_variance[t].sqrt().float() * draw
        # diffusers works in float32, where 1 - abar has lost three digits at small t
        torch.testing.assert_close(step, expected, rtol=0, atol=5e-4)
        torch.testing.assert_close(
            scheduler._get_variance(t), process.posterior_variance[t].float(), rtol=2e-3 if t < 100 else 5e-5, atol=0
        )


# ---------------------------------------------------------------------------------------------- one timestep per channel


def test_per_channel_timesteps_are_the_channels_one_by_one(process):
    clean, noise = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    timesteps = torch.tensor([[5, 0, 0], [999, 300, 300]])
    noisy = process.add_noise(clean, noise, timesteps)
    mean = process.posterior_mean(clean, noisy, timesteps)
    for channel in range(3):
        one = slice(channel, channel + 1)
        expected = process.add_noise(clean[:, one], noise[:, one], timesteps[:, channel])
        torch.testing.assert_close(noisy[:, one], expected, rtol=0, atol=0)
        expected = process.posterior_mean(clean[:, one], noisy[:, one], timesteps[:, channel])
        torch.testing.assert_close(mean[:, one], expected, rtol=0, atol=0)


def test_per_channel_shapes():
    values = torch.arange(10.0)
    assert per_channel(values, torch.tensor([1, 2])).shape == (2, 1, 1, 1)
    picked = per_channel(values, torch.tensor([[1, 2, 3], [4, 5, 6]]))
    assert picked.shape == (2, 3, 1, 1) and picked.flatten().tolist() == [1, 2, 3, 4, 5, 6]


# ---------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("t", [0, 1, 250, 999])
def test_predictions_of_the_truth(process, scheduler, t):
    """From each type of prediction of the true sample come back the true noise and the true clean sample."""
    clean, noise, timesteps = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1), torch.tensor([t, t])
    noisy = process.add_noise(clean, noise, timesteps)
    abar = per_channel(process.alphas_cumprod, timesteps)
    truth = {"epsilon": noise, "sample": clean, "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * clean}
    velocity = scheduler.get_velocity(clean.float(), noise.float(), timesteps)
    torch.testing.assert_close(truth["v_prediction"].float(), velocity, rtol=0, atol=1e-5)
    for prediction_type in PREDICTION_TYPES:
        prediction = truth[prediction_type]
        # at t = 999 of the cosine schedule abar is 2e-9: what divides by its root keeps 16 - 5 digits
        torch.testing.assert_close(noise_of(prediction, noisy, abar, prediction_type), noise, rtol=0, atol=1e-9)
        torch.testing.assert_close(clean_of(prediction, noisy, abar, prediction_type), clean, rtol=0, atol=1e-9)
        torch.testing.assert_close(prediction_of(noise, noisy, abar, prediction_type), prediction, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_prediction_of_is_the_inverse_of_noise_of(prediction_type):
    prediction, noisy = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    noise = noise_of(prediction, noisy, 0.37, prediction_type)
    torch.testing.assert_close(prediction_of(noise, noisy, 0.37, prediction_type), prediction)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_clean_of_without_any_signal(prediction_type):
    """At zero terminal SNR (arXiv 2305.08891) these two predict the clean sample although the noise says nothing."""
    prediction, noisy = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    clean = clean_of(prediction, noisy, 0.0, prediction_type)
    expected = prediction if prediction_type == "sample" else -prediction
    torch.testing.assert_close(clean, expected)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_clean_of_loses_no_digits_in_float32(process, prediction_type):
    """Near pure noise a detour by the noise would multiply the rounding error with `1 / sqrt(abar)`."""
    clean, noise, timesteps = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1), torch.tensor([999, 990])
    noisy = process.add_noise(clean, noise, timesteps)
    abar = per_channel(process.alphas_cumprod, timesteps)
    prediction = clean if prediction_type == "sample" else abar.sqrt() * noise - (1 - abar).sqrt() * clean
    result = clean_of(prediction.float(), noisy.float(), abar, prediction_type)
    torch.testing.assert_close(result, clean.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("convert", [noise_of, prediction_of, clean_of])
def test_unknown_prediction_type(convert):
    sample = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="'flow'.*epsilon, v_prediction, sample"):
        convert(sample, sample, 0.5, "flow")


# ---------------------------------------------------------------------------------------------- fractional timesteps


def test_alphas_cumprod_at_a_timestep(process):
    for t in (0, 1, 499, 999):
        assert math.isclose(process.alphas_cumprod_at(t), process.alphas_cumprod[t], rel_tol=1e-9)
    assert process.alphas_cumprod_at(-0.1) == process.alphas_cumprod_at(0)
    assert process.alphas_cumprod_at(1e4) == process.alphas_cumprod_at(999)
    assert process.alphas_cumprod[4] > process.alphas_cumprod_at(3.5) > process.alphas_cumprod[3] or (
        process.alphas_cumprod[4] < process.alphas_cumprod_at(3.5) < process.alphas_cumprod[3]
    )


@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_alphas_cumprod_at_fractional_timesteps_of_sigma_schedulers(cls):
    """Karras sigmas lie between the training timesteps; `abar = 1 / (1 + sigma^2)` must be theirs."""
    scheduler = cls(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", use_karras_sigmas=True)
    process = ForwardProcess.from_scheduler(scheduler)
    scheduler.set_timesteps(13)
    timesteps = scheduler.timesteps.tolist()
    assert any(t % 1 for t in timesteps)
    for t, sigma in zip(timesteps, scheduler.sigmas.tolist()[:-1], strict=True):
        assert math.isclose(process.alphas_cumprod_at(t), 1 / (1 + sigma**2), rel_tol=2e-3)


# ---------------------------------------------------------------------------------------------- what training draws


def test_draw_timesteps():
    """Pairs share one timestep, given channels have 0 and are not noised, the three uses come with their probabilities."""
    size, probabilities = 30_000, (0.5, 0.3, 0.2)
    timesteps, noised, inserted = draw_timesteps(size, 1000, probabilities, generator=torch.Generator().manual_seed(0))
    assert not inserted.any()
    assert timesteps.dtype == torch.int64 and timesteps.shape == noised.shape == (size, 3)
    patterns = {(True, True, True): 0.5, (True, False, False): 0.3, (False, True, True): 0.2}
    found, counts = noised.unique(dim=0, return_counts=True)
    assert {tuple(row) for row in found.tolist()} == set(patterns)
    for row, count in zip(found.tolist(), counts.tolist(), strict=True):
        share = patterns[tuple(row)]
        assert abs(count / size - share) < 4 * math.sqrt(share * (1 - share) / size)
    assert (timesteps[~noised] == 0).all()
    level = timesteps.amax(dim=1, keepdim=True)
    assert (timesteps[noised] == level.expand(-1, 3)[noised]).all()
    # uniform on 0 ... 999
    assert level.min() == 0 and level.max() == 999
    assert abs(level.double().mean() - 499.5) < 4 * 1000 / math.sqrt(12 * size)


def test_draw_timesteps_of_one_use_alone():
    assert draw_timesteps(8, 1000, (1, 0, 0))[1].all()


def test_draw_timesteps_of_insertions():
    """The anatomy is given in all insertions, the lesion mask in half of them; without, it shares the film's timestep."""
    size = 4000
    timesteps, noised, inserted = draw_timesteps(size, 1000, (0, 0, 0, 1), generator=torch.Generator().manual_seed(0))
    assert inserted.all() and noised[:, 0].all() and not noised[:, 1].any()
    generated = noised[:, 2]
    assert abs(generated.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(size)
    assert (timesteps[generated] == timesteps[generated][:, :1]).all()  # both masks are told one timestep
    assert (timesteps[~generated, 1:] == 0).all()


def test_lognormal_timesteps():
    """The drawn `log sigma` has the mean and the deviation of the normal distribution; each cell has its closed-form mass."""
    process = ForwardProcess.from_scheduler(DDPMScheduler())
    probabilities = lognormal_timesteps(process, -0.4, 1.0)
    assert probabilities.dtype == torch.float64 and probabilities.shape == (1000,)
    assert probabilities.min() >= 0 and abs(probabilities.sum() - 1) < 1e-12
    log_sigma = ((1 - process.alphas_cumprod) / process.alphas_cumprod).log() / 2
    mean = (probabilities * log_sigma).sum()
    std = (probabilities * (log_sigma - mean) ** 2).sum().sqrt()
    assert abs(mean + 0.4) < 0.01 and abs(std - 1.0) < 0.01
    normal_law = torch.distributions.Normal(torch.tensor(-0.4).double(), torch.tensor(1.0).double())
    t = 317
    low, high = (log_sigma[t - 1] + log_sigma[t]) / 2, (log_sigma[t] + log_sigma[t + 1]) / 2
    assert torch.isclose(probabilities[t], normal_law.cdf(high) - normal_law.cdf(low), rtol=1e-9)
    # what lies beyond the ends goes to the ends
    assert torch.isclose(lognormal_timesteps(process, 50.0, 1.0)[-1], torch.tensor(1.0).double())
    zero_snr = ForwardProcess.from_scheduler(DDPMScheduler(rescale_betas_zero_snr=True))
    assert lognormal_timesteps(zero_snr, -0.4, 1.4).isfinite().all()

    drawn, _, _ = draw_timesteps(20_000, 1000, (1, 0, 0), timestep_probabilities=probabilities)
    drawn = log_sigma[drawn[:, 0]]
    assert abs(drawn.mean() + 0.4) < 4 / math.sqrt(20_000) + 0.01


def test_a_noisy_sample_of_a_region():
    """Outside of the region the clean sample is fed, and means are over the region alone."""
    process = ForwardProcess.from_scheduler(DDPMScheduler())
    clean = normal(2, 3, 4, 4)
    noised = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    noised[0, 0, :2] = True
    noised[1] = True
    sample = process.sample(clean, torch.tensor([300, 700]), noised)
    assert torch.equal(sample.noisy[~noised], clean[~noised])
    assert torch.equal(sample.noisy[noised], process.add_noise(clean, sample.noise, sample.timesteps)[noised])
    assert sample.noised_channels.tolist() == [[True, False, False], [True, True, True]]
    means = sample.mean(clean)
    torch.testing.assert_close(means[0, 0], clean[0, 0, :2].mean())
    torch.testing.assert_close(means[1], clean[1].mean(dim=(1, 2)))


@pytest.mark.parametrize("probabilities", [(1.0, 0.0), (0.5, 0.6, -0.1), (0.5, 0.5, 0.5)])
def test_bad_task_probabilities(probabilities):
    with pytest.raises(ValueError, match="task_probabilities=.*pairs, masks_to_image, image_to_masks"):
        draw_timesteps(4, 1000, probabilities)


def test_a_noisy_sample_keeps_what_is_given():
    """Given channels are fed clean, noised ones as `add_noise` has them; the noise is drawn once, from the global generator."""
    process = ForwardProcess.from_scheduler(DDPMScheduler())
    clean = normal(2, 3, 4, 4)
    noised = torch.tensor([[True, False, False], [True, True, True]])
    timesteps = torch.tensor([[300], [700]]) * noised
    torch.manual_seed(5)
    sample = process.sample(clean, timesteps, noised)
    torch.manual_seed(5)
    assert torch.equal(sample.noise, torch.randn_like(clean))
    expected = process.add_noise(clean, sample.noise, timesteps)
    expected[0, 1:] = clean[0, 1:]
    assert torch.equal(sample.noisy, expected)
    assert process.sample(clean.half(), timesteps[:, 0]).noisy.dtype == torch.float32
    assert process.sample(clean, timesteps[:, 0]).noised_channels.all()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_target_is_the_prediction_that_says_the_noise(prediction_type):
    process = ForwardProcess.from_scheduler(DDPMScheduler())
    sample = process.sample(normal(2, 3, 4, 4), torch.tensor([10, 700]), noise=normal(2, 3, 4, 4, seed=1))
    target = sample.target(prediction_type)
    torch.testing.assert_close(noise_of(target, sample.noisy, sample.alphas_cumprod, prediction_type), sample.noise)
