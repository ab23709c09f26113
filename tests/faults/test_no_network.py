"""Nothing that does not name the Hub tries to reach it: every look-up and connection of the commands is noted, and refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import TINY, options

from diffusers_macdm.phantom import write_phantom


TRAINING = Path(__file__).resolve().parents[2] / "training"
GUARD = """
import os, socket

def refuse(what):
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(what + "\\n")
    raise OSError("the network is cut")

class Guarded(socket.socket):
    def connect(self, address):
        return super().connect(address) if self.family == socket.AF_UNIX else refuse(f"connect {address}")

    def connect_ex(self, address):
        return super().connect_ex(address) if self.family == socket.AF_UNIX else refuse(f"connect {address}")

socket.socket = Guarded
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, lambda *arguments, name=name, **options: refuse(f"{name} {arguments}"))
"""
CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_no_command_reaches_for_the_network(tmp_path):
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "network.log"
    log.touch()
    write_phantom(tmp_path / "data", 8, 8, 32, 0)
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    environment |= {name: str(tmp_path / "cache" / name) for name in CACHES}
    paths = [str(tmp_path / "guard"), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "NETWORK_LOG": str(log)}

    def run(*words, code=0):
        result = subprocess.run(
            [sys.executable, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == code, (words, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr and log.read_text() == "", (words, log.read_text(), result.stderr)
        return result.stdout + result.stderr

    train = options(**TINY, train_data_dir="data", output_dir="model")
    macdm = ("-m", "diffusers_macdm")
    few = ("--num-per-class", 2, "--num-inference-steps", 2)
    commands = [
        (*macdm, "check", "data"),
        (TRAINING / "train_guidance_classifier.py", *train),
        (TRAINING / "train_macdm.py", *train, "--audit_steps", 0),
        (*macdm, "generate", "model", "made", *few),
        (
            *macdm,
            "generate",
            "model",
            "varied",
            "--num-per-class",
            1,
            "--num-inference-steps",
            2,
            "--from",
            "data",
            "--strength",
            0.5,
        ),
        (*macdm, "audit", "--real", "data", "--synthetic", "made", "--out", "audit", "--embedding-steps", 2, "--planted", 2),
    ]
    for words in commands:
        run(*words)
    mistyped = [
        (*macdm, "check", "dta/legs"),
        (TRAINING / "train_macdm.py", *options(**TINY, train_data_dir="dta/legs", output_dir="other")),
        (*macdm, "audit", "--real", "dta/legs", "--synthetic", "made", "--out", "audit2"),
    ]
    for words in mistyped:
        said = run(*words, code=1)
        assert "dta/legs: no such folder" in said, said
    tried = len(commands) + len(mistyped)
    print(f"\nnetwork: {tried} commands, {len(mistyped)} of them with a mistyped folder; 0 tried to reach it")
