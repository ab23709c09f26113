"""From what was predicted to the sentence on top: endpoints against scikit-learn, and the rule for each verdict."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from diffusers_macdm.evaluation.arms import CONTROLS
from diffusers_macdm.evaluation.endpoints import AT_CHANCE, ENDPOINTS, PRIMARY, Measurements, TestSet, conclude, verdict
from diffusers_macdm.evaluation.networks import DIAGNOSIS, SEGMENTATION


ARM = "real_plus_synthetic_1"


def diagnosis_columns(lesion, distance, seed):
    """Binormal scores, called a lesion from 0.5 on."""
    scores = 1 / (1 + np.exp(-np.random.default_rng(seed).normal(distance * (lesion - 0.5))))
    return {"lesion_probability": scores, "called_lesion": (scores >= 0.5).astype(float)}


def cases(count, folds=1):
    lesion = np.arange(count) % 3 == 0
    names = np.array([f"fold-{index % folds}" for index in range(count)])
    return TestSet(tuple(f"p{index // 2}" for index in range(count)), lesion, names)


def measured(distances, seeds=3, count=400):
    """Measurements and their rows of arms whose scores stand this far apart."""
    test = cases(count)
    columns = {
        arm: [diagnosis_columns(test.has_lesion, distance, [number, seed]) for seed in range(seeds)]
        for number, (arm, distance) in enumerate(distances.items())
    }
    measurements = Measurements(test, {DIAGNOSIS: columns}, num_resamples=300)
    results = [measurements.result(PRIMARY[DIAGNOSIS], arm) for arm in distances]
    differences = [
        measurements.difference(PRIMARY[DIAGNOSIS], ARM, control)
        for control in CONTROLS
        if control in distances and ARM in distances
    ]
    return measurements, results, differences


def test_endpoints_of_the_diagnosis_are_those_of_scikit_learn():
    measurements, _, _ = measured({"real_only": 1.0})
    lesion = measurements.test.has_lesion
    expected = {"roc_auc": [], "accuracy": [], "balanced_accuracy": [], "sensitivity": [], "specificity": []}
    for seed in range(3):
        columns = diagnosis_columns(lesion, 1.0, [0, seed])
        called = columns["called_lesion"]
        expected["roc_auc"].append(roc_auc_score(lesion, columns["lesion_probability"]))
        expected["accuracy"].append(accuracy_score(lesion, called))
        expected["balanced_accuracy"].append(balanced_accuracy_score(lesion, called))
        expected["sensitivity"].append(recall_score(lesion, called))
        expected["specificity"].append(recall_score(~lesion, 1 - called))
    for endpoint in ENDPOINTS:
        if endpoint.task == DIAGNOSIS:
            found = measurements.value(endpoint, "real_only")
            assert found.per_seed == pytest.approx(expected[endpoint.metric])
            assert found.value == pytest.approx(np.mean(expected[endpoint.metric]))
            assert found.interval[0] < found.value < found.interval[1] and found.num_patients == 200


def test_scores_of_two_folds_are_not_compared():
    """The second fold's network gives higher numbers to all: pooled over all pairs, a perfect order looks like chance."""
    lesion = np.array([False, True, False, True])
    test = TestSet(("a", "b", "c", "d"), lesion, np.array(["fold-0", "fold-0", "fold-1", "fold-1"]))
    columns = {"lesion_probability": np.array([0.1, 0.2, 0.8, 0.9]), "called_lesion": np.zeros(4)}
    found = Measurements(test, {DIAGNOSIS: {"real_only": [columns]}}, 10).value(PRIMARY[DIAGNOSIS], "real_only")
    assert found.value == 1 and roc_auc_score(lesion, columns["lesion_probability"]) == 0.75


def test_endpoints_of_the_segmentation_are_means_over_the_cases_that_have_them():
    test = TestSet(("a", "b", "c"), np.array([True, True, False]), np.full(3, "split"))
    columns = {
        "lesion_dice": np.array([0.5, 0.0, np.nan]),
        "lesion_hausdorff95": np.array([3.0, np.nan, np.nan]),
        "lesion_found": np.array([np.nan, np.nan, 1.0]),
        "anatomy_dice": np.array([0.9, 0.8, 0.7]),
    }
    measurements = Measurements(test, {SEGMENTATION: {"real_only": [columns]}}, 10)
    found = {e.metric: measurements.value(e, "real_only").value for e in ENDPOINTS if e.task == SEGMENTATION}
    assert found == pytest.approx({"dice": 0.25, "hausdorff95": 3.0, "false_lesion_rate": 1.0, "anatomy_dice": 0.8})


