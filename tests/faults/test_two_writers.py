"""Several processes at once into one folder: one writes, the others end with a sentence; the result is that of one alone."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from audit_data import films, write_split
from tiny_models import tiny_pipeline

from diffusers_macdm.generate import generate


pytestmark = pytest.mark.faults
PAIRS = 40
QUICK = ["--num-inference-steps", "4", "--batch-size", "4", "--device", "cpu"]
SENTENCE = "is being written by another process"
SEED = int(os.environ.get("MACDM_FAULTS_SEED", "0"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writers")
    tiny_pipeline().save_pretrained(folder / "model")
    write_split(folder / "data/train", films(8, 0), patient_id=[f"t{i}" for i in range(8)])
    write_split(folder / "data/validation", films(10, 1), patient_id=[f"v{i}" for i in range(10)])
    settings = {"num_inference_steps": 4, "batch_size": 4, "device": "cpu", "progress": False}
    generate(folder / "model", folder / "alone", PAIRS, **settings)
    return folder


def files_of(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def start(*words, **environment):
    command = [sys.executable, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)


def ends(processes):
    """Exit code and output of each."""
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def generating(folder, out):
    return start("-m", "diffusers_macdm", "generate", folder / "model", out, "--num-per-class", PAIRS, *QUICK)


def test_generate(folder, tmp_path, capsys):
    """Rounds of three processes; in every second one, the writer is killed at a random moment and all start again."""
    draw, second, killed = random.Random(SEED), 0, 0
    rounds = 6
    for number in range(rounds):
        out = tmp_path / str(number)
        processes = [generating(folder, out) for _ in range(3)]
        if number % 2:
            while not (out / "train/metadata.jsonl").exists() and any(process.poll() is None for process in processes):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.3))
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
            ends(processes)
            processes = [generating(folder, out) for _ in range(3)]
        results = ends(processes)
        for code, output in results:
            assert "Traceback" not in output, output
            assert code == 0 or (code == 1 and SENTENCE in output.splitlines()[-1]), output
        second += sum(code == 1 for code, _ in results)
        assert any(code == 0 for code, _ in results)
        assert files_of(out) == files_of(folder / "alone")
    with capsys.disabled():
        print(
            f"\ntwo writers, generate: {rounds} rounds of 3 processes (seed {SEED}), {killed} killed while writing, {second} "
            f"refused in one sentence, {rounds} of {rounds} sets are those of one process alone"
        )


def test_audit(folder, tmp_path, capsys):
    words = ["-m", "diffusers_macdm", "audit", "--real", folder / "data", "--synthetic", folder / "alone"]
    words += ["--embedding-steps", 30, "--planted", 2, "--device", "cpu", "--out", tmp_path / "out"]
    results = ends([start(*words) for _ in range(3)])
    refused = [output.splitlines()[-1] for code, output in results if code == 1]
    assert sorted(code for code, _ in results) == [0, 1, 1], results
    assert all(SENTENCE in line or "is not an empty folder" in line for line in refused)
    assert (tmp_path / "out/audit.json").is_file() and not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.tmp"))
    with capsys.disabled():
        print(f"\ntwo writers, audit: 3 processes, {len(refused)} refused in one sentence, 1 audit")


@pytest.mark.parametrize("processes", [2, 3])
def test_accelerate_launch(folder, tmp_path, processes, capsys):
    words = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "-m", "diffusers_macdm"]
    words += ["generate", folder / "model", tmp_path / "out", "--num-per-class", PAIRS, *QUICK]
    ((code, output),) = ends([start(*words, ACCELERATE_USE_CPU="true")])
    assert code == 0, output
    assert output.count("runs in one process, the first; this one") == processes - 1
    assert files_of(tmp_path / "out") == files_of(folder / "alone")
    with capsys.disabled():
        print(f"\ntwo writers, accelerate launch: {processes} processes, one set")
