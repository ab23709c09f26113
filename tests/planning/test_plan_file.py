"""An edited plan is checked field by field, and its settings become options of the trainings."""

import json

import pytest
from planning_data import plan_with

from diffusers_macdm.parsing import parse
from diffusers_macdm.planning.plan_file import check_plan, read_plan, setting_of, words_of
from diffusers_macdm.training.settings import DenoiserSettings


def test_a_plan_that_can_be_followed():
    check_plan(plan_with(), "p")
    check_plan({"denoiser": {}, "samples": {"num_per_class": 1}}, "p")  # written by hand


@pytest.mark.parametrize(
    "parts, sentence",
    [
        ({"denoizer": {}}, "p: denoizer is no field of a plan; there are denoiser, classifier,"),
        ({"denoiser": {"learning_rat": 1}}, "p: denoiser.learning_rat is no setting of this part."),
        ({"denoiser": {"learning_rate": "fast"}}, "p: denoiser.learning_rate is 'fast'; a finite number is needed."),
        ({"denoiser": {"learning_rate": float("nan")}}, "p: denoiser.learning_rate is nan; a finite number is needed."),
        ({"denoiser": {"max_train_steps": 10.5}}, "p: denoiser.max_train_steps is 10.5; a whole number is needed."),
        ({"denoiser": {"max_train_steps": True}}, "p: denoiser.max_train_steps is True; a whole number is needed."),
        ({"denoiser": {"augment": 1}}, "p: denoiser.augment is 1; true or false is needed."),
        ({"denoiser": {"balance": "all"}}, "p: denoiser.balance is 'all'; 'class' or 'sqrt' or 'none' is needed."),
        (
            {"denoiser": {"channel_weights": [1, 1]}},
            "p: denoiser.channel_weights is [1, 1]; a list of 3 of: a finite number is needed.",
        ),
        ({"denoiser": {"resolution": 50}}, "p: denoiser: resolution 50 is not allowed: with patch_size 4 and 3 block_out"),
        ({"denoiser": {"max_train_steps": 0}}, "p: denoiser: max_train_steps 0 is not allowed: it must be greater than 0."),
        ({"denoiser": {"output_dir": "x"}}, "p: denoiser.output_dir is not allowed: `macdm train` sets it."),
        ({"denoiser": {"push_to_hub": True}}, "p: denoiser.push_to_hub is not allowed: `macdm train` sets it."),
        ({"samples": {"num_per_class": 0}}, "p: samples: num_per_class=0 is not allowed: at least 1 is needed."),
        ({"samples": None}, "p: samples is None; an object with"),
        ({"audit": {"planted": "many"}}, "p: audit.planted is 'many'; a whole number is needed."),
        ({"samples": {"scheduler": "Euler"}}, "p: samples: scheduler='Euler' is no scheduler class of diffusers; for"),
        (
            {"samples": {"num_inference_steps": 1001}},
            "p: samples: num_inference_steps=1001 is not allowed: a whole number from",
        ),
        ({"samples": {"num_inference_steps": 0}}, "p: samples: num_inference_steps=0 is not allowed: a whole number from 1 to"),
        ({"data": "folder"}, "p: data is 'folder'; an object is needed."),
        ({"measured": None}, "p: measured is None; an object is needed."),
        ({"reasons": 5}, "p: reasons is 5; a list of any number of: a text is needed."),
        ({"time_budget_seconds": "1h"}, "p: time_budget_seconds is '1h'; a finite number or null is needed."),
        ({"classifier": {"resolution": 32}}, "p: classifier.resolution is 32, denoiser.resolution 64: both must be the same."),
    ],
)
def test_what_cannot_be_followed_is_named(parts, sentence):
    with pytest.raises(ValueError) as error:
        check_plan(plan_with(**parts), "p")
    assert str(error.value).startswith(sentence)


def test_a_part_that_is_missing():
    plan = plan_with()
    del plan["denoiser"]
    with pytest.raises(ValueError, match="^p: denoiser is missing.$"):
        check_plan(plan, "p")


def test_files_that_are_no_plan(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(FileNotFoundError, match="`macdm plan DATA OUT` writes one"):
        read_plan(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_plan(path)
    path.write_text(json.dumps(plan_with()))
    assert read_plan(path) == plan_with()


def test_settings_as_options_come_back():
    values = {"augment": False, "block_out_channels": [8, 16], "learning_rate": 0.0012, "resolution": 64, "film_noise": None}
    values |= {"early_validation_steps": [1, 2], "balance": "sqrt", "horizontal_flip": True}
    settings = parse(DenoiserSettings, words_of(DenoiserSettings, values), "x", underscores=True)
    back = {name: getattr(settings, name) for name in values}
    assert back == {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def test_a_setting_or_its_default():
    assert setting_of(plan_with(), "denoiser", "resolution") == 64
    assert setting_of(plan_with(), "denoiser", "num_validation_samples") == DenoiserSettings.num_validation_samples