@pytest.mark.parametrize(
    "interval, higher_is_better, expected",
    [
        ((0.01, 0.2), True, "better"),
        ((0.01, 0.2), False, "worse"),
        ((-0.2, -0.01), True, "worse"),
        ((-0.2, -0.01), False, "better"),
        ((-0.01, 0.2), True, "no evidence"),
        ((0.0, 0.2), True, "no evidence"),
        (None, True, "no evidence"),
    ],
)
def test_verdict_of_an_interval(interval, higher_is_better, expected):
    assert verdict(interval, higher_is_better) == expected


@pytest.mark.parametrize(
    "distance_of_arm, distance_of_best_control, expected",
    [
        (4.0, 1.0, "helps"),
        (0.0, 3.0, "hurts"),
        (1.0, 1.0, "no evidence"),
        (4.0, 4.0, "no evidence"),  # better than two controls, but not than the third
    ],
)
def test_conclusion(distance_of_arm, distance_of_best_control, expected):
    others = 3.0 if expected == "hurts" else 1.0
    arms = {"real_only": others, "duplicated_real": others, "classical_augmentation": distance_of_best_control}
    _, results, differences = measured({**arms, ARM: distance_of_arm})
    found = conclude(DIAGNOSIS, ARM, "Ratio 1", results, differences)
    assert found["verdict"] == expected and found["arm"] == ARM
    words = {"helps": "synthetic pairs help:", "hurts": "synthetic pairs hurt:", "no evidence": "no evidence that"}[expected]
    values = {row["arm"]: row["value"] for row in results}
    best = max(CONTROLS, key=values.get)
    assert words in found["sentence"]
    assert f"{values[ARM]:.3f}" in found["sentence"] and f"{best.replace('_', ' ')}) {values[best]:.3f}" in found["sentence"]
    assert f"difference {values[ARM] - values[best]:+.3f}" in found["sentence"]
    assert found["controls_at_chance"] is False and AT_CHANCE not in found["sentence"]


@pytest.mark.parametrize("distance_of_arm, verdict_of_it", [(0.0, "no evidence"), (4.0, "helps")])
def test_controls_that_guess_are_said(distance_of_arm, verdict_of_it):
    """Where the controls are at chance a null result says nothing; a benefit is one nonetheless."""
    _, results, differences = measured({**dict.fromkeys(CONTROLS, 0.0), ARM: distance_of_arm})
    found = conclude(DIAGNOSIS, ARM, "Ratio 1", results, differences)
    assert found["verdict"] == verdict_of_it and found["controls_at_chance"] is True
    assert found["sentence"].endswith(AT_CHANCE) == (verdict_of_it == "no evidence")


def test_no_claim_without_three_seeds_or_without_a_control():
    arms = {"real_only": 0.5, "duplicated_real": 0.5, "classical_augmentation": 0.5, ARM: 4.0}
    _, results, differences = measured(arms, seeds=2)
    found = conclude(DIAGNOSIS, ARM, "Ratio 1", results, differences)
    assert found["verdict"] == "no claim" and "3 seeds are needed and there are 2" in found["sentence"]
    arms.pop("duplicated_real")
    _, results, differences = measured(arms)
    found = conclude(DIAGNOSIS, ARM, "Ratio 1", results, differences)
    assert found["verdict"] == "no claim" and "duplicated_real missing" in found["sentence"]
    found = conclude(DIAGNOSIS, None, "", results, differences)
    assert found["verdict"] == "no claim" and "no arm of real and synthetic cases" in found["sentence"]


def test_few_patients_are_said():
    three = TestSet(("a", "b", "b"), np.array([False, False, False]), np.full(3, "split"))
    assert "There is no test patient with a lesion" in three.few_patients()
    three = TestSet(("a", "b", "c"), np.array([False, True, False]), np.full(3, "split"))
    assert "There is only 1 test patient with a lesion" in three.few_patients()
    assert "only 17 test patients with a lesion" in cases(50).few_patients()
    assert cases(400).few_patients() is None
