"""What a resumed run is compared with: the record of the run before, which may be an earlier version's."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from accelerate import Accelerator
from launching import reset_accelerate, settings_of

from diffusers_macdm.provenance.records import TRAINING_RECORDS
from diffusers_macdm.training import records


# Records that version 0.1.0 (commit d003c5d) wrote of two tiny trainings on a phantom of 10 cases.
RUN_0_1_0 = Path(__file__).parent / "fixtures" / "run_0_1_0"
SCRIPTS = {"unet": "train_macdm", "guidance_classifier": "train_guidance_classifier"}


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    reset_accelerate()
    yield Accelerator()
    reset_accelerate()


def resumed(network, folder, accelerator, **values):
    """Return the record of a run that goes on from 0.1.0's."""
    path = folder / TRAINING_RECORDS[network]
    before = json.loads(path.read_text())
    asked = {name: value for name, value in before["arguments"].items() if value is not None}
    if network == "unet":
        asked["embedding_steps"] = asked.pop("audit_embedding_steps")
    settings = settings_of(SCRIPTS[network], **{**asked, **values, "resume_from_checkpoint": "latest"})
    configuration = records.record(settings, data=before["data"])
    (folder / "checkpoint-2").mkdir()
    return records.record_of_run(network, configuration, accelerator, folder / "checkpoint-2", step=2)


@pytest.fixture
def begun(tmp_path, accelerator, monkeypatch):
    """A folder with 0.1.0's records, as if written on this machine."""
    folder = shutil.copytree(RUN_0_1_0, tmp_path / "model")
    monkeypatch.setattr(records, "hardware_name", lambda device: "cpu, 2 cores")
    return folder


@pytest.mark.parametrize("network", SCRIPTS)
def test_a_run_of_version_0_1_0_goes_on_without_a_warning(network, begun, accelerator, caplog):
    with caplog.at_level(logging.WARNING):
        record = resumed(network, begun, accelerator)
    assert not caplog.records
    assert record["arguments"]["resume_from_checkpoint"] == "latest"
    assert record["versions"]["diffusers_macdm"] == records.own_version()


def test_true_changes_are_named(begun, accelerator, caplog):
    with caplog.at_level(logging.WARNING):
        resumed("unet", begun, accelerator, **{"learning_rate": 0.5, "samples_per_class": [2, 2], "weak_unet_step": 3})
    assert [record.getMessage() for record in caplog.records] == [
        "Resumed with other options than before: samples_per_class None -> [2, 2], learning_rate 0.001 -> 0.5, "
        "weak_unet_step None -> 3."
    ]


def test_renamed_unknown_and_new_options(monkeypatch):
    monkeypatch.setattr(records, "RENAMED", {"--old_seed": "--seed", "--audit": ("--audit_cases", "--audit_samples")})
    now = records.record(settings_of("train_macdm", seed=1, audit_samples=5, audit_cases=5))
    now = json.loads(json.dumps(now, default=str))
    other = ("seed", "audit_cases", "audit_samples")
    same = {name: value for name, value in now["arguments"].items() if name not in other}

    def changes(**arguments):
        return records.changed_options({"arguments": {**same, **arguments}}, now, records.DenoiserSettings)

    assert changes(old_seed=1, audit=5, gone="x") == []
    assert changes(old_seed=2, audit=4) == ["seed 2 -> 1", "audit_samples 4 -> 5", "audit_cases 4 -> 5"]
    assert changes(audit=5) == ["seed 0 -> 1"]  # an option that the earlier version did not have: its default


def test_machines_are_compared_as_far_as_both_records_say(begun):
    before = json.loads((begun / TRAINING_RECORDS["unet"]).read_text())
    before["arguments"] = {}
    now = {**before, "run": {**before["run"], "num_processes": 2}}
    assert records.changed_options(before, now, records.DenoiserSettings) == ["num_processes 1 -> 2"]
    del before["run"]["num_processes"]
    assert records.changed_options(before, now, records.DenoiserSettings) == []
