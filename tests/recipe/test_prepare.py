"""A plan of --plan, written by hand or for other data: completed for this data, compared with the one that is there."""

import pytest
from planning_data import FACTS, MEASURED, PLAN

from diffusers_macdm.files import write_json
from diffusers_macdm.planning import choose
from diffusers_macdm.planning.page import SHEET_FILE, plan_page
from diffusers_macdm.planning.plan_file import check_plan
from diffusers_macdm.recipe import prepare
from diffusers_macdm.recipe.settings import Settings


BY_HAND = {"denoiser": {"resolution": 48, "patch_size": 4, "block_out_channels": [8, 16, 16]}, "samples": {"num_per_class": 1}}


def test_a_plan_by_hand_is_completed_and_has_a_page(tmp_path):
    plan = prepare._completed(BY_HAND, FACTS, Settings("data", tmp_path, plan=tmp_path / "hand.json"))
    measured = {**MEASURED, "device": {"device": "cpu", "threads": 1}}
    plan |= {"measured": measured, "expected": choose.expectation(plan, measured), "device": measured["device"]}
    check_plan(plan, "p")
    assert plan["denoiser"]["max_train_steps"] == 20000 and plan["denoiser"]["train_batch_size"] == 16  # the defaults
    assert plan["classifier"] is None and plan["audit"] is None and plan["expected"]["parts"]["audit"] == 0
    (tmp_path / SHEET_FILE).write_bytes(b"png")
    plan_page(tmp_path, plan, {"notes": []})
    page = (tmp_path / "index.html").read_text()
    assert "48 px, 3.9 million parameters" in page and "which was given." in page


@pytest.mark.parametrize(
    "other, refused",
    [
        (BY_HAND, "another denoiser"),
        ({**PLAN, "denoiser": {"resolution": 64}}, None),  # says less of it, nothing else
        ({**PLAN, "audit": None}, "another audit"),
        ({**PLAN, "audit": {"planted": 21}}, "another audit"),
    ],
)
def test_a_plan_beside_the_one_that_is_there(other, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "digest_of", lambda data: FACTS["sha256"])
    write_json(tmp_path / "plan.json", PLAN)
    write_json(tmp_path / "other.json", other)
    settings = Settings("data", tmp_path, plan=tmp_path / "other.json")
    if refused is None:
        assert prepare._given_plan(settings, tmp_path, False) == (PLAN, None)
    else:
        with pytest.raises(ValueError, match=refused):
            prepare._given_plan(settings, tmp_path, False)
