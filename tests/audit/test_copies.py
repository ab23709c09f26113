import math

import numpy as np
import pytest
import torch
from audit_data import phantoms

from diffusers_macdm.audit.copies import CopyDetector, copies_too_often, false_alarm_interval
from diffusers_macdm.audit.embedding import CopyEmbedding
from diffusers_macdm.audit.neighbours import Comparison, Gallery
from diffusers_macdm.statistics.proportions import proportion


@pytest.fixture(scope="module")
def gallery():
    """Training images of which the first stands in the set under two patients."""
    images = phantoms(6, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        embedding = CopyEmbedding().eval()
    return Gallery(torch.cat([images, images[:1]]), [f"p{i}" for i in range(7)], embedding)


def comparison(distance, ratio, embedding_distance=None, embedding_nearest=None):
    zeros = np.zeros(len(distance), int)
    return Comparison(
        pixel_distance=np.zeros(len(distance)),
        pixel_nearest=zeros,
        embedding_distance=np.zeros(len(distance)) if embedding_distance is None else np.asarray(embedding_distance),
        embedding_nearest=zeros if embedding_nearest is None else np.asarray(embedding_nearest),
        aligned_distance=np.asarray(distance, float),
        nearest=zeros,
        nearest_ratio=np.asarray(ratio, float),
    )


def honest(count, generator):
    """Images that copy nobody, as the audit meets them: the farther from everybody, the more alike first and second."""
    log_distance = generator.standard_normal(count)
    ratio = 1 - generator.beta(2, 8, count) * np.exp(-0.3 * log_distance).clip(0.3, 1.5) / 1.5
    return comparison(0.1 * np.exp(0.4 * log_distance), ratio)


# --- rates


@pytest.mark.parametrize("num_null", [20, 100, 250])
def test_false_alarm_interval_is_that_of_simulated_thresholds(num_null):
    """Values uniform in [0, 1]: the share of the population below the threshold is the threshold itself."""
    draws = np.random.default_rng(0).random((20_000, num_null))
    thresholds = np.quantile(draws, 0.05, axis=1, method="weibull")
    assert thresholds.mean() == pytest.approx(0.05, rel=0.02)
    low, high = false_alarm_interval(num_null)
    assert np.quantile(thresholds, [0.025, 0.975]) == pytest.approx([low, high], rel=0.15, abs=0.002)
    assert np.mean((low < thresholds) & (thresholds < high)) == pytest.approx(0.95, abs=0.02)  # a little more for 20
    assert low < 0.05 < high


@pytest.mark.parametrize("num_null, more", [(9, 0.05), (18, 0.01), (40, 0.0)])
def test_chance_with_few_validation_images(gallery, num_null, more):
    """Fewer than 19 cannot tell the nearest 5 %: an honest image is nearer than all n of them once in n + 1 times, and a little
    more often, for the scales are fitted to the same images."""
    called = total = 0
    for study in range(150):
        generator = np.random.default_rng(study)
        detector = CopyDetector(gallery, honest(num_null, generator))
        fresh = detector.is_copy(honest(40, generator))
        called, total = called + fresh.sum(), total + len(fresh)
    assert detector.nominal_rate == max(0.05, 1 / (num_null + 1))
    assert called / total == pytest.approx(detector.nominal_rate + more, abs=0.015)


def test_proportion_has_the_wilson_interval():
    result = proportion([True] * 10 + [False] * 90)
    p, n, z = 0.1, 100, 1.959963984540054
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    assert result == {"value": 0.1, "interval": pytest.approx(expected), "count": 10, "total": 100}
    assert expected == pytest.approx([0.0552, 0.1744], abs=5e-5)  # as tables give it
    assert proportion(np.zeros(20, bool))["interval"] == pytest.approx([0, 0.1611], abs=5e-5)
    assert proportion([]) == {"value": None, "interval": None, "count": 0, "total": 0}


def test_copies_too_often_needs_more_than_the_thresholds_own_uncertainty():
    def result(count):
        return {
            "copy_rate": proportion(np.arange(200) < count),
            "nominal_false_alarm_rate": {"value": 0.05, "interval": [0.02, 0.09]},
        }

    assert not copies_too_often(result(10)) and not copies_too_often(result(25))
    assert copies_too_often(result(40))


# --- the detector


def test_one_of_twenty_honest_images_is_called_a_copy(gallery):
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        detector = CopyDetector(gallery, honest(200, generator))
        assert detector.is_copy(detector.null).mean() == pytest.approx(0.05)  # 10 of 200
        rates.append(detector.is_copy(honest(500, generator)).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.006)
    low, high = false_alarm_interval(200)
    assert np.mean((np.array(rates) > low - 0.02) & (np.array(rates) < high + 0.02)) > 0.95


def test_closeness_is_the_smaller_of_the_two_scales(gallery):
    null = honest(200, np.random.default_rng(1))
    detector = CopyDetector(gallery, null)
    distance, ratio = np.log(null.aligned_distance), np.log(null.nearest_ratio)

    def z(value, values):
        return (np.log(value) - np.median(values)) / (np.median(values) - np.quantile(values, 0.05))

    made = comparison([0.02, 0.1], [0.8, 0.3])
    assert detector.closeness(made) == pytest.approx(
        [min(z(d, distance), z(r, ratio)) for d, r in ((0.02, 0.8), (0.1, 0.3))], rel=1e-5
    )
    middle = comparison([np.exp(np.median(distance))], [np.exp(np.median(ratio))])
    assert detector.closeness(middle) == pytest.approx([0], abs=1e-6)
    edge = comparison([np.exp(np.quantile(distance, 0.05))], [1.0])
    assert detector.closeness(edge) == pytest.approx([-1])


def test_either_measure_gives_a_copy_away(gallery):
    detector = CopyDetector(gallery, honest(200, np.random.default_rng(2)))
    typical = float(np.median(detector.null.aligned_distance)), float(np.median(detector.null.nearest_ratio))
    noisy_copy, of_two_patients = (typical[0], 0.1), (0.0, 1.0)
    found = detector.is_copy(comparison(*zip(typical, noisy_copy, of_two_patients, strict=True)))
    assert found.tolist() == [False, True, True]


def test_duplicate_under_two_patients_is_found(gallery):
    """Its ratio is 1, the nearest image of another patient being the same film; its distance betrays it."""
    detector = CopyDetector(gallery, gallery.compare(phantoms(12, 1)))
    copies = gallery.images[[0, 3]]
    compared = gallery.compare(copies)
    assert compared.nearest_ratio[0] == pytest.approx(1) and compared.nearest_ratio[1] < 0.01
    assert compared.aligned_distance.max() < 1e-5
    assert detector.find(copies).all()


def test_authentic_is_farther_than_the_nearest_ones_own_neighbour(gallery):
    null = honest(5, np.random.default_rng(3))
    own = gallery.own_distance[2]
    made = comparison([1, 1], [1, 1], embedding_distance=[own * 0.9, own * 1.1], embedding_nearest=[2, 2])
    assert CopyDetector(gallery, null).is_authentic(made).tolist() == [False, True]


def test_validation_images_that_are_all_alike_make_no_division_by_zero(gallery):
    detector = CopyDetector(gallery, comparison([0.1] * 5, [1.0] * 5))
    assert np.isfinite(detector.closeness(detector.null)).all()
    assert detector.is_copy(comparison([0.1, 0.01], [1.0, 1.0])).tolist() == [False, True]


def test_too_few_validation_images_are_refused(gallery):
    with pytest.raises(ValueError, match="1 validation images to compare with: at least 2"):
        CopyDetector(gallery, comparison([0.1], [1.0]))
