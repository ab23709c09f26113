"""Training of the downstream networks: what is drawn how often, what an arm is given, and that they learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from diffusers_macdm.data.augmentation import PairAugmentation
from diffusers_macdm.data.cases import Cases
from diffusers_macdm.evaluation.downstream import (
    Budget,
    Stage,
    stage_steps,
    start_from_base_rates,
    train_classifier,
    train_segmenter,
)
from diffusers_macdm.evaluation.networks import segmenter
from diffusers_macdm.evaluation.predictions import (
    measure_diagnosis,
    measure_segmentation,
    predict_masks,
    predict_probabilities,
    score_of_masks,
    youden_threshold,
)


BUDGET = Budget(steps=30, batch_size=8, learning_rate=3e-3, validate_every=10, width=4)


def squares(count, seed, size=16):
    """A bright square is the anatomy; in every second case a dark spot in it is the lesion."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.full((count, 3, size, size), -1.0)
    labels = torch.arange(count) % 2
    for sample, label in zip(samples, labels.tolist(), strict=True):
        top, left = torch.randint(1, 5, (2,), generator=generator).tolist()
        sample[:2, top : top + 10, left : left + 10] = 0.6
        sample[1] = torch.where(sample[1] > 0, 1.0, -1.0)
        if label:
            y, x = (torch.randint(1, 5, (2,), generator=generator) + torch.tensor([top, left])).tolist()
            sample[0, y : y + 5, x : x + 5] = -1.0
            sample[2, y : y + 5, x : x + 5] = 1.0
        sample[0] += 0.05 * torch.randn(size, size, generator=generator)
    return Cases.of(samples.clamp(-1, 1), labels)


def test_stages_share_the_steps():
    cases = squares(2, 0)
    assert stage_steps([Stage(cases, 0.5), Stage(cases, 0.5)], 7) == [4, 3]
    assert stage_steps([Stage(cases)], 5) == [5]
    with pytest.raises(ValueError, match="add up to 1"):
        stage_steps([Stage(cases, 0.5)], 10)
    with pytest.raises(ValueError, match="too few"):
        stage_steps([Stage(cases, 0.5), Stage(cases, 0.5)], 1)


@pytest.mark.parametrize("seed", range(5))
def test_youden_threshold_is_the_best_of_the_roc_curve(seed):
    generator = np.random.default_rng(seed)
    truth = generator.random(40) < 0.4
    scores = np.round(generator.normal(truth * 1.0), 1)  # with ties
    false_positive, true_positive, _ = roc_curve(truth, scores)
    called = scores >= youden_threshold(truth, scores)
    reached = called[truth].mean() - called[~truth].mean()
    assert reached == pytest.approx((true_positive - false_positive).max())


@pytest.mark.parametrize("stages", [1, 2])
def test_the_same_number_of_steps_and_updates_in_every_arm(stages):
    seen = []
    training = squares(6, 0)
    arms = [Stage(training)] if stages == 1 else [Stage(training, 0.5), Stage(squares(20, 1), 0.5)]
    trained = train_classifier(arms, squares(6, 2), BUDGET, num_classes=2, seed=0, progress=seen.append)
    assert trained.steps == BUDGET.steps and seen == list(range(1, BUDGET.steps + 1))
    # A state from before the last stage is never taken.
    assert trained.best_step in ((10, 20, 30) if stages == 1 else (20, 30))


def test_the_classifier_learns():
    training, validation, test = squares(128, 0), squares(16, 1), squares(32, 2)
    budget = Budget(steps=50, batch_size=16, learning_rate=3e-3, validate_every=25, width=4)
    trained = train_classifier([Stage(training)], validation, budget, num_classes=2, seed=0)
    measured = measure_diagnosis(trained, test)
    assert roc_auc_score(test.class_labels, measured["lesion_probability"]) > 0.75
    assert trained.validation_score == pytest.approx(
        roc_auc_score(validation.class_labels, 1 - predict_probabilities(trained.network, validation)[:, 0])
    )
    assert np.array_equal(measured["called_lesion"], measured["lesion_probability"] >= trained.threshold)


def test_a_seed_gives_the_same_network_whatever_was_drawn_before():
    budget = Budget(steps=5, batch_size=4, validate_every=5, width=4)

    def weights(seed):
        torch.rand(seed + 1)
        trained = train_classifier([Stage(squares(8, 0))], squares(4, 1), budget, num_classes=2, seed=seed)
        return torch.cat([tensor.flatten().double() for tensor in trained.network.state_dict().values()])

    first = weights(0)
    torch.manual_seed(99)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))


