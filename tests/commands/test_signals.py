"""SIGTERM and SIGINT end a busy command at once, with their exit code; what it leaves behind can be gone on with."""

import signal
import sys
import time

import pytest
from forking import Fork
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.phantom import write_phantom


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    tiny_pipeline().save_pretrained(folder / "model")
    write_phantom(folder / "data", 6, 6, 32, 0)
    return folder


def macdm(log, *words):
    def run():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as a terminal has it
        sys.exit(cli.main([str(word) for word in words]))

    return Fork(run, log)


def stopped(fork, number, is_busy):
    """Send the signal once it is busy; it ends within seconds."""
    while not is_busy():
        assert fork.poll() is None, fork.said
        time.sleep(0.01)
    fork.kill(number)
    assert fork.wait(30) == 128 + number, fork.said
    assert "Traceback" not in fork.said
    assert ("macdm: interrupted" if number == signal.SIGINT else "ended by SIGTERM") in fork.said


def files_of(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_generate_goes_on_where_it_was_stopped(folder, tmp_path, number):
    words = ["--num-per-class", 40, "--num-inference-steps", 4, "--batch-size", 4, "--device", "cpu"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    fork = macdm(tmp_path / "log", "generate", folder / "model", out, *words)
    stopped(fork, number, lambda: len(list(out.glob("train/images/*.png"))) > 8)
    assert not (out / ".lock").exists() and not [path for path in out.rglob("*") if ".tmp" in path.name]
    assert not (out / "summary.json").exists()
    for target in (out, whole):
        assert macdm(tmp_path / "log", "generate", folder / "model", target, *words).wait(240) == 0
    assert files_of(out) == files_of(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_audit_leaves_nothing_half_written(folder, tmp_path, number):
    words = ["audit", "--real", folder / "data", "--synthetic", folder / "data", "--out", tmp_path / "out"]
    log = tmp_path / "log"

    def busy_audit():
        import diffusers_macdm.audit.run as audit

        signal.signal(signal.SIGINT, signal.default_int_handler)
        audit._refuse_same = lambda *_: print("BUSY", flush=True)  # the same set stands for a synthetic one
        sys.exit(cli.main([*map(str, words), "--embedding-steps", "1000000", "--device", "cpu"]))

    fork = Fork(busy_audit, log)
    stopped(fork, number, lambda: "BUSY" in fork.said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]  # the folder is free for the next one
