"""Two trainings in one output folder: one of them trains as if alone, the other ends with one sentence."""

import itertools
import time

import pytest
from forking import train
from launching import assert_same_weights

from diffusers_macdm.phantom import write_phantom


SCRIPTS = ("train_macdm", "train_guidance_classifier")
RESULT = {"train_macdm": "unet", "train_guidance_classifier": "guidance_classifier"}
# Long enough that the other one comes in time; the loader of data is a process of its own.
VALUES = {"max_train_steps": 24, "checkpointing_steps": 4, "dataloader_num_workers": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=6, num_lesion=4, size=32, seed=0)
    return folder


def started(script, data, folder, log, delay=0.0):
    return train(script, log, before=lambda: time.sleep(delay), train_data_dir=data, output_dir=folder, **VALUES)


def check_pair(data, tmp_path, scripts, delay):
    """Start both; returns the script of the one that was refused."""
    folder = tmp_path / f"{'-'.join(scripts)}-{delay}"
    forks = [
        started(script, data, folder, tmp_path / f"{folder.name}-{number}.log", number * delay)
        for number, script in enumerate(scripts)
    ]
    codes = [fork.wait() for fork in forks]
    assert sorted(codes) == [0, 1], "".join(fork.said for fork in forks)
    refused, script = forks[codes.index(1)], scripts[codes.index(0)]
    (sentence,) = [line for line in refused.said.splitlines() if line.startswith("error: ")]
    if f"{folder} is being written by another process" not in sentence:  # it came when all was done
        assert "is the result of an earlier run" in sentence
    whole = tmp_path / f"whole-{script}"
    if not whole.is_dir():
        assert started(script, data, whole, tmp_path / "whole.log").wait() == 0
    assert_same_weights(folder / RESULT[script], whole / RESULT[script])
    assert not (folder / ".lock").exists() and "Traceback" not in refused.said
    return "another process" in sentence


def test_denoiser_and_classifier_at_once(data, tmp_path):
    assert check_pair(data, tmp_path, SCRIPTS, 0.0)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_two_trainings(data, tmp_path):
    found = [
        check_pair(data, tmp_path, scripts, delay)
        for scripts, delay in itertools.product(itertools.product(SCRIPTS, SCRIPTS), (0.0, 0.6))
    ]
    print(f"\ntwo trainings in one folder: {len(found)} times one was refused ({sum(found)} by the lock), the other exact")
