"""Several processes at once into one folder: one writes, the others end with a sentence; the result is that of one alone."""

import os
import random
import subprocess
import sys
import time

import pytest
from audit_data import films, write_split
from forking import Fork
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.generate import generate


pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
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


def macdm(log, *words):
    """Start a command in a process of its own."""
    return Fork(lambda: sys.exit(cli.main([str(word) for word in words])), log)


def ends(forks):
    """Exit code and output of each."""
    return [(fork.wait(240), fork.said) for fork in forks]


def generating(folder, out, name, count=3):
    logs = [out.with_name(f"{out.name}-{name}-{number}.log") for number in range(count)]
    return [macdm(log, "generate", folder / "model", out, "--num-per-class", PAIRS, *QUICK) for log in logs]


def test_generate(folder, tmp_path, capsys):
    """Rounds of three processes; in every second one, all are killed at a random moment, and three start again."""
    draw, refused, killed, rounds = random.Random(SEED), 0, 0, 20
    for number in range(rounds):
        out = tmp_path / str(number)
        forks = generating(folder, out, "first")
        if number % 2:
            while not (out / "train/metadata.jsonl").exists() and any(fork.poll() is None for fork in forks):
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.5))
            killed += sum(fork.poll() is None for fork in forks)
            for fork in forks:
                fork.kill()
                fork.wait()
            forks = generating(folder, out, "second")
        results = ends(forks)
        for code, output in results:
            assert "Traceback" not in output, output
            assert code == 0 or (code == 1 and SENTENCE in output.splitlines()[-1]), output
        refused += sum(code == 1 for code, _ in results)
        assert any(code == 0 for code, _ in results)
        assert files_of(out) == files_of(folder / "alone")
    with capsys.disabled():
        print(
            f"\ntwo writers, generate: {rounds} rounds of 3 processes (seed {SEED}), {killed} killed while writing, {refused} "
            f"refused in one sentence, {rounds} of {rounds} sets are those of one process alone"
        )


def test_audit(folder, tmp_path, capsys):
    words = ["--real", folder / "data", "--synthetic", folder / "alone", "--out", tmp_path / "out"]
    words += ["--embedding-steps", 30, "--planted", 2, "--device", "cpu"]
    results = ends([macdm(tmp_path / f"log-{number}", "audit", *words) for number in range(3)])
    refused = [output.splitlines()[-1] for code, output in results if code == 1]
    assert sorted(code for code, _ in results) == [0, 1, 1], results
    assert all(SENTENCE in line or "is not an empty folder" in line for line in refused)
    assert (tmp_path / "out/audit.json").is_file() and not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.tmp"))
    with capsys.disabled():
        print(f"\ntwo writers, audit: 3 processes, {len(refused)} refused in one sentence, 1 audit")


@pytest.mark.parametrize("processes", [2])
def test_accelerate_launch(folder, tmp_path, processes, capsys):
    words = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "-m", "diffusers_macdm"]
    words += ["generate", folder / "model", tmp_path / "out", "--num-per-class", PAIRS, *QUICK]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
    output = done.stdout
    assert done.returncode == 0, output
    assert output.count("runs in one process, the first; this one") == processes - 1
    assert files_of(tmp_path / "out") == files_of(folder / "alone")
    with capsys.disabled():
        print(f"\ntwo writers, accelerate launch: {processes} processes, one set")
