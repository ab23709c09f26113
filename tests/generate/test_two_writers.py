"""One process writes into an output folder at a time; the second ends with one sentence and changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.files import locked
from diffusers_macdm.generate import generate


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


def commands_into(out):
    """Every command that writes into a folder for long; what it works on is missing, for the folder comes first."""
    return {
        "generate": ["nowhere", str(out), "--num-per-class", "1"],
        "audit": ["--real", "nowhere", "--synthetic", "nowhere", "--out", str(out)],
        "evaluate": ["--real", "nowhere", "--synthetic", "nowhere", "--out", str(out)],
        "compare": ["--real", "nowhere", "--out", str(out)],
        "sweep": ["nowhere", "--real", "nowhere", "--out", str(out), "--grid", "guidance_scale=0,1"],
    }


@pytest.mark.parametrize("command", commands_into("out"))
def test_a_folder_that_another_process_writes_is_refused(command, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = commands_into(out)[command]
    with locked(out):
        assert cli.main([command, *arguments]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"macdm {command}: {out} is being written by another process (process {os.getpid()} on ")
        assert [path.name for path in out.iterdir()] == [".lock"]
    assert not out.exists()
    assert cli.main([command, *arguments]) == 1  # free again: now it is what it works on that is missing
    assert "being written" not in capsys.readouterr().err and not out.exists()


def files_of(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_retry_while_the_first_runs_and_after_its_kill(model, tmp_path, capsys):
    """The set is that of a call that nobody disturbed."""
    arguments = ["--num-per-class", "40", "--num-inference-steps", "5", "--batch-size", "4", "--device", "cpu"]
    out, metadata = tmp_path / "out", tmp_path / "out/train/metadata.jsonl"
    first = subprocess.Popen([sys.executable, "-m", "diffusers_macdm", "generate", str(model), str(out), *arguments])
    try:
        while first.poll() is None and not metadata.exists():
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)  # so that it is still there whatever this process takes
        before = files_of(out)
        assert cli.main(["generate", str(model), str(out), *arguments]) == 1
        assert f"being written by another process (process {first.pid} on " in capsys.readouterr().err
        assert files_of(out) == before
    finally:
        first.kill()
        first.wait()
    assert cli.main(["generate", str(model), str(out), *arguments]) == 0
    generate(model, tmp_path / "whole", 40, num_inference_steps=5, batch_size=4, device="cpu", progress=False)
    found, whole = files_of(out), files_of(tmp_path / "whole")
    assert found == whole and len(found["train/metadata.jsonl"].splitlines()) == 80


def test_further_processes_of_a_launcher_have_nothing_to_do(model, tmp_path, monkeypatch, capsys):
    arguments = ["generate", str(model), str(tmp_path / "out"), "--num-per-class", "1", "--num-inference-steps", "1"]
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(arguments) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "macdm generate: runs in one process, the first; this one (1 of 2) has nothing to do."
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert cli.main(arguments) == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["num_pairs"] == 2
