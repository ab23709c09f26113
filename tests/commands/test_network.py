"""With the network cut, what does not name the Hub does not try to reach it."""

import json
import os
import subprocess
import sys

import pytest
from tiny_models import tiny_pipeline

from diffusers_macdm.hub.names import refuse_no_repository
from diffusers_macdm.phantom import write_phantom


# Every way out of the process, looking up a name included, is noted and refused. Nothing says that it is offline.
GUARDED = """
import json, socket, sys

tried = []

def refuse(*arguments, **keywords):
    tried.append(repr(arguments[-1]) if arguments else "")
    raise OSError("the network is cut")

def connect(self, address):
    return refuse(address) if self.family in (socket.AF_INET, socket.AF_INET6) else original(self, address)

original = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = socket.gethostbyname = refuse

from diffusers_macdm.commands import main as cli

results = []
for line in json.loads(sys.argv[1]):
    before = len(tried)
    results.append([cli.main(line.split()), tried[before:]])
print(json.dumps(results))
"""
QUICK = "--num-inference-steps 2 --device cpu"
AUDIT = "--embedding-steps 1 --planted 2 --device cpu"
LINES = {
    "check data": 0,
    f"generate model set --num-per-class 3 {QUICK}": 0,
    f"generate model from --num-per-class 1 --from data --strength 0.5 {QUICK}": 0,
    f"audit --real data --synthetic set --out audit --model model {AUDIT}": 0,
    "push model alice/leg --dry-run --audit audit --synthetic set": 0,
    "push-dataset set alice/pairs --dry-run": 0,
    "push-metric dice alice/dice --dry-run": 0,
    "check dta": 1,
    f"generate modle out --num-per-class 1 {QUICK}": 1,
    f"generate runs/modle out --num-per-class 1 {QUICK}": 1,
    f"generate rnus/model out --num-per-class 1 {QUICK}": 1,
    f"generate ./alice/leg out --num-per-class 1 {QUICK}": 1,
    f"generate model out --num-per-class 1 --from runs/dta --strength 0.5 {QUICK}": 1,
    f"audit --real data --synthetic runs/ste --out out {AUDIT}": 1,
    f"audit --real data --synthetic set --model runs/modle --out out {AUDIT}": 1,
    "evaluate --real data --synthetic set --model runs/modle --out out": 1,
    "sweep runs/modle --real data --out out --grid guidance_scale=0,1": 1,
    "compare --real runs/dta --out out": 1,
    "push runs/modle alice/leg --dry-run": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    tiny_pipeline().save_pretrained(folder / "model")
    write_phantom(folder / "data", num_normal=8, num_lesion=8, size=32, seed=0)
    (folder / "runs").mkdir()
    for name in ("model", "data"):
        (folder / "runs" / name).symlink_to(folder / name)
    return folder


def guarded(folder, lines):
    offline = (
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_EVALUATE_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
    )
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    command = [sys.executable, "-c", GUARDED, json.dumps(list(lines))]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, json.loads(done.stdout.splitlines()[-1]), strict=True)), done.stderr


def test_nothing_is_asked_for(folder):
    results, errors = guarded(folder, LINES)
    assert {line: tried for line, (_, tried) in results.items() if tried} == {}
    assert {line: code for line, (code, _) in results.items()} == LINES, errors
    assert "Traceback" not in errors
    assert "did you mean runs/model? (The Hub's repository of this name is runs/modle@main.)" in errors


def test_the_guard_sees_who_asks(folder):
    """What names the Hub does reach for it."""
    line = f"generate somebody/legs@main out --num-per-class 1 {QUICK}"
    results, errors = guarded(folder, [line])
    code, tried = results[line]
    assert code == 1 and tried
    assert "it is not in the cache, and the Hub cannot be reached" in errors


@pytest.mark.parametrize("name", ["legs", "runs/modle", "rnus/model", "../alice/leg", "a/b/c", "/alice/leg", "alice/leg/", ""])
def test_no_repository(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        refuse_no_repository(name)


@pytest.mark.parametrize("name", ["alice/leg", "alice/leg@v1", "runs/modle@main"])
def test_a_repository(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    refuse_no_repository(name)
