"""The hybrid loss: its terms, weights and gradients, and a real `UNet2DModel` that learns."""

import math

import numpy as np
import pytest
import torch
from bound import Constants, exact_process, images, normal, variational_bound
from diffusers import DDPMScheduler, UNet2DModel
from scipy.ndimage import maximum_filter

from diffusers_macdm.macdm.forward_process import PREDICTION_TYPES, ForwardProcess
from diffusers_macdm.macdm.loss import HybridLoss, loss_space_weight, min_snr_weight, perceptual_distance, region_weights
from diffusers_macdm.macdm.variational_bound import vlb_term


PLAIN = {"lesion_region_weight": 1.0, "radiograph_region_weight": 1.0}  # the loss without region weights


@pytest.fixture(scope="module")
def process():
    return exact_process()


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
    loss = HybridLoss(1e-3, 0.0, (1.0, 0.5, 2.0), lesion_region_weight=10.0, radiograph_region_weight=4.0)
    terms = loss(process, output, process.sample(clean, timesteps, noise=noise))
    squared_error = (output[:, :3] - noise) ** 2
    torch.testing.assert_close(terms.simple, squared_error.mean(dim=(2, 3)).detach())
    sample = process.sample(clean, timesteps, noise=noise)
    torch.testing.assert_close(terms.vlb, vlb_term(process, sample, output[:, :3], output[:, 3:]).detach())
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
        total = HybridLoss(lambda_vlb=lambda_vlb)(process, output, process.sample(clean, timesteps, noise=noise)).total
        gradients.append(torch.autograd.grad(total, output)[0])
    assert torch.equal(gradients[0][:, :3], gradients[1][:, :3])
    assert (gradients[0][:, 3:] == 0).all()
    sample = process.sample(clean, timesteps, noise=noise)
    v = output[:, 3:].detach().requires_grad_()
    bound = vlb_term(process, sample, output[:, :3].detach(), v).mean()
    torch.testing.assert_close(gradients[1][:, 3:], torch.autograd.grad(bound, v)[0])  # 1e-3 times T is 1
    assert gradients[1][:, 3:].abs().min() > 0


def test_bound_alone_has_no_gradient_by_the_mean(process):
    clean, noise, output = batch(process, torch.tensor([0, 10]))
    loss = HybridLoss(channel_weights=(0.0, 0.0, 0.0), **PLAIN)
    gradient = torch.autograd.grad(
        loss(process, output, process.sample(clean, torch.tensor([0, 10]), noise=noise)).total, output
    )[0]
    assert (gradient[:, :3] == 0).all() and (gradient[:, 3:] != 0).all()


def test_model_without_learned_variance_has_no_bound_to_train(process):
    timesteps = torch.tensor([5, 10])
    clean, noise, output = batch(process, timesteps, learned=False)
    terms = HybridLoss(**PLAIN)(process, output, process.sample(clean, timesteps, noise=noise))
    assert terms.vlb is None
    torch.testing.assert_close(terms.total, ((output - noise) ** 2).mean())


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_truth_has_no_loss(process, prediction_type):
    timesteps = torch.tensor([0, 10, 999])
    clean, noise, _ = batch(process, timesteps)
    velocity = DDPMScheduler().get_velocity(clean, noise, timesteps)
    truth = {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction_type]
    terms = HybridLoss(prediction_type=prediction_type)(process, truth, process.sample(clean, timesteps, noise=noise))
    assert terms.total < 1e-8  # diffusers' abar is float32


