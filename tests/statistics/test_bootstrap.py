"""Intervals: closed forms, and how often they hold the truth in simulated studies."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import stats

from diffusers_macdm.statistics.bootstrap import (
    Estimate,
    difference_of_arms,
    patient_bootstrap,
    two_sample_bootstrap,
    value_of_arm,
)
from diffusers_macdm.statistics.measures import mean_of_defined, roc_auc


def mean_of(values):
    return lambda indices: values[indices].sum() / len(indices)


def zero(_):
    return 0.0


def rate(low, high, num):
    """Bounds on a simulated rate: 2.5 standard errors around the range of the true one."""
    error = lambda p: 2.5 * np.sqrt(p * (1 - p) / num)  # noqa: E731
    return low - error(low), min(high + error(high), 1.0)


# ------------------------------------------------------------------------------------------------------ closed forms


def test_mean_of_single_cases_is_students_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 25)
    estimate = patient_bootstrap(mean_of(values), range(25), num_resamples=6000)
    expected = stats.t.interval(0.95, 24, values.mean(), stats.sem(values))
    assert estimate.value == pytest.approx(values.mean()) and estimate.num_patients == 25
    assert estimate.interval == pytest.approx(expected, abs=0.12 * stats.sem(values))


def test_patients_are_drawn_whole():
    ids = ["b", "a", "b", "c", "a", "b", None, None]  # an unknown patient is nobody else
    seen = []
    estimate = patient_bootstrap(lambda indices: seen.append(np.bincount(indices, minlength=8)) or len(seen), ids, 50)
    counts = np.array(seen[1:])  # [resamples, cases]
    assert estimate.num_patients == 5 and (seen[0] == 1).all()
    for patient in "abc":
        of_patient = counts[:, [case for case, name in enumerate(ids) if name == patient]]
        assert (of_patient == of_patient[:, :1]).all()
    assert (counts[:, 6] != counts[:, 7]).any()
    assert (counts[:, [0, 1, 3, 6, 7]].sum(axis=1) == 5).all() and len(np.unique(counts, axis=0)) > 5
    assert patient_bootstrap(mean_of(np.arange(3.0)), [float("nan")] * 3, 50).num_patients == 3


def test_undefined_resamples_are_left_out_and_counted():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    estimate = patient_bootstrap(lambda i: values[i].mean() if 3 in i else np.nan, range(5), 4000)
    assert estimate.num_undefined / 4000 == pytest.approx(0.8**5, abs=0.04) and estimate.interval is not None
    seldom = patient_bootstrap(lambda i: values[i].mean() if len(set(i)) == 5 else np.nan, range(5), 400)
    assert seldom.value == 3 and seldom.interval is None and seldom.num_undefined > 200


def test_where_there_is_no_interval():
    values = np.array([0.5, 0.7])
    assert patient_bootstrap(mean_of(values), ["a", "a"]) == Estimate(0.6, None, 1)
    assert patient_bootstrap(mean_of(np.arange(4.0)), range(4)).interval is None  # fewer than five patients
    assert patient_bootstrap(mean_of(np.arange(9.0)), range(9), rests_on=[np.arange(9) < 4]).interval is None
    assert patient_bootstrap(lambda _: np.nan, ["a", "b"]).to_dict() == {
        "value": None,
        "interval": None,
        "num_patients": 2,
        "num_undefined": 0,
    }
    assert patient_bootstrap(mean_of(np.ones(9)), range(9), 100) == Estimate(1.0, None, 9)
    assert value_of_arm([mean_of(values)], ["a", "b"], 100) == Estimate(0.6, None, 2, 0, (0.6,))
    perfect = value_of_arm([mean_of(np.ones(9))] * 3, range(9), 100)
    assert perfect.value == 1 and perfect.interval is None
    undefined = value_of_arm([mean_of(values), lambda _: np.nan], ["a", "b"], 100).to_dict()
    assert undefined["value"] is None and undefined["per_seed"] == [0.6, None] and undefined["seed_sd"] is None


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(1).random(12)
    first, again, other = (patient_bootstrap(mean_of(values), range(12), 200, seed=seed) for seed in (3, 3, 4))
    assert first == again and first.interval != other.interval


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patient_ids": []}, "no case"),
        ({"num_resamples": 0}, "num_resamples=0"),
        ({"level": 95}, "level=95"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        patient_bootstrap(**{"statistic": mean_of(np.zeros(2)), "patient_ids": ["a", "b"], **arguments})


def test_bad_seeds():
    statistic = mean_of(np.zeros(2))
    with pytest.raises(ValueError, match="2 and 1 seeds"):
        difference_of_arms([statistic] * 2, [statistic], ["a", "b"])
    with pytest.raises(ValueError, match="no seed"):
        value_of_arm([], ["a", "b"])


def test_runs_that_are_alike_leave_the_patients_alone():
    values = np.random.default_rng(2).normal(0.0, 1.0, 30)
    estimate = difference_of_arms([mean_of(values)] * 3, [zero] * 3, range(30), 6000)
    assert estimate.per_seed == pytest.approx([values.mean()] * 3) and estimate.to_dict()["seed_sd"] == pytest.approx(
        0, abs=1e-12
    )
    assert estimate.interval == pytest.approx(stats.t.interval(0.95, 29, values.mean(), stats.sem(values)), abs=0.02)


def test_runs_that_fail_on_other_patients_each():
    """Three runs of the same mean, each wrong about one patient of its own: only the interaction varies, and it counts."""
    runs = [mean_of(np.arange(40) == patient) for patient in range(3)]
    estimate = difference_of_arms(runs, [zero] * 3, range(40), 4000)
    of_patients = (np.arange(40)[:, None] == np.arange(3)).mean(axis=1)  # [40]
    margin = stats.t.ppf(0.975, 39) * stats.sem(of_patients)
    assert estimate.value == pytest.approx(0.025)
    assert estimate.interval == pytest.approx((0.025 - margin, 0.025 + margin), abs=0.05 * margin)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda ids: list(torch.tensor(ids))])
def test_patient_ids_of_any_kind(kind):
    values = np.random.default_rng(0).normal(0, 1, 20)
    ids = [index // 2 for index in range(20)]
    expected = patient_bootstrap(mean_of(values), ids, 100)
    assert expected.num_patients == 10 and patient_bootstrap(mean_of(values), kind(ids), 100) == expected
    with pytest.raises(ValueError, match="patient_ids hold .1.: a text or a number"):
        patient_bootstrap(mean_of(values), [[1]] * 20, 100)


def test_patients_that_are_alike_leave_the_runs_alone():
    runs = np.array([0.2, 0.5, 0.3, 0.8])
    estimate = value_of_arm([mean_of(np.full(50, run)) for run in runs], range(50), 100, bounds=(-1, 2))
    assert estimate.interval == pytest.approx(stats.t.interval(0.95, 3, runs.mean(), stats.sem(runs)))
    assert estimate.to_dict()["seed_sd"] == pytest.approx(runs.std(ddof=1))
    clipped = value_of_arm([mean_of(np.full(50, run)) for run in runs], range(50), 100, bounds=(0.3, 0.5))
    assert clipped.interval == (0.3, 0.5)


@pytest.mark.parametrize("of_runs, of_patients", [(0.5, 1.0), (0.1, 0.0)])
def test_variance_is_that_of_a_two_way_analysis(of_runs, of_patients):
    """Crossed effects of runs and patients: the parts of the variance are the mean squares of the table."""
    n, patients = 4, 25
    generator = np.random.default_rng(5)
    table = generator.normal(0, of_runs, (n, 1)) + generator.normal(0, of_patients, (1, patients))
    table = table + generator.normal(0, 1, (n, patients))
    of_run, of_patient, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    rest = ((table - of_run[:, None] - of_patient + mean) ** 2).sum() / ((n - 1) * (patients - 1))
    runs_part = of_run.var(ddof=1) / n
    patients_part = max(0, of_patient.var(ddof=1) / patients - rest / (n * patients))
    weights = [runs_part, patients_part]
    t_of_both = np.average([stats.t.ppf(0.975, n - 1), stats.t.ppf(0.975, patients - 1)], weights=weights)
    margin = max(t_of_both * np.sqrt(sum(weights)), stats.t.ppf(0.975, patients - 1) * stats.sem(of_patient))
    estimate = value_of_arm([mean_of(row) for row in table], range(patients), 6000, bounds=(-9, 9))
    assert estimate.interval == pytest.approx((mean - margin, mean + margin), abs=0.05 * margin)


# -------------------------------------------------------------------------------------------------------- simulation


def clustered_study(generator, num_patients=40):
    """Cases of a patient resemble each other; patients have 1 to 6 of them, whatever their values."""
    sizes = generator.integers(1, 7, num_patients)
    ids = np.repeat(np.arange(num_patients), sizes)
    return generator.normal(0, 1, num_patients)[ids] + generator.normal(0, 0.5, len(ids)), ids


def test_coverage_where_cases_are_clustered():
    """The interval over patients holds the true mean at its nominal rate; one over cases would be far too short."""
    num = 250
    held = {"patients": 0, "cases": 0}
    for study in range(num):
        values, ids = clustered_study(np.random.default_rng(study))
        for unit, units in (("patients", ids.tolist()), ("cases", range(len(ids)))):
            low, high = patient_bootstrap(mean_of(values), units, 150).interval
            held[unit] += low <= 0 <= high
    low, high = rate(0.94, 0.96, num)
    assert low <= held["patients"] / num <= high
    assert held["cases"] / num < 0.85


def test_coverage_of_the_auc():
    """Binormal scores, whose true AUC is Phi(d / sqrt 2); every patient has two cases of the same score but for noise."""
    num, separation, noise = 250, 1.2, 0.5
    truth = NormalDist().cdf(separation / np.sqrt(2 * (1 + noise**2)))
    references = np.repeat([0] * 35 + [1] * 25, 2)
    ids = np.repeat(np.arange(60), 2).tolist()
    held = 0
    for study in range(num):
        generator = np.random.default_rng(study)
        scores = np.repeat(generator.normal(0, 1, 60), 2) + generator.normal(0, noise, 120) + separation * references
        low, high = patient_bootstrap(lambda i, s=scores: roc_auc(s[i], references[i]), ids, 150).interval
        held += low <= truth <= high
    low, high = rate(0.93, 0.96, num)
    assert low <= held / num <= high


def test_coverage_where_few_patients_have_a_value():
    """Five of 100 patients have a lesion: counted as 100, their mean's interval misses the truth in one study of eight."""
    num, defined = 250, np.arange(100) < 5
    held = {"those with a value": 0, "all": 0}
    for study in range(num):
        values = np.where(defined, np.random.default_rng(study).normal(0, 1, 100), np.nan)
        for counted, rests_on in (("those with a value", [defined]), ("all", None)):
            low, high = patient_bootstrap(
                lambda i, v=values: mean_of_defined(v[i]), range(100), 200, rests_on=rests_on
            ).interval
            held[counted] += low <= 0 <= high
    low, high = rate(0.93, 0.97, num)
    assert low <= held["those with a value"] / num <= high
    assert held["all"] / num < 0.90


