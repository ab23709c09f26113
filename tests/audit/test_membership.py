from statistics import NormalDist

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_models import tiny_scheduler, tiny_unet

from diffusers_macdm.audit.membership import denoising_errors, membership_auc


def samples(count):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def auc_of(members, others, member_labels=None, other_labels=None, **arguments):
    labels = [[0] * len(errors) if given is None else given
              for errors, given in ((members, member_labels), (others, other_labels))]  # fmt: skip
    patients = {"member_patients": [None] * len(members), "other_patients": [None] * len(others)}
    return membership_auc(np.asarray(members), np.asarray(others), *labels, **{**patients, "resamples": 50, **arguments})


# --- denoising error


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_errors_are_those_of_a_plain_loop(prediction_type):
    unet, scheduler = tiny_unet(num_class_embeds=3), tiny_scheduler(prediction_type=prediction_type)
    joint, labels, levels = samples(5), [0, 1, -1, 1, 7], (0.1, 0.6)
    given = denoising_errors(unet, scheduler, joint, labels, levels, num_noises=2, seed=3, batch_size=2)
    noises = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    expected = np.zeros((5, 2))
    for i in range(5):
        for j, level in enumerate(levels):
            timestep = int(1000 * level)
            abar = scheduler.alphas_cumprod[timestep]
            for noise in noises[j]:
                noisy = abar.sqrt() * joint[i] + (1 - abar).sqrt() * noise
                known = labels[i] if labels[i] in (0, 1) else 2  # the null label
                with torch.no_grad():
                    output = unet(noisy[None], timestep, class_labels=torch.tensor([known])).sample[0, :3]
                if prediction_type == "v_prediction":
                    output = abar.sqrt() * output + (1 - abar).sqrt() * noisy
                expected[i, j] += ((output - noise) ** 2).mean().item() / 2
    np.testing.assert_allclose(given, expected, rtol=1e-4)


def test_errors_without_class_labels_and_whatever_the_batch():
    unet = tiny_unet(num_class_embeds=None)
    assert unet.null_class_label is None
    errors = [denoising_errors(unet, tiny_scheduler(), samples(5), [0] * 5, (0.5,), 1, batch_size=size) for size in (2, 5)]
    np.testing.assert_allclose(*errors, rtol=1e-5)
    assert errors[0].shape == (5, 1) and len(np.unique(errors[0])) == 5


def test_mode_of_the_network_is_restored():
    for training in (True, False):
        unet = tiny_unet().train(training)
        denoising_errors(unet, tiny_scheduler(), samples(1), [0], (0.5,), 1)
        assert unet.training == training


# --- AUC


def test_auc_is_sklearns():
    generator = np.random.default_rng(0)
    members, others = generator.normal(0, 1, 40).round(1), generator.normal(0.5, 1, 30).round(1)  # with ties
    result = auc_of(members, others)
    truth = [1] * 40 + [0] * 30
    assert result["auc"] == pytest.approx(roc_auc_score(truth, -np.concatenate([members, others])))
    assert (result["members"], result["others"]) == (40, 30)
    assert result["interval"][0] < result["auc"] < result["interval"][1]


def test_auc_is_over_pairs_of_one_label():
    generator = np.random.default_rng(1)
    members, others = generator.random(12), generator.random(15)
    member_labels, other_labels = generator.integers(0, 3, 12).tolist(), generator.integers(0, 2, 15).tolist()
    member_labels[0] = other_labels[0] = None  # unlabeled images are a group as well
    pairs = [
        float(a < b)
        for a, label in zip(members, member_labels, strict=True)
        for b, other in zip(others, other_labels, strict=True)
        if label == other
    ]
    assert auc_of(members, others, member_labels, other_labels)["auc"] == pytest.approx(np.mean(pairs))


def test_another_share_of_lesions_is_no_membership():
    """Cases with a lesion are harder. Members have few, others have many, and no case is known any better."""
    generator = np.random.default_rng(2)
    labels = [generator.random(400) < share for share in (0.2, 0.8)]
    errors = [generator.normal(label, 0.3) for label in labels]
    assert auc_of(*errors)["auc"] > 0.75
    result = auc_of(*errors, *labels)
    assert result["auc"] == pytest.approx(0.5, abs=0.05)
    assert result["interval"][0] < 0.5 < result["interval"][1]


def test_no_common_label():
    assert auc_of([0.1], [0.2], [0], [1]) == {"auc": None, "interval": None, "members": 1, "others": 1}


def test_interval_covers():
    """Two normal distributions a distance d apart: the AUC is Phi(d / sqrt(2))."""
    truth = NormalDist().cdf(0.6 / 2**0.5)
    generator = np.random.default_rng(3)
    covered = []
    for seed in range(40):
        members, others = generator.normal(0, 1, 60), generator.normal(0.6, 1, 60)
        low, high = auc_of(members, others, seed=seed, resamples=100)["interval"]
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.85


def test_films_of_one_patient_count_as_one():
    """Every case four times over, of the same patient: the interval is that of the patients, not of the films."""
    generator = np.random.default_rng(4)
    members, others = generator.normal(0, 1, 25), generator.normal(0.5, 1, 25)
    patients = [f"p{i}" for i in range(25)]

    def width(copies, patients):
        arguments = {"member_patients": patients, "other_patients": patients, "resamples": 400}
        result = auc_of(np.tile(members, copies), np.tile(others, copies), **arguments)
        return result["auc"], np.diff(result["interval"])[0]

    once, tiled, apart = width(1, patients), width(4, patients * 4), width(4, [None] * 100)
    assert once[0] == pytest.approx(tiled[0]) and once[0] == pytest.approx(apart[0])
    assert tiled[1] == pytest.approx(once[1], rel=0.01)
    assert apart[1] < 0.7 * once[1]


def test_auc_follows_from_the_seed():
    members, others = np.random.default_rng(5).random((2, 20))
    assert auc_of(members, others, seed=1) == auc_of(members, others, seed=1) != auc_of(members, others, seed=2)
