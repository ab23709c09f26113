import dataclasses

import numpy as np
import pytest
import torch
from audit_data import phantoms

from diffusers_macdm.audit import neighbours
from diffusers_macdm.audit.copies import CopyDetector, false_alarm_interval
from diffusers_macdm.audit.embedding import CopyEmbedding, train_embedding
from diffusers_macdm.audit.neighbours import Gallery
from diffusers_macdm.audit.planted import plant_copies
from diffusers_macdm.statistics.proportions import proportion


@pytest.fixture(scope="module")
def embedding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CopyEmbedding().eval()


@pytest.fixture(scope="module")
def training():
    return phantoms(11, 0)


@pytest.fixture(scope="module")
def queries(training):
    return torch.cat([phantoms(3, 1), plant_copies(training[:2], seed=0)["rotated"]])


@pytest.fixture(scope="module")
def gallery(training, embedding):
    return Gallery(training, [None] * len(training), embedding)


@pytest.fixture(scope="module")
def comparison(gallery, queries):
    return gallery.compare(queries)


def columns(comparison):
    return {field.name: getattr(comparison, field.name) for field in dataclasses.fields(comparison)}


def at_32_px(images):
    values = images.numpy().astype(float).reshape(-1, 32, 2, 32, 2).mean(axis=(2, 4)).reshape(len(images), -1)
    return (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)


def test_pixel_and_embedding_neighbours_are_those_of_brute_force(comparison, training, queries, embedding):
    pixel = np.sqrt(((at_32_px(queries)[:, None] - at_32_px(training)) ** 2).mean(axis=2))  # [N, M]
    np.testing.assert_array_equal(comparison.pixel_nearest, pixel.argmin(axis=1))
    np.testing.assert_allclose(comparison.pixel_distance, pixel.min(axis=1), atol=1e-5)
    cosine = 1 - embedding.embed(queries).double().numpy() @ embedding.embed(training).double().numpy().T
    np.testing.assert_array_equal(comparison.embedding_nearest, cosine.argmin(axis=1))
    np.testing.assert_allclose(comparison.embedding_distance, cosine.min(axis=1), atol=1e-6)


def test_planted_copies_are_traced(comparison):
    assert comparison.nearest[3:].tolist() == [0, 1]
    # The other one is traced, but turned by an angle between two of the search's it is not laid over its source well.
    assert comparison.aligned_distance[3] < 0.5 * comparison.aligned_distance[:3].min()
    assert comparison.nearest_ratio[3] < 0.5 * comparison.nearest_ratio[:3].min()


def test_exact_copies_have_no_distance(gallery, training):
    exact = gallery.compare(training[4:6])
    assert exact.nearest.tolist() == exact.pixel_nearest.tolist() == exact.embedding_nearest.tolist() == [4, 5]
    assert exact.pixel_distance.max() == 0
    assert exact.aligned_distance.max() < 1e-5 and exact.embedding_distance.max() < 1e-5
    assert exact.nearest_ratio.max() < 1e-3


def test_blocks_change_nothing(training, queries, embedding, comparison, monkeypatch):
    for name, value in (("_SEARCH_QUERIES", 2), ("_QUERY_BLOCK", 3), ("_GALLERY_BLOCK", 4)):
        monkeypatch.setattr(neighbours, name, value)
    gallery = Gallery(training, [None] * len(training), embedding)
    for name, values in columns(gallery.compare(queries)).items():
        np.testing.assert_allclose(values, columns(comparison)[name], atol=1e-4, err_msg=name)


def test_few_candidates_find_the_copies_still(gallery, queries, comparison, monkeypatch):
    """What is not put forward is not aligned; the search puts the source of a copy forward first."""
    for name, value in (("search_candidates", lambda count: 1), ("EMBEDDING_CANDIDATES", 1), ("FINALISTS", 1)):
        monkeypatch.setattr(neighbours, name, value)
    few = gallery.compare(queries)
    assert few.nearest[3:].tolist() == [0, 1]
    assert (few.aligned_distance >= comparison.aligned_distance - 1e-4).all()


def test_more_training_images_have_more_candidates_within_bounds():
    counts = [neighbours.search_candidates(count) for count in (1, 300, 1000, 2000, 50_000)]
    assert counts == [128, 128, 250, 500, 512]


def test_ratio_is_to_another_patient(training, queries, embedding):
    """The second film of the copied patient is no neighbour to compare with."""
    one, other = training[:1], training[5:6]
    second_film = plant_copies(one, seed=3)["noise"]
    query = queries[3:4]
    pair = Gallery(torch.cat([one, other]), ["p", "q"], embedding).compare(query)
    same = Gallery(torch.cat([one, second_film, other]), ["p", "p", "q"], embedding).compare(query)
    strangers = Gallery(torch.cat([one, second_film, other]), ["p", None, "q"], embedding).compare(query)
    assert pair.nearest[0] == same.nearest[0] == strangers.nearest[0] == 0
    assert same.nearest_ratio[0] == pytest.approx(pair.nearest_ratio[0], rel=0.02)
    assert strangers.nearest_ratio[0] > 1.5 * same.nearest_ratio[0]
    alone = [Gallery(images, ["p"], embedding).compare(query).aligned_distance[0] for images in (one, other)]
    assert pair.nearest_ratio[0] == pytest.approx(alone[0] / alone[1], rel=0.02)


def test_one_patient_alone_has_ratio_one(training, queries, embedding):
    single = Gallery(training, ["p"] * len(training), embedding).compare(queries[2:])
    assert (single.nearest_ratio == 1).all()
    assert single.nearest[1:].tolist() == [0, 1]


def test_own_distance_is_to_the_nearest_other(gallery, training, embedding, monkeypatch):
    vectors = embedding.embed(training).double().numpy()
    distance = 1 - vectors @ vectors.T
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_allclose(gallery.own_distance, distance.min(axis=1), atol=1e-6)
    monkeypatch.setattr(neighbours, "_QUERY_BLOCK", 4)
    np.testing.assert_allclose(gallery._own_distance(), distance.min(axis=1), atol=1e-6)


def test_part_of_a_comparison(comparison):
    part = comparison[[4, 0]]
    assert len(part) == 2
    for name, values in columns(part).items():
        np.testing.assert_array_equal(values, columns(comparison)[name][[4, 0]])


def test_nothing_to_compare(gallery, queries):
    assert len(gallery.compare(queries[:0])) == 0


@pytest.mark.slow
def test_planted_copies_are_found_and_false_alarms_are_those_of_the_threshold():
    """On phantoms of 300 training, 200 validation and 200 fresh patients, with an embedding that is trained on them."""
    training, validation, fresh = phantoms(300, 0), phantoms(200, 1), phantoms(200, 2)
    gallery = Gallery(training, [None] * 300, train_embedding(training, 200, seed=0))
    detector = CopyDetector(gallery, gallery.compare(validation))
    sources = torch.randperm(300, generator=torch.Generator().manual_seed(5))[:100]
    copies = plant_copies(training[sources], seed=3)
    for kind in ("exact", "flipped", "shifted"):
        compared = gallery.compare(copies[kind])
        assert detector.is_copy(compared).mean() >= 0.95, kind
        assert (compared.nearest == sources.numpy()).mean() >= 0.9, kind
    low, high = proportion(detector.find(fresh))["interval"]
    possible = false_alarm_interval(len(detector.null))
    assert low < possible[1] and possible[0] < high
