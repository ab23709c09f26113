"""Realism on cases with a known answer: Gaussians, whose KID, coverage and AUC are known or easily counted."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torchmetrics.image.kid import poly_mmd

from diffusers_macdm.data.cases import Cases
from diffusers_macdm.evaluation.features import FeatureExtractor
from diffusers_macdm.evaluation.realism import Sample, _halves, covered, kid, quality, realism, telling_apart


def gaussian(count, mean, seed, cases_per_patient=1):
    """Unit variance around `mean` `[D]`."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, len(mean))) + mean
    patients = np.array([f"p{index // cases_per_patient}" for index in range(count)])
    return Sample(features, patients, np.arange(count) % 2)


def expected_kernel(a, b):
    """E (x.y / d + 1)^3 of independent x ~ N(a, 1), y ~ N(b, 1)."""
    d, ab = len(a), a @ b
    second = ab**2 + a @ a + b @ b + d
    third = ab**3 + 3 * ab * (a @ a) + 3 * ab * (b @ b + d + 2)
    return 1 + 3 * ab / d + 3 * second / d**2 + third / d**3


def shifted(shift, d=8):
    mean = np.zeros(d)
    mean[0] = shift
    return mean


def test_kid_is_that_of_torchmetrics():
    one, two = gaussian(40, shifted(0), 0), gaussian(70, shifted(1), 1)
    # torchmetrics takes sets of one size
    assert kid(one, two[:40])[0] == pytest.approx(
        float(poly_mmd(torch.from_numpy(one.features), torch.from_numpy(two.features[:40]))), abs=1e-12
    )
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3  # noqa: E731
    own = [kernel(s.features, s.features)[~np.eye(len(s), dtype=bool)].mean() for s in (one, two)]
    assert kid(one, two)[0] == pytest.approx(sum(own) - 2 * kernel(one.features, two.features).mean(), abs=1e-12)


def test_kid_of_shifted_gaussians_is_that_of_the_closed_form_and_the_interval_covers_it():
    a, b = shifted(0), shifted(1.5)
    expected = expected_kernel(a, a) + expected_kernel(b, b) - 2 * expected_kernel(a, b)
    values, covering = [], 0
    for seed in range(100):
        value, interval = kid(gaussian(60, a, 2 * seed, 3), gaussian(120, b, 2 * seed + 1))
        values.append(value)
        covering += interval[0] <= expected <= interval[1]
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / 10)
    assert 88 <= covering <= 100  # nominal 95: 3 standard deviations of a binomial


def test_kid_of_the_same_distribution_is_zero():
    values, covering = [], 0
    for seed in range(100):
        value, interval = kid(gaussian(50, shifted(1), 2 * seed), gaussian(80, shifted(1), 2 * seed + 1))
        values.append(value)
        covering += interval[0] <= 0 <= interval[1]
    assert abs(np.mean(values)) < 4 * np.std(values) / 10 and covering >= 90


def test_cases_of_one_patient_do_not_pass_for_a_difference():
    """Four films of each patient that are nearly the same, in both sets from the same distribution."""
    values = []
    for seed in range(60):
        pair = []
        for generator in (np.random.default_rng([seed, side]) for side in (0, 1)):
            features = np.repeat(generator.normal(size=(15, 8)), 4, axis=0) + 0.1 * generator.normal(size=(60, 8))
            pair.append(Sample(features, np.repeat(np.arange(15), 4).astype(str), np.zeros(60, int)))
        values.append(kid(*pair)[0])
    naive = [kid(*(Sample(s.features, np.arange(60).astype(str), s.class_labels) for s in pair))[0]]
    error = np.std(values) / 60**0.5
    assert abs(np.mean(values)) < 3 * error
    assert naive[0] > values[-1] + 3 * error  # what comes out when each film passes for a patient


def test_the_jackknife_leaves_out_one_patient_after_the_other():
    one, two = gaussian(12, shifted(0), 0, 3), gaussian(10, shifted(1), 1, 2)
    value, interval = kid(one, two)
    variance = 0
    for side, sample in enumerate((one, two)):
        without = []
        for patient in np.unique(sample.patient_ids):
            part = sample[sample.patient_ids != patient]
            without.append(kid(part, two)[0] if side == 0 else kid(one, part)[0])
        variance += (len(without) - 1) * np.var(without)
    assert (interval[0] + interval[1]) / 2 == pytest.approx(value)
    assert interval[1] - value == pytest.approx(3.1824463 * variance**0.5)  # t of 3 degrees of freedom: four patients


def test_precision_and_recall_by_counting():
    generator = np.random.default_rng(0)
    real, made = generator.normal(size=(30, 3)), generator.normal(size=(25, 3)) * 0.5 + 0.8
    for points, manifold in ((made, real), (real, made)):
        for k in (1, 3, 5):
            inside = 0
            for point in points:
                for center in manifold:
                    others = sorted(np.linalg.norm(center - other) for other in manifold if other is not center)
                    if np.linalg.norm(point - center) <= sorted(others[1:])[k - 1]:  # the nearest is itself, a view apart
                        inside += 1
                        break
            assert covered(points, manifold, k) == pytest.approx(inside / len(points))


