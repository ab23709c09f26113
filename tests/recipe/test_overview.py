"""The page of a model's folder, from the files that stand there."""

from planning_data import plan_with

from diffusers_macdm.files import write_json
from diffusers_macdm.recipe.overview import refresh_around, write_overview


AUDIT = {
    "verdict": "No copies found <here>.",
    "outcome": "chance",
    "copy_rate": {"value": 0.03, "total": 64},
    "nominal_false_alarm_rate": {"value": 0.05},
}


def a_folder(out):
    (out / "plan").mkdir(parents=True)
    (out / "plan/index.html").write_text("plan")
    write_json(out / "plan.json", plan_with(denoiser={"max_train_steps": 1700}))
    write_json(out / "check.json", {"data": "leg", "faults": [], "notes": [{}], "num_cases": {"train": 200}})
    return out


def test_a_plan_alone(tmp_path):
    write_overview(a_folder(tmp_path / "run"))
    page = (tmp_path / "run/index.html").read_text()
    assert "64 px, 1,700 updates." in page and "No faults, 1 note; cases: 200 in train, 40 in validation." in page
    assert "training/index.html" not in page and "macdm generate" not in page and "<pre>" not in page


def test_what_other_commands_leave_is_linked_with_its_sentence(tmp_path):
    out = a_folder(tmp_path / "run")
    for folder, file, content in (
        ("audit", "audit.json", AUDIT),
        ("evaluation", "evaluation.json", {"conclusion": ["They help.", "A little."]}),
        ("sweep_w3", "sweep.json", {"conclusion": []}),
    ):
        (out / folder).mkdir()
        (out / folder / "index.html").write_text("page")
        write_json(out / folder / file, content)
    refresh_around(out / "evaluation")
    page = (out / "index.html").read_text()
    for link in ("audit/index.html", "evaluation/index.html", "sweep_w3/index.html"):
        assert f'href="{link}"' in page
    assert page.count("No copies found &lt;here&gt;.") == 1 and "3% of 64 pairs are called copies" in page
    assert "They help. A little." in page and "Sweep (sweep_w3)" in page


def test_folders_that_hold_no_plan_are_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    refresh_around(tmp_path / "out")
    refresh_around(None)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
