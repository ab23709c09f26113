"""What is chosen from a fingerprint and a device: sizes by lesions and time, lengths by time."""

import copy
import re

import pytest
from planning_data import FACTS, MEASURED, plan_with

from diffusers_macdm.planning import choose
from diffusers_macdm.planning.expected import expected_seconds, picture_steps
from diffusers_macdm.planning.fingerprint import RESOLUTIONS
from diffusers_macdm.planning.settings import seconds_of_budget
from diffusers_macdm.training.settings import DenoiserSettings


DEFAULT, QUICK, BEST = (choose.PRESETS[name] for name in ("default", "quick", "best"))


def facts_with(share, side=300):
    facts = copy.deepcopy(FACTS)
    facts["lesion_pixels"] = None if share is None else {str(r): share * r**2 for r in RESOLUTIONS}
    facts["side"]["median"], facts["lesion_share"] = side, share
    return facts


@pytest.mark.parametrize(
    "share, side, preset, expected",
    [
        (0.01, 300, DEFAULT, [64]),  # 41 px of lesion at 64
        (0.01, 300, QUICK, [48]),  # 23 px at 48
        (0.01, 300, BEST, [64, 96]),
        (0.002, 300, DEFAULT, [64, 96, 128]),  # 18.4 px at 96, 32.8 at 128
        (0.0001, 300, DEFAULT, [64, 96, 128, 192, 256]),  # never enough: up to the films' own size
        (0.0001, 100, DEFAULT, [64, 96]),
        (0.002, 50, DEFAULT, [48]),
        (0.002, 20, DEFAULT, [32]),
        (None, 300, DEFAULT, [64]),
    ],
)
def test_sizes_by_the_median_lesion(share, side, preset, expected):
    assert choose.sides(facts_with(share, side), preset) == expected


def test_more_pixels_where_there_is_time_for_enough_samples():
    facts, seconds_of = facts_with(0.002), {64: 0.1, 96: 0.2, 128: 0.4}
    enough = choose.ENOUGH_SAMPLES / 32
    assert choose.chosen_side(facts, DEFAULT, seconds_of, 0.19 * enough) == 64
    assert choose.chosen_side(facts, DEFAULT, seconds_of, 0.21 * enough) == 96
    assert choose.chosen_side(facts, DEFAULT, seconds_of, 0.41 * enough) == 128
    assert choose.chosen_side(facts, DEFAULT, {64: 0.1}, 1e9) == 64  # what the device cannot train
    reference = choose.REFERENCE_SAMPLES / 32
    assert choose.chosen_side(facts_with(0.01), BEST, seconds_of, 0.19 * reference) == 64
    assert choose.chosen_side(facts_with(0.01), BEST, seconds_of, 0.21 * reference) == 96


@pytest.mark.parametrize("seconds", [300.0, 600.0, 3600.0])
@pytest.mark.parametrize("classifier", [None, {"resolution": 64, "patch_size": 2}])
def test_the_length_fills_the_time(seconds, classifier):
    plan, measured = choose.fit_length(plan_with(classifier=classifier), MEASURED, seconds, "any")
    total = sum(expected_seconds(plan, measured).values())
    assert 0.85 * seconds < total <= 0.96 * seconds
    steps = plan["denoiser"]["max_train_steps"]
    pictures = picture_steps(plan)
    assert {max(1, round(share * steps)) for share in (0.01, 0.02, 0.05)} <= set(pictures) and steps in pictures
    DenoiserSettings(**{"train_data_dir": "data", **plan["denoiser"]}).check()


def test_a_fast_device_stops_at_the_most_updates():
    measured = {**MEASURED, "denoiser": {**MEASURED["denoiser"], "update": 0.01}}
    plan, _ = choose.fit_length(plan_with(), measured, 3600.0, "1h")
    assert plan["denoiser"]["max_train_steps"] == choose.MOST_UPDATES


def test_too_short_for_a_picture():
    with pytest.raises(ValueError, match=r"^time_budget=30s is too short for a single picture: .* at least \dm are needed, or"):
        choose.fit_length(plan_with(), MEASURED, 30.0, "30s")


@pytest.mark.parametrize("spent", [5.0, 90.0])
def test_the_time_that_is_said_to_be_needed_is_enough(spent):
    """The planning takes some of it, too: what is asked for is never what was given."""
    with pytest.raises(ValueError, match="too short") as error:
        choose.fit_length(plan_with(), MEASURED, 60.0 - spent, "60s", spent)
    minutes = int(re.search(r"at least (\d+)m", str(error.value))[1])
    choose.fit_length(plan_with(), MEASURED, 60.0 * minutes - spent, f"{minutes}m", spent)


def test_sets_that_nothing_can_be_learned_from():
    with pytest.raises(ValueError, match=r"^d: the train split has the single class label 1; at least two"):
        choose.refuse_data("d", {**FACTS, "labels": {"1": 200}})
    with pytest.raises(ValueError, match=r"^d: the train split has no class label;"):
        choose.refuse_data("d", {**FACTS, "labels": {"none": 200}})
    with pytest.raises(ValueError, match=r"^d: 19 cases in train are too few: at least 20"):
        choose.refuse_data("d", {**FACTS, "splits": {"train": 19}})
    choose.refuse_data("d", {**FACTS, "splits": {"train": 20}})


def test_a_lesion_below_a_pixel():
    with pytest.raises(ValueError, match=r"^d: the median lesion has 0.41 pixels at 64 px, the most that this device"):
        choose.refuse_vanishing("d", facts_with(0.0001), [64])
    choose.refuse_vanishing("d", facts_with(0.0001), [64, 128])  # 1.6 pixels
    choose.refuse_vanishing("d", facts_with(None), [64])


def test_region_of_interest():
    assert not choose.region_advice(facts_with(0.01), 64)["advised"]
    assert choose.region_advice(facts_with(0.001), 64)["advised"]
    assert not choose.region_advice(facts_with(0.001, 64), 64)["advised"]  # the films have no more pixels
    assert not choose.region_advice(facts_with(None), 64)["advised"]


@pytest.mark.parametrize("text, seconds", [("6h", 21600), ("10m", 600), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400)])
def test_times(text, seconds):
    assert seconds_of_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "ten", "10 m", "m", "0m", "-5m", "5d"])
def test_no_times(text):
    with pytest.raises(ValueError, match="is not allowed: a time as 6h"):
        seconds_of_budget(text)