def test_the_intervals_of_precision_and_recall_are_not_too_short():
    """Nominal 95 %, of 20 draws; the mean of all draws stands for the true value."""
    found = [quality(gaussian(40, shifted(0, 4), 2 * s), gaussian(60, shifted(1, 4), 2 * s + 1), s) for s in range(20)]
    for name in ("precision", "recall"):
        values = np.array([entry[name]["value"] for entry in found])
        covering = [low <= values.mean() <= high for low, high in (entry[name]["interval"] for entry in found)]
        half = np.mean([(high - low) / 2 for low, high in (entry[name]["interval"] for entry in found)])
        assert sum(covering) >= 17 and 1.4 * values.std() < half < 6 * values.std()


def test_no_interval_where_nothing_varies():
    entry = quality(gaussian(40, shifted(0), 0), gaussian(40, shifted(100), 1))["precision"]
    assert entry["value"] == 0 and entry["interval"] is None


def test_precision_and_recall_tell_a_narrow_set_from_a_wide_one():
    wide, narrow = gaussian(200, np.zeros(2), 0).features * 3, gaussian(200, np.zeros(2), 1).features * 0.3
    assert covered(narrow, wide) > 0.95 and covered(wide, narrow) < 0.1
    assert covered(narrow + 100, wide) == 0
    assert np.isnan(covered(narrow, wide[:3]))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_auc_is_the_binormal_one(shift):
    values = []
    for seed in range(8):
        pair = gaussian(300, shifted(0, 1), 2 * seed), gaussian(300, shifted(shift, 1), 2 * seed + 1)
        values.append(telling_apart(*pair, seed, with_interval=False)[0])
    assert np.mean(values) == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.03)


def test_cases_of_a_patient_are_not_told_by_their_own_film():
    """Two films of each patient, alike among themselves in many dimensions: folds by case would recognise patients."""
    generator = np.random.default_rng(0)
    sets = []
    for _ in (0, 1):
        features = np.repeat(generator.normal(size=(20, 40)), 6, axis=0) + 0.05 * generator.normal(size=(120, 40))
        sets.append(Sample(features, np.repeat(np.arange(20), 6).astype(str), np.zeros(120, int)))
    by_patient = telling_apart(*sets, 0)[0]
    by_case = telling_apart(*(Sample(s.features, np.arange(120).astype(str), s.class_labels) for s in sets), 0)[0]
    assert by_case > 0.9 and abs(by_patient - 0.5) < 0.25


def brightness_and_contrast(radiographs):
    return torch.cat([radiographs.flatten(1)[:, :16], radiographs.mean(dim=(2, 3)), radiographs.std(dim=(2, 3))], dim=1)


def cases(count, seed, shift=0.0, patients=None):
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(count, 3, 8, 8, generator=generator) * 0.3 + shift
    return Cases.of(samples, [index % 2 for index in range(count)], patient_ids=patients)


def test_the_whole_of_it_on_sets_of_the_same_and_of_another_distribution():
    extractor = FeatureExtractor("brightness", brightness_and_contrast)
    real = cases(60, 0, patients=[f"p{index // 2}" for index in range(60)])
    same, other = realism(real, cases(100, 1), extractor), realism(real, cases(100, 2, shift=0.3), extractor)
    assert json.loads(json.dumps(same)) == same and same["feature_extractor"] == "brightness"
    find = lambda result, name, label=None: next(  # noqa: E731
        m for m in result["measures"] if m["name"] == name and m["label"] == label
    )
    assert [m["label"] for m in same["measures"] if m["name"] == "kid"] == [None, 0, 1]
    low, high = find(same, "kid")["interval"]
    assert low <= 0 <= high and find(other, "kid")["interval"][0] > 0
    assert abs(find(same, "kid")["real_versus_real"]) < high - low
    low, high = find(same, "real_or_synthetic_auc")["interval"]
    assert low <= 0.5 <= high and find(other, "real_or_synthetic_auc")["value"] > 0.95
    for name in ("precision", "recall"):
        low, high = find(same, name)["interval"]
        assert low <= find(same, name)["real_versus_real"] <= high
        assert find(other, name)["value"] < low
        assert find(same, name)["num_real"] == 30 and find(same, name)["num_synthetic"] == 30
    assert find(same, "kid")["num_real"] == 60 and find(same, "kid")["num_synthetic"] == 100
    assert len(same["tsne"]) == 160 and {point["kind"] for point in same["tsne"]} == {"real", "synthetic"}
    assert realism(real, cases(100, 1), extractor) == same


def test_kid_of_two_halves_of_the_real_cases_covers_zero():
    real = gaussian(120, shifted(1), 0, 2)
    covering = 0
    for one, two in _halves(real, 0):
        assert not set(real.patient_ids[one]) & set(real.patient_ids[two]) and len(one) + len(two) == 120
        low, high = kid(real[one], real[two])[1]
        covering += low <= 0 <= high
    assert covering >= 9


def test_too_few_cases_are_said_to_be():
    extractor = FeatureExtractor("brightness", brightness_and_contrast)
    result = realism(cases(1, 0), cases(2, 1), extractor)
    for measure in result["measures"]:
        assert measure["value"] is None and measure["interval"] is None
        assert "too few patients" in measure["note"] and "only 1 real cases" in measure["note"]
    assert result["tsne"] == []
    with pytest.raises(ValueError, match="0 real and 2 synthetic"):
        realism(cases(2, 0).select([]), cases(2, 1), extractor)