def test_the_smallest_group_is_counted():
    """Three runs that are alike, so that the margin is t SE of the patients: 6 with a lesion, 30 without."""
    generator = np.random.default_rng(3)
    lesion = np.arange(36) < 6
    scores = generator.normal(0, 1, 36) + lesion
    statistics = [lambda i: roc_auc(scores[i], lesion[i])] * 3
    every, smallest = (
        value_of_arm(statistics, range(36), 500, bounds=(-9, 9), rests_on=groups) for groups in (None, [lesion, ~lesion])
    )
    widths = [np.diff(estimate.interval)[0] for estimate in (every, smallest)]
    factor = stats.t.ppf(0.975, 5) * np.sqrt(6 / 5) / (stats.t.ppf(0.975, 35) * np.sqrt(36 / 35))
    assert widths[1] / widths[0] == pytest.approx(factor) and smallest.num_patients == 36


@pytest.mark.parametrize(
    "num_seeds, of_runs, of_patients, interaction",
    [(3, 0.0, 1.0, 0.0), (3, 0.0, 0.3, 1.0), (3, 0.15, 0.3, 1.0), (3, 0.5, 1.0, 0.3), (5, 0.2, 1.0, 1.0)],
)
def test_false_positives_of_a_difference(num_seeds, of_runs, of_patients, interaction):
    """No true difference, and chance in runs, patients and their interaction: no more than 5 % of the intervals miss zero."""
    num, num_patients = 250, 40
    missed = patients_alone = 0
    for study in range(num):
        generator = np.random.default_rng(study)
        table = generator.normal(0, of_runs, (num_seeds, 1)) + generator.normal(0, of_patients, (1, num_patients))
        table = table + generator.normal(0, interaction, (num_seeds, num_patients))
        estimate = difference_of_arms([mean_of(row) for row in table], [zero] * num_seeds, range(num_patients), 100)
        missed += not estimate.interval[0] <= 0 <= estimate.interval[1]
        over_patients = table.mean(axis=0)
        patients_alone += stats.ttest_1samp(over_patients, 0).pvalue < 0.05
    assert 0 < missed / num <= rate(0.0, 0.05, num)[1]
    if of_runs >= 0.5:  # what leaving out the trainings' chance would do
        assert patients_alone / num > 0.12


