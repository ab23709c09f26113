"""The whole table on the phantom: a second draw of it is real, and each way of being worse shows where it should."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffusers_macdm.data.cases import Cases, load_cases
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.quality import measure
from diffusers_macdm.quality.referee import Referee
from diffusers_macdm.quality.sets import cases_of_arrays, films_of, halves, masks_of, matched


SIZE = 32


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    for seed in (0, 1):
        write_phantom(folder / str(seed), 64, 64, SIZE, seed)
    return [load_cases(folder / str(seed), "train", SIZE) for seed in (0, 1)]


def changed(cases, change):
    films = np.stack([change(film.astype(float)) for film in films_of(cases)]).round().clip(0, 255).astype(np.uint8)
    return cases_of_arrays(films, *masks_of(cases), cases.class_labels, cases.patient_ids)


@pytest.fixture(scope="module")
def fresh(sets):
    return measure(*sets)


def test_a_second_draw_of_the_same_films_cannot_be_told_from_the_first(fresh):
    assert json.loads(json.dumps(fresh)) == fresh
    auc = fresh["real_or_synthetic_auc"]
    assert auc["interval"][0] < 0.55 and 0.35 < auc["value"] < 0.65 and 0.35 < auc["real_versus_real"] < 0.65
    assert fresh["kid"]["interval"][0] < 0 < fresh["kid"]["interval"][1]
    for forms in fresh["sliced_wasserstein"].values():
        for entry in forms.values():
            assert entry["value"] < 2 * entry["real_versus_real"]
    for entry in (*fresh["grain"].values(), fresh["top_octave"]):
        assert entry["ratio"] == pytest.approx(1, abs=0.15) and entry["real_versus_real"] == pytest.approx(1, abs=0.15)
    assert fresh["edge_profile"]["rms_difference"] < 10 > fresh["edge_profile"]["real_versus_real"]
    for side in fresh["lesions"].values():
        assert side["0"]["with_lesion"]["value"] == 0 and side["1"]["with_lesion"]["value"] == 1
    assert "fit" not in fresh


def test_grain_shows(sets, fresh):
    generator = np.random.default_rng(0)
    found = measure(sets[0], changed(sets[1], lambda film: film + generator.normal(0, 6, film.shape)))
    assert found["real_or_synthetic_auc"]["value"] > 0.95
    assert found["grain"]["background"]["ratio"] > 1.5 and found["top_octave"]["ratio"] > 1.2
    assert found["sliced_wasserstein"]["anatomy"] == fresh["sliced_wasserstein"]["anatomy"]


def test_blur_shows(sets, fresh):
    found = measure(sets[0], changed(sets[1], lambda film: gaussian_filter(film, 1)))
    assert found["real_or_synthetic_auc"]["value"] > 0.95
    assert found["grain"]["anatomy"]["ratio"] < 0.7 and found["top_octave"]["ratio"] < 0.7
    assert found["edge_profile"]["rms_difference"] > fresh["edge_profile"]["rms_difference"]
    assert found["kid"]["value"] > fresh["kid"]["value"] + 0.05


def test_few_films_over_and_over_are_far_from_all_of_them(sets, fresh):
    cases = sets[1].select(list(range(4)) * 16 + list(range(64, 68)) * 16)
    found = measure(sets[0], cases)
    film = found["sliced_wasserstein"]["film"]["global"]
    assert film["value"] > 1.5 * film["real_versus_real"]


def test_labels_are_matched(sets):
    few = sets[0].select([*range(64), *range(64, 70)])  # 64 normal ones, 6 with a lesion
    one, two = matched(few, sets[1])
    shares = [float((cases.class_labels == 1).float().mean()) for cases in (one, two)]
    assert shares[0] == pytest.approx(shares[1], abs=0.03) and min(len(one), len(two)) > 40
    assert set(one.names) <= set(few.names)
    same, other = matched(sets[0], sets[1])
    assert len(same) == len(other) == 128
    with pytest.raises(ValueError, match="no label in common"):
        matched(sets[0].select(range(64)), sets[1].select(range(64, 128)))


def test_halves_share_no_patient(sets):
    one, two = halves(sets[0])
    assert len(one) + len(two) == 128 and not set(one.patient_ids) & set(two.patient_ids)


def test_arrays_come_back_and_others_are_refused(sets):
    films, (anatomy, lesion) = films_of(sets[0]), masks_of(sets[0])
    again = cases_of_arrays(films, anatomy, lesion, sets[0].class_labels)
    assert np.array_equal(films_of(again), films) and np.array_equal(masks_of(again), [anatomy, lesion])
    with pytest.raises(ValueError, match="uint8"):
        cases_of_arrays(films / 255, anatomy, lesion, sets[0].class_labels)


def test_sets_that_cannot_be_compared_are_refused(sets):
    samples = sets[1].joint_samples.clone()
    samples[:, 1:] = float("nan")
    with pytest.raises(ValueError, match="synthetic cases have no masks"):
        measure(sets[0], Cases.of(samples, sets[1].class_labels))
    with pytest.raises(ValueError, match="too few"):
        measure(sets[0], sets[1].select([0, 64]))
    smaller = Cases.of(sets[1].joint_samples[..., ::2, ::2], sets[1].class_labels)
    with pytest.raises(ValueError, match="32 px and synthetic ones of 16 px"):
        measure(sets[0], smaller)


def test_the_referee_finds_copies_and_keeps_its_networks(sets, tmp_path):
    of_both = [*range(8), *range(64, 72)]
    train, held_out = (cases.select(of_both * 2) for cases in sets)
    settings = {"segmenter_steps": 60, "embedding_steps": 5, "folder": tmp_path / "referee"}
    found = Referee(train, held_out, num_null=20, **settings)(train.select(range(16)))
    assert json.loads(json.dumps(found)) == found
    assert found["copies"]["value"] == 1 and found["copies"]["nominal_rate"] == 0.05
    assert {(m["mask"], m["label"]) for m in found["fit"]} >= {("anatomy_mask", None), ("lesion_mask", 1)}
    anatomy = next(m for m in found["fit"] if m["mask"] == "anatomy_mask" and m["label"] is None)
    assert anatomy["value"] > anatomy["shuffled"] and anatomy["real"] > 0.5
    assert found["lesion_seen"]["synthetic"]["1"]["total"] == 8 and found["lesion_seen"]["real"]["0"]["total"] == 16
    again = Referee(train, held_out, num_null=20, copies=False, **settings)(train.select(range(16)))
    assert again["fit"] == found["fit"] and again["copies"] is None
