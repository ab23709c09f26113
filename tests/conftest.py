"""Settings that must stand before torch and the Hugging Face libraries are imported: they read them at import."""

import os
import shutil
import tempfile
from pathlib import Path


_session_home = Path(tempfile.mkdtemp(prefix="macdm-tests-"))

# Nothing may reach for the network, in the tests and in the processes that they start. A test that talks to its own
# server on the loopback address takes HF_HUB_OFFLINE out of that process's environment.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    TRANSFORMERS_OFFLINE="1",
)
# A worker of pytest-xdist for each core; and a forked process hangs where its parent has computed with several threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Caches of their own: results never depend on what an earlier run or the user's work left in the usual ones.
os.environ.update(
    HF_HOME=str(_session_home),
    HF_HUB_CACHE=str(_session_home / "hub"),
    HF_DATASETS_CACHE=str(_session_home / "datasets"),
    HF_MODULES_CACHE=str(_session_home / "modules"),
)
os.environ.pop("HF_TOKEN", None)
os.environ["MPLBACKEND"] = "Agg"
# The networks here are tiny: a second thread costs more than it brings, and one thread gives the same bits everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402


torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_unconfigure(config):
    shutil.rmtree(_session_home, ignore_errors=True)


# Trainings that tests of several files look at (training/conftest.py): made once, so in one process.
SHARED_RUNS = {"classifier_run", "denoiser_run", "resumed_classifier_run", "resumed_denoiser_run", "two_process_run"}


# What takes longest, handed out first (Makefile: --no-loadscope-reorder), so that no process ends alone with one of them.
# CPU seconds: 110 sweep, 90 shared trainings, 70 demo, 65 comparison, 65 generate; the others were not measured alone.
LONGEST = (
    "shared trainings",
    "tests/sweep/test_run.py",
    "tests/comparison/test_run.py",
    "tests/pipelines/test_demo.py",
    "tests/hub/test_loading.py",
    "tests/generate/test_run.py",
    "tests/evaluation/test_run.py",
    "tests/audit/test_run.py",
)


def _group(item) -> str:
    """The file, by its whole path: equal names in different rooms have nothing to share."""
    return "shared trainings" if SHARED_RUNS.intersection(item.fixturenames) else item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)  # xdist reads the markers in its own
def pytest_collection_modifyitems(config, items):
    """One process for each file, so that its fixtures are made once; one for all that look at the shared trainings."""
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))


@pytest.fixture
def hub(monkeypatch):
    """A Hub of our own, which this process takes for the real one when it pushes; alice is logged in."""
    from hub_server import HubServer
    from huggingface_hub import constants

    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server
