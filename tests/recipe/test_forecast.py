"""The time that is said after 20 updates, against a log whose end is known."""

import json

import pytest
from planning_data import MEASURED, plan_with

from diffusers_macdm.planning.expected import after_training, picture_steps
from diffusers_macdm.recipe.forecast import read_log, seconds_left


STEPS, EVERY = 400, 50
PLAN = plan_with(
    denoiser={
        "max_train_steps": STEPS,
        "validation_steps": 100,
        "early_validation_steps": [4, 12, 20],
        "checkpointing_steps": EVERY,
    }
)
UPDATE = MEASURED["denoiser"]["update"]


def log(steps, update=UPDATE, first=5.0):
    """Lines each 10 updates: grids and checkpoints fall into the line after them, as in a training."""
    rows, before, pending = [], 0, first
    for step in range(1, steps + 1):
        pending += update
        if step % 10 == 0 or step % EVERY == 0:
            rows.append({"step": step, "samples_per_second": (step - before) * 32 / pending})
            before, pending = step, 0.0
        pending += 2.0 * (step in picture_steps(PLAN)) + 0.5 * (step % EVERY == 0)
    return rows


@pytest.mark.parametrize("at", [20, 30, 110, 390])
def test_the_rest_is_added_up_exactly(at):
    pictures = sum(step >= at for step in picture_steps(PLAN))
    checkpoints = sum(step >= at for step in range(EVERY, STEPS + 1, EVERY))
    expected = (STEPS - at) * UPDATE + 2.0 * pictures + 0.5 * (checkpoints + 2) + sum(after_training(PLAN, MEASURED).values())
    assert seconds_left(PLAN, MEASURED, log(at), 0) == pytest.approx(expected, rel=1e-9)


def test_a_slower_training_is_heard_of():
    """30 updates at half the speed and the probe's 10: 1.67 times, as between the lines after the first one."""
    left = seconds_left(PLAN, MEASURED, log(40, 2 * UPDATE), 0) - seconds_left(PLAN, MEASURED, log(40), 0)
    assert left == pytest.approx(360 * UPDATE * 30 / 40)


def test_nothing_is_said_before_20_updates_of_this_call():
    assert seconds_left(PLAN, MEASURED, log(10), 0) is None
    assert seconds_left(PLAN, MEASURED, log(110), 100) is None
    assert seconds_left(PLAN, MEASURED, log(120), 100) is not None


def test_a_torn_line_is_none(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"ste')
    assert read_log(path) == [{"step": 1}] and read_log(tmp_path / "none") == []
