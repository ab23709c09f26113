"""The arms: how many cases each has, of which labels, and which are left out."""

import numpy as np
import pytest
import torch

from diffusers_macdm.data.cases import Cases
from diffusers_macdm.evaluation.arms import CONTROLS, build_arms, draw_pairs, stages_of, why_not


def cases(labels, value):
    samples = torch.full((len(labels), 3, 4, 4), float(value))
    samples[:, 0, 0, 0] = torch.linspace(-0.1, 0.1, len(labels))
    return Cases.of(samples, labels)


REAL, SYNTHETIC = cases([0] * 6 + [1] * 2, 0.5), cases([0] * 12 + [1] * 12, -0.5)


@pytest.mark.parametrize(
    "name, expected",
    [  # (share, real cases, synthetic pairs) of each stage
        ("real_only", [(1, 8, 0)]),
        ("classical_augmentation", [(1, 8, 0)]),
        ("duplicated_real", [(1, 16, 0)]),
        ("real_plus_synthetic_0.25", [(1, 8, 2)]),
        ("real_plus_synthetic_1", [(1, 8, 8)]),
        ("real_plus_synthetic_2", [(1, 8, 16)]),
        ("real_plus_synthetic_1_augmented", [(1, 8, 8)]),
        ("synthetic_pretraining", [(0.5, 0, 24), (0.5, 8, 0)]),
        ("synthetic_only", [(1, 0, 24)]),
    ],
)
def test_what_an_arm_is_trained_with(name, expected):
    arm = build_arms()[name]
    stages = stages_of(arm, REAL, SYNTHETIC, seed=0)
    is_real = [stage.cases.joint_samples[:, 1, 0, 0] > 0 for stage in stages]
    found = [(stage.share, int(real.sum()), int((~real).sum())) for stage, real in zip(stages, is_real, strict=True)]
    assert found == expected
    assert arm.augmented == (name in ("classical_augmentation", "real_plus_synthetic_1_augmented"))
    assert arm.uses_synthetic == (name not in CONTROLS)


def test_duplicated_real_has_each_case_twice():
    (stage,) = stages_of(build_arms()["duplicated_real"], REAL, SYNTHETIC, seed=0)
    assert torch.equal(stage.cases.joint_samples, REAL.joint_samples.repeat(2, 1, 1, 1))


def test_what_the_set_cannot_do_is_left_out_with_a_reason():
    arms = build_arms()
    assert why_not(arms["real_plus_synthetic_2"], REAL, SYNTHETIC) is None
    reason = "real_plus_synthetic_5 was left out: it needs 40 synthetic pairs and the set has 24."
    assert why_not(arms["real_plus_synthetic_5"], REAL, SYNTHETIC) == reason
    with pytest.raises(ValueError, match="needs 40"):
        stages_of(arms["real_plus_synthetic_5"], REAL, SYNTHETIC, 0)
    lesions = SYNTHETIC.select(range(12, 24))
    assert "no pair of label 0" in why_not(arms["synthetic_only"], REAL, lesions)
    assert "no pair of label 0" in why_not(arms["synthetic_pretraining"], REAL, lesions)
    assert why_not(arms["real_plus_synthetic_1"], REAL, lesions) is None


def test_a_filtered_arm_takes_what_is_left():
    arms = build_arms(filters=["classifier"])
    (stage,) = stages_of(arms["real_plus_synthetic_1_filter_classifier"], REAL, SYNTHETIC.select(range(5)), 0)
    assert len(stage.cases) == 8 + 5
    assert "no synthetic pair" in why_not(arms["real_plus_synthetic_1_filter_classifier"], REAL, SYNTHETIC.select([]))


def test_draws_are_nested_and_in_the_proportions_of_the_set():
    labels = np.array([0] * 30 + [1] * 10 + [2] * 5)
    draws = {count: draw_pairs(labels, count, seed=3) for count in (9, 18, 27, 45)}
    for count, chosen in draws.items():
        assert len(chosen) == len(set(chosen.tolist())) == count
        counts = np.bincount(labels[chosen], minlength=3)
        assert (np.abs(counts - count * np.array([30, 10, 5]) / 45) <= 1).all()
    assert set(draws[9]) < set(draws[18]) < set(draws[27])
    assert set(draw_pairs(labels, 9, seed=4)) != set(draws[9])


def test_ratios():
    assert list(build_arms([2, 0.5, 2]))[3:5] == ["real_plus_synthetic_0.5", "real_plus_synthetic_2"]
    with pytest.raises(ValueError, match="ratio 0 is not allowed"):
        build_arms([0])
