"""Checkpoints: which are whole, which one a run goes on from, and what they are made of."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from faults_of_checkpoints import DAMAGES, flip_bit
from safetensors.torch import load_file, save_file

from diffusers_macdm import files
from diffusers_macdm.training import checkpoints
from diffusers_macdm.training.state import MODEL, OPTIMIZER, WEIGHTS


def write(folder, value=0.0):
    (folder / MODEL).mkdir()
    save_file({"weight": torch.full((8,), value)}, folder / MODEL / WEIGHTS)
    save_file({"weight/exp_avg": torch.full((8,), value)}, folder / OPTIMIZER)


def saved(folder, *steps, total_limit=None):
    for step in steps:
        checkpoints.save_checkpoint(folder, step, total_limit, write)
    return [path.name for path in checkpoints.list_checkpoints(folder)]


def options(resume, **values):
    return SimpleNamespace(resume_from_checkpoint=str(resume) if isinstance(resume, Path) else resume, **values)


def test_they_are_listed_by_number_and_only_complete_ones(tmp_path):
    assert saved(tmp_path, 10, 9, 100) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    for name in ("checkpoint-200.tmp", "checkpoint-9.old.tmp", "checkpoint-x", "checkpoint-300"):
        (tmp_path / name).mkdir()
    assert saved(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert checkpoints.list_checkpoints(tmp_path / "missing") == []


def test_the_limit_never_deletes_the_checkpoint_just_written(tmp_path):
    saved(tmp_path, 4, 8, 12)  # 8 and 12 are of before the run went back to 4
    assert saved(tmp_path, 6, total_limit=1) == ["checkpoint-6", "checkpoint-8", "checkpoint-12"]


def test_one_that_is_half_deleted_stands_in_nobodys_way(tmp_path):
    """As a kill of an earlier version has left it: its last file is gone, or any other."""
    saved(tmp_path, 1, 2, 3, 4)
    (tmp_path / "checkpoint-1" / checkpoints.PROGRESS).unlink()
    (tmp_path / "checkpoint-2" / OPTIMIZER).unlink()
    assert saved(tmp_path, 5, total_limit=2) == ["checkpoint-4", "checkpoint-5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5"]


def test_resume_options(tmp_path):
    finished = tmp_path / "model_index.json"
    assert checkpoints.prepare_output(options(None), finished, tmp_path) is None
    saved(tmp_path, 9, 10)
    with pytest.raises(FileExistsError, match="checkpoint-9 is the result of an earlier run"):
        checkpoints.prepare_output(options(None), finished, tmp_path)
    assert checkpoints.prepare_output(options("latest"), finished, tmp_path) == tmp_path / "checkpoint-10"
    older = options(tmp_path / "checkpoint-9")
    assert checkpoints.prepare_output(older, finished, tmp_path) == tmp_path / "checkpoint-9"
    # Into a new folder: a fork of that run.
    assert checkpoints.prepare_output(older, tmp_path / "fork" / "x", tmp_path / "fork") == tmp_path / "checkpoint-9"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, damage):
    saved(tmp_path, 1, 2)
    DAMAGES[damage](tmp_path / "checkpoint-2")
    assert checkpoints.damage(tmp_path / "checkpoint-1") is None
    reason = checkpoints.damage(tmp_path / "checkpoint-2")
    finished = tmp_path / "model_index.json"
    assert checkpoints.prepare_output(options("latest"), finished, tmp_path) == tmp_path / "checkpoint-1"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"Skipped what is damaged: {tmp_path}/checkpoint-2 ({reason}). Going on from {tmp_path}/checkpoint-1."
    )
    # The one that is asked for by name is not exchanged for another.
    named = tmp_path / "checkpoint-2"
    with pytest.raises((ValueError, FileNotFoundError), match=f"--resume_from_checkpoint {named}: th.*(damaged|no complete)"):
        checkpoints.prepare_output(options(named), finished, tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match=f"no checkpoint is whole: {named} .*; start afresh in another --output_dir"):
        checkpoints.prepare_output(options("latest"), finished, tmp_path)


def test_every_bit_counts(tmp_path):
    """Of the files and of the digests alike; blanks between the digests are none of them."""
    saved(tmp_path, 1)
    checkpoint = tmp_path / "checkpoint-1"
    for path in (checkpoint / OPTIMIZER, checkpoint / checkpoints.PROGRESS):
        content = path.read_bytes()
        for number in range(0, 8 * len(content), 7):
            flip_bit(path, number)
            blank = path.name == checkpoints.PROGRESS and chr(content[number // 8]) in " \n"
            assert blank or checkpoints.damage(checkpoint) is not None, (path.name, number)
            path.write_bytes(content)
    assert checkpoints.damage(checkpoint) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_damage(tmp_path, value):
    checkpoints.save_checkpoint(tmp_path, 1, None, lambda folder: write(folder, value))
    assert checkpoints.damage(tmp_path / "checkpoint-1") == f"{MODEL}/{WEIGHTS} is not finite in weight"


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    saved(tmp_path, 1)

    def fail(folder):
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save_checkpoint(tmp_path, 2, 1, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert checkpoints.damage(tmp_path / "checkpoint-1") is None


def test_everything_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """Files, then their folders, then the rename, then the folder that has the new name: nothing of it can be lost alone."""
    events = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").resolve().relative_to(tmp_path))
        fsync(descriptor)

    def renamed(self, target):
        events.append((self.relative_to(tmp_path), target.relative_to(tmp_path)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    saved(tmp_path, 1)
    renames = [event for event in events if isinstance(event, tuple)]
    (source, target) = renames[-1]
    assert target == Path("checkpoint-1") and events[-1] == Path(".")
    before = events[: events.index((source, target))]
    written = [path.relative_to(tmp_path / target) for path in (tmp_path / target).rglob("*")]
    assert before[-1] == source and len(written) == 4 and all(source / path in before for path in written)


def test_old_ones_are_renamed_before_they_are_deleted(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, ignore_errors=False: None)  # killed here
    assert saved(tmp_path, 2, total_limit=1) == ["checkpoint-2"]
    assert not (tmp_path / "checkpoint-1").exists()


def test_a_truncated_log_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    checkpoints.truncate_log(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_the_limit_counts_whole_folders_alone(tmp_path):
    saved(tmp_path, 1, 2)
    assert json.loads((tmp_path / "checkpoint-2" / checkpoints.PROGRESS).read_text())["step"] == 2
    assert load_file(tmp_path / "checkpoint-2" / OPTIMIZER)["weight/exp_avg"].tolist() == [0.0] * 8