def test_a_true_difference_is_found():
    """A difference of 4.6 standard errors is seen in nearly all studies, with three runs each."""
    found = 0
    for study in range(60):
        generator = np.random.default_rng(study)
        table = 0.5 + generator.normal(0, 0.05, (3, 1)) + generator.normal(0, 0.7, (1, 60)) + generator.normal(0, 0.7, (3, 60))
        estimate = difference_of_arms([mean_of(row) for row in table], [zero] * 3, range(60), 120)
        found += estimate.interval[0] > 0
    assert found >= 50


def test_two_samples_are_drawn_apart_and_patients_whole():
    """The difference of two means: variances add, each of them over patients."""
    generator = np.random.default_rng(5)
    one, other = generator.normal(1.0, 1.0, 40), generator.normal(0.0, 2.0, 60)
    values = np.concatenate([one, other])

    def difference(cases):
        return values[cases[cases < 40]].mean() - values[cases[cases >= 40]].mean()

    low, high = two_sample_bootstrap(difference, [range(40), range(60)], num_resamples=3000, seed=1)
    error = np.sqrt(one.var() / 40 + other.var() / 60)
    assert (low + high) / 2 == pytest.approx(one.mean() - other.mean(), abs=0.1 * error)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.06)
    pairs = [np.repeat(range(20), 2), range(60)]  # patients of the first sample have two cases each
    sizes = set()
    two_sample_bootstrap(lambda cases: sizes.add((int((cases < 40).sum()), len(cases))) or 0.0, pairs, num_resamples=20)
    assert sizes == {(40, 100)}
    assert two_sample_bootstrap(lambda cases: np.nan, pairs, num_resamples=5) is None
    with pytest.raises(ValueError, match="no case"):
        two_sample_bootstrap(difference, [range(40), []])