def test_the_segmenter_finds_the_masks():
    training, validation, test = squares(32, 0), squares(8, 1), squares(16, 2)
    budget = Budget(steps=80, batch_size=16, learning_rate=5e-3, validate_every=20, width=8)
    trained = train_segmenter([Stage(training)], validation, budget, seed=0)
    measured = measure_segmentation(trained, test)
    lesion = test.has_lesion.numpy()
    assert measured["anatomy_dice"].mean() > 0.9 and measured["lesion_dice"][lesion].mean() > 0.6
    predicted, truth = predict_masks(trained.network, test)[:, 1], test.masks[:, 1].numpy()
    for index in range(len(test)):
        assert np.isnan(measured["lesion_dice"][index]) == (not lesion[index])
        if lesion[index]:
            both = (predicted[index] & truth[index]).sum()
            assert measured["lesion_dice"][index] == pytest.approx(2 * both / (predicted[index].sum() + truth[index].sum()))
            assert np.isnan(measured["lesion_found"][index])
        else:
            assert measured["lesion_found"][index] == predicted[index].any()


def test_augmentation_changes_the_images_but_not_the_order():
    budget = Budget(steps=1, batch_size=8, learning_rate=1e-4, width=4)
    weights = []
    for augmentation in (None, PairAugmentation(probability=0.0), PairAugmentation(probability=1.0)):
        trained = train_segmenter([Stage(squares(8, 0))], None, budget, seed=0, augmentation=augmentation)
        weights.append(torch.cat([parameter.flatten() for parameter in trained.network.parameters()]))
        assert trained.validation_score is None and trained.best_step == 1
    plain, identity, augmented = weights
    # AdamW's first step moves each weight by the learning rate, in the direction that the gradient's sign says.
    assert ((plain - identity).abs() > 1e-5).float().mean() < 0.02 < ((plain - augmented).abs() > 1e-5).float().mean()


def test_bad_input_is_refused():
    cases = squares(4, 0)
    with pytest.raises(ValueError, match="Label 1 is not allowed: there are 1 classes"):
        train_classifier([Stage(cases)], None, BUDGET, num_classes=1, seed=0)
    with pytest.raises(ValueError, match="without cases"):
        train_classifier([Stage(cases.select([]))], None, BUDGET, num_classes=2, seed=0)
    samples = cases.joint_samples.clone()
    samples[:, 1:] = torch.nan
    with pytest.raises(ValueError, match="no masks"):
        train_segmenter([Stage(Cases.of(samples, cases.class_labels))], None, BUDGET, seed=0)
    for name, value in (("steps", 0), ("batch_size", 1), ("learning_rate", 0.0), ("validate_every", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            Budget(**{name: value})


def test_a_segmenter_that_calls_everything_a_lesion_is_not_chosen():
    """By the Dice of the lesion it would be: 0.2 against 0 of one that has learned the anatomy and no lesion yet."""
    truth = np.zeros((2, 2, 6, 6), dtype=bool)
    truth[:, 0, 1:5, 1:5] = True
    truth[0, 1, 2:4, 2:4] = True  # 4 of 36 pixels; the other case is normal
    everything, anatomy_alone, both = np.ones_like(truth), truth.copy(), truth.copy()
    anatomy_alone[:, 1] = False
    found = [score_of_masks(masks, truth) for masks in (everything, anatomy_alone, both)]
    assert [score for score, _ in found] == pytest.approx([8 / 40, 0, 1])
    ranks = [rank for _, rank in found]
    assert ranks[0] == pytest.approx(((8 / 40 + 32 / 52) / 2, 8 / 40)) and ranks[0] < ranks[1] < ranks[2]
    score, rank = score_of_masks(anatomy_alone[1:], truth[1:])  # nothing but a normal case
    assert np.isnan(score) and rank[0] == 1


def test_a_segmenter_starts_from_the_masks_area():
    masks = squares(20, 0).masks
    network = segmenter(16, width=4)
    start_from_base_rates(network, masks)
    bias = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1].bias
    rates = masks.double().mean(dim=(0, 2, 3))
    assert torch.sigmoid(bias).tolist() == pytest.approx(rates.tolist(), rel=1e-5) and 0.02 < rates[1] < 0.1
    with torch.no_grad():  # the bias is that of the logits: without it the network says one half
        shift = network(torch.zeros(1, 1, 16, 16))
        bias.zero_()
        shift = shift - network(torch.zeros(1, 1, 16, 16))
    assert shift.mean(dim=(0, 2, 3)).tolist() == pytest.approx(torch.logit(rates).tolist(), rel=1e-4)
    start_from_base_rates(network, torch.zeros(2, 2, 16, 16, dtype=torch.bool))  # no mask at all
    assert bias.isfinite().all()