def test_min_snr_makes_the_three_predictions_one_loss(process):
    """Min-SNR weights are defined on the clean prediction: for the same clean prediction all three losses are equal."""
    timesteps = torch.tensor([0, 50, 400, 999])
    clean, noise, _ = batch(process, timesteps)
    sample = process.sample(clean, timesteps, noise=noise)
    noisy, abar = sample.noisy, sample.alphas_cumprod
    predicted = clean + 0.1 * normal(*clean.shape, seed=9)
    predicted_noise = (noisy - abar.sqrt() * predicted) / (1 - abar).sqrt()
    predictions = {
        "epsilon": predicted_noise,
        "sample": predicted,
        "v_prediction": abar.sqrt() * predicted_noise - (1 - abar).sqrt() * predicted,
    }
    totals = [
        HybridLoss(prediction_type=prediction_type, min_snr_gamma=5.0)(process, output, sample).total
        for prediction_type, output in predictions.items()
    ]
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(totals[2], totals[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss_space", PREDICTION_TYPES)
def test_a_loss_space_makes_predictions_one_loss(process, loss_space):
    """The same clean prediction, told as clean sample or as v, has the error that it has as a prediction of `loss_space`."""
    timesteps = torch.tensor([150, 200, 400, 900])  # sqrt(1 - abar) above the floor
    clean, noise, _ = batch(process, timesteps)
    sample = process.sample(clean.double(), timesteps, noise=noise)
    noisy, abar = sample.noisy, sample.alphas_cumprod
    predicted = clean + 0.1 * normal(*clean.shape, seed=9)
    predicted_noise = (noisy - abar.sqrt() * predicted) / (1 - abar).sqrt()
    predicted_v = abar.sqrt() * predicted_noise - (1 - abar).sqrt() * predicted
    predictions = {"epsilon": predicted_noise, "sample": predicted, "v_prediction": predicted_v}
    expected = HybridLoss(prediction_type=loss_space)(process, predictions[loss_space], sample).total
    for prediction_type in ("sample", "v_prediction"):
        loss = HybridLoss(prediction_type=prediction_type, loss_space=loss_space)
        torch.testing.assert_close(loss(process, predictions[prediction_type], sample).total, expected)


def test_the_loss_space_has_a_floor(process):
    """Below sqrt(1 - abar) = 0.3 the error of the clean sample is divided by 0.3^2, no more, unless said otherwise."""
    weights = loss_space_weight(process.alphas_cumprod, "sample", "v_prediction", sigma_floor=0.05)
    assert process.alphas_cumprod[0] > 1 - 0.05**2 and weights[0] == 1 / 0.05**2
    torch.testing.assert_close(weights[-1], 1 / (1 - process.alphas_cumprod[-1]))
    assert weights.max() == weights[0]
    assert loss_space_weight(process.alphas_cumprod, "sample", "v_prediction").max() == 1 / 0.3**2
    timesteps = torch.tensor([0, 0])
    clean, noise, _ = batch(process, timesteps)
    loss = HybridLoss(prediction_type="sample", loss_space="v_prediction", sigma_floor=0.05)
    terms = loss(process, clean + 0.1, process.sample(clean, timesteps, noise=noise))
    torch.testing.assert_close(terms.total, torch.tensor(4.0, dtype=torch.float64))  # (0.1 / 0.05)^2
    torch.testing.assert_close(terms.simple, torch.full((2, 3), 0.01).double())  # in the log: without any weight


def test_lesion_region_is_weighted_in_its_own_channel(process):
    timesteps = torch.tensor([100, 100])
    clean, noise, output = batch(process, timesteps)
    gradients = []
    for weight in (1.0, 25.0):
        loss = HybridLoss(lambda_vlb=0.0, lesion_region_weight=weight, lesion_region_radius=1)
        total = loss(process, output, process.sample(clean, timesteps, noise=noise)).total
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
    terms = HybridLoss(**PLAIN)(process, output, process.sample(clean, timesteps, noised, noise))
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
    loss = HybridLoss(lesion_region_weight=10.0, radiograph_region_weight=4.0)
    terms = loss(process, output, process.sample(scaled, timesteps, noise=noise), channel_scale=scale)
    weights = region_weights(clean[:, 2] == 1, 10.0, 2, 4.0)
    expected = (weights * (output[:, :3] - noise) ** 2).mean() + terms.vlb.mean()
    torch.testing.assert_close(terms.total, expected)
    sample = process.sample(scaled, timesteps, noise=noise)
    expected = vlb_term(process, sample, output[:, :3], output[:, 3:], channel_scale=scale)
    torch.testing.assert_close(terms.vlb, expected.detach())


def test_perceptual_term(process):
    """Weighted by `abar_t`, 0 for the truth, trains the mean; a given channel enters as it was given."""
    features = torch.nn.Conv2d(3, 5, 3, dtype=torch.float64).requires_grad_(False)
    timesteps = torch.tensor([0, 300])
    clean, noise, output = batch(process, timesteps)
    loss = HybridLoss(lambda_perceptual=0.5, **PLAIN)
    terms = loss(process, output, process.sample(clean, timesteps, noise=noise), perceptual_features=lambda x: [features(x)])
    noisy, abar = process.add_noise(clean, noise, timesteps), process.alphas_cumprod[timesteps]
    predicted = (noisy - (1 - abar).sqrt()[:, None, None, None] * output[:, :3]) / abar.sqrt()[:, None, None, None]
    expected = abar * perceptual_distance([features(predicted)], [features(clean)])
    torch.testing.assert_close(terms.perceptual, expected.detach())
    without = HybridLoss(**PLAIN)(process, output, process.sample(clean, timesteps, noise=noise)).total
    torch.testing.assert_close(terms.total - without, 0.5 * expected.mean())
    assert torch.autograd.grad(terms.total - without, output)[0][:, :3].abs().max() > 0
    truth = torch.cat([noise, noise], dim=1)
    terms = loss(process, truth, process.sample(clean, timesteps, noise=noise), perceptual_features=lambda x: [features(x)])
    assert terms.perceptual.abs().max() < 1e-12

    seen = []
    noised = torch.tensor([[True, False, False], [True, True, True]])
    timesteps = torch.tensor([[300, 0, 0], [300, 600, 600]])
    terms = loss(
        process,
        output,
        process.sample(clean, timesteps, noised, noise),
        perceptual_features=lambda x: [seen.append(x) or features(x)],
    )
    assert torch.equal(seen[1][0, 1:], clean[0, 1:]) and not torch.equal(seen[1][0, 0], clean[0, 0])
    distance = perceptual_distance([features(seen[1])], [features(clean)]).detach()
    torch.testing.assert_close(terms.perceptual, process.alphas_cumprod[[300, 600]] * distance)


def test_half_precision_output_is_taken_to_float32(process):
    timesteps = torch.tensor([0, 900])
    clean, noise, output = batch(process, timesteps)
    clean, noise, output = clean.float(), noise.float(), output.bfloat16()
    terms = HybridLoss()(process, output, process.sample(clean, timesteps, noise=noise))
    expected = HybridLoss()(process, output.float(), process.sample(clean, timesteps, noise=noise))
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
        ({"loss_space": "flow"}, "loss_space='flow'"),
        ({"loss_space": "sample"}, "loss_space='sample' does not go with prediction_type='epsilon'"),
        ({"prediction_type": "sample", "loss_space": "v_prediction", "min_snr_gamma": 5.0}, "both weight the noise levels"),
        ({"channel_weights": (1.0,), "lesion_region_weight": 10.0}, "lesion_region_weight and radiograph_region_weight to 1"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HybridLoss(**arguments)


def test_bad_calls_are_refused(process):
    timesteps = torch.tensor([0, 900])
    clean, noise, output = batch(process, timesteps)
    with pytest.raises(ValueError, match="5 channels; for samples of 3 channels"):
        HybridLoss()(process, output[:, :5], process.sample(clean, timesteps, noise=noise))
    with pytest.raises(ValueError, match="does not fit samples of 1 channels"):
        HybridLoss()(process, output[:, :2], process.sample(clean[:, :1], timesteps, noise=noise[:, :1]))
    with pytest.raises(ValueError, match="lambda_perceptual=1.0 needs perceptual_features"):
        HybridLoss(lambda_perceptual=1.0)(process, output, process.sample(clean, timesteps, noise=noise))


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
        sample = process.sample(clean, timesteps, noise=noise)
        output = unet(sample.noisy, timesteps).sample
        optimizer.zero_grad()
        loss(process, output, sample).total.backward()
        optimizer.step()
    after = variational_bound(unet, clean, process, torch.Generator().manual_seed(1)).total.mean()
    assert after < 0.5 * before
    output = unet(clean, 20).sample
    assert scheduler.step(output, 20, clean, generator=generator).prev_sample.shape == clean.shape
