"""DiffAugment: differentiable, geometry alike on all channels, intensities on the radiograph alone; the projection term."""

import torch
from toy_cases import SIZE, toy_cases

from diffusers_macdm.comparison.models.conditional_gan import (
    LATENT_DIM,
    ConditionalGAN,
    Discriminator,
    Generator,
    cutout,
    diff_augment,
    resolutions,
    translate,
)
from diffusers_macdm.comparison.settings import TrainingBudget


BUDGET = TrainingBudget(block_out_channels=(8, 16), layers_per_block=1)


def test_it_is_differentiable_and_acts_alike_on_all_channels():
    torch.manual_seed(0)
    one = torch.randn(6, 1, 16, 16)
    same = one.expand(-1, 3, -1, -1).clone().requires_grad_(True)
    moved = cutout(translate(same, 4), 8)
    assert torch.equal(moved[:, 0], moved[:, 1]) and torch.equal(moved[:, 0], moved[:, 2])
    moved.sum().backward()
    # Each pixel that is still there counts once, each that was moved or cut out not at all.
    assert set(same.grad.unique().tolist()) == {0.0, 1.0}
    samples = torch.randn(4, 3, 16, 16, requires_grad=True)
    diff_augment(samples).square().sum().backward()
    assert samples.grad.isfinite().all() and (samples.grad[:, 0] != 0).any() and (samples.grad[:, 2] != 0).any()


def test_translation_moves_whole_pixels_and_fills_with_background():
    torch.manual_seed(1)
    samples = torch.full((64, 3, 9, 9), -1.0)
    samples[:, :, 4, 4] = 1
    moved = translate(samples, 2)
    places = (moved[:, 0] == 1).nonzero()  # [64, 3]
    assert len(places) == 64 and ((moved == 1) | (moved == -1)).all()
    offsets = {tuple(place) for place in (places[:, 1:] - 4).tolist()}
    assert {row for row, _ in offsets} == {column for _, column in offsets} == {-2, -1, 0, 1, 2}


def test_cutout_takes_a_square_of_half_of_the_side():
    torch.manual_seed(2)
    cut = cutout(torch.ones(200, 3, 16, 16), 8) == 0
    assert torch.equal(cut[:, 0], cut[:, 2])
    sides = cut[:, 0].any(dim=1).sum(dim=1)
    assert sides.max() == 8 and (cut[:, 0].sum(dim=(1, 2)) == sides * cut[:, 0].any(dim=2).sum(dim=1)).all()


def test_masks_keep_their_values_under_intensities():
    torch.manual_seed(3)
    samples = toy_cases().joint_samples
    augmented = diff_augment(samples)
    assert set(augmented[:, 1:].unique().tolist()) <= {-1.0, 0.0, 1.0}  # 0 is what was cut out
    assert not torch.allclose(augmented[:, 0], samples[:, 0])


def test_the_networks_fit_any_side():
    for size, first in ((16, 4), (24, 6), (20, 5), (15, 15)):
        channels = resolutions(size, BUDGET)
        generator, discriminator = Generator(size, 3, BUDGET), Discriminator(size, 3, BUDGET)
        assert generator.first_size == first and size == first * 2 ** (len(channels) - 1)
        labels = torch.tensor([0, 2])
        made = generator(torch.randn(2, LATENT_DIM), labels)
        assert made.shape == (2, 3, size, size)
        assert discriminator(made, labels).shape == (2,)


def test_the_projection_is_the_only_term_with_the_class():
    """Scores of two classes differ by the inner product of the features with the difference of their embeddings."""
    torch.manual_seed(0)
    discriminator = Discriminator(SIZE, 2, BUDGET).eval()
    samples = toy_cases().joint_samples[:4]
    features = []
    discriminator.score.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    zeros, ones = (discriminator(samples, torch.full((4,), label)) for label in (0, 1))
    embedding = discriminator.class_embedding.weight
    torch.testing.assert_close(ones - zeros, features[0] @ (embedding[1] - embedding[0]))


def test_the_gan_has_a_learning_rate_of_its_own():
    """That of the diffusion models is not read; another one of its own gives another network."""

    def fitted(**rates):
        model = ConditionalGAN()
        model.fit(toy_cases(2), TrainingBudget(2, 4, block_out_channels=(8,), num_warmup_steps=0, **rates), seed=0)
        return torch.cat([parameter.flatten() for parameter in model.generator.parameters()])

    usual = fitted()
    assert torch.equal(usual, fitted(learning_rate=1.0)) and not torch.equal(usual, fitted(gan_learning_rate=1e-3))
