"""Guidance as pure functions: against gradients known in closed form."""

import pytest
import torch

from diffusers_macdm.macdm.guidance import (
    autoguided_noise,
    classifier_free_guided_noise,
    classifier_gradient,
    classifier_guided_noise,
    in_guidance_interval,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_classifier(sample, weight):
    """Logits linear in the sample: `grad log p(y | x) = W_y - sum_k p_k W_k`."""
    return sample.flatten(1) @ weight.T.to(sample.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_classifier_gradient_of_a_linear_classifier(dtype):
    sample, weight = normal(4, 3, 2, 2).to(dtype), normal(5, 12, seed=1)
    labels = torch.tensor([0, 4, 2, 2])
    gradient = classifier_gradient(linear_classifier, sample, labels, weight=weight)
    probabilities = (sample.float().flatten(1) @ weight.T).softmax(dim=1)
    expected = (weight[labels] - probabilities @ weight).reshape(sample.shape)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_classifier_gradient_of_a_sample_does_not_depend_on_the_batch():
    sample, weight, labels = normal(3, 3, 2, 2), normal(2, 12, seed=1), torch.tensor([0, 1, 1])
    together = classifier_gradient(linear_classifier, sample, labels, weight=weight)
    for i in range(3):
        alone = classifier_gradient(linear_classifier, sample[i : i + 1], labels[i : i + 1], weight=weight)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("outside", [2, 7, -1])
def test_label_outside_the_classes_has_no_gradient(outside):
    """The null label, and `ignore_index`-like negative ones."""
    sample, weight = normal(2, 3, 2, 2), normal(2, 12, seed=1)
    gradient = classifier_gradient(linear_classifier, sample, torch.tensor([1, outside]), weight=weight)
    assert gradient[0].abs().sum() > 0
    assert (gradient[1] == 0).all()


def test_classifier_gradient_leaves_no_trace():
    """It works under `no_grad`, keeps its input detached and writes no gradient into the classifier."""
    weight = normal(2, 12, seed=1).requires_grad_()
    sample = normal(2, 3, 2, 2)
    with torch.no_grad():
        gradient = classifier_gradient(linear_classifier, sample, torch.tensor([0, 1]), weight=weight)
    assert not gradient.requires_grad and not sample.requires_grad
    assert weight.grad is None and sample.grad is None


def test_classifier_guided_noise_is_the_equation():
    noise, gradient = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1)
    expected = noise - 0.6 * 2.5 * gradient  # 1 - abar = 0.36
    torch.testing.assert_close(classifier_guided_noise(noise, gradient, 0.64, 2.5), expected)
    assert torch.equal(classifier_guided_noise(noise, gradient, 0.64, 0), noise)


def test_classifier_guided_noise_takes_one_level_per_channel():
    noise, gradient = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1)
    abar = torch.tensor([0.64, 1.0, 0.0])[:, None, None]
    guided = classifier_guided_noise(noise, gradient, abar, 2.0)
    torch.testing.assert_close(guided[:, 0], noise[:, 0] - 1.2 * gradient[:, 0])
    assert torch.equal(guided[:, 1], noise[:, 1])  # a channel that is given clean is not moved
    torch.testing.assert_close(guided[:, 2], noise[:, 2] - 2 * gradient[:, 2])


def test_guided_noise_is_the_score_of_the_tilted_density():
    """For `p(x) = N(0, 1)` and `p(y | x) ~ exp(a x)`, `p(x) p(y | x)^g` is `N(g a, 1)`: its noise prediction at every
    level is `sqrt(1 - abar) (x - sqrt(abar) g a)`."""
    a, scale, abar = 1.5, 2.0, 0.3
    x = normal(8, 1, 2, 2)
    noise = (1 - abar) ** 0.5 * x
    gradient = torch.full_like(x, a * abar**0.5)  # E[exp(a x_0) | x_t] ~ exp(a sqrt(abar) x_t)
    guided = classifier_guided_noise(noise, gradient, abar, scale)
    torch.testing.assert_close(guided, (1 - abar) ** 0.5 * (x - abar**0.5 * scale * a))


@pytest.mark.parametrize("guide", [classifier_free_guided_noise, autoguided_noise])
def test_extrapolations(guide):
    better, worse = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1)
    torch.testing.assert_close(guide(better, worse, 1.0), better)
    torch.testing.assert_close(guide(better, worse, 0.0), worse)
    torch.testing.assert_close(guide(better, worse, 3.0), 3 * better - 2 * worse, rtol=1e-5, atol=1e-5)


def test_everything_is_float32():
    half = normal(2, 3, 2, 2).half()
    assert classifier_guided_noise(half, half, 0.5, 1.0).dtype == torch.float32
    assert classifier_free_guided_noise(half, half, 2.0).dtype == torch.float32
    assert autoguided_noise(half, half, 2.0).dtype == torch.float32


def test_guidance_interval():
    assert all(in_guidance_interval(t, 1000, (0.0, 1.0)) for t in (0, 0.5, 999))
    acts = [t for t in range(1000) if in_guidance_interval(t, 1000, (0.25, 0.75))]
    assert acts == list(range(250, 750))  # 249.75 <= t <= 749.25
