"""Each of the hostile models of `hostile_models.py` given to `macdm generate`: no code runs, no traceback, no hang."""

import json
import resource
import shutil
import time

import numpy as np
import pytest
from hostile_models import HOSTILE, LOADS
from PIL import Image
from tiny_models import tiny_pipeline

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.commands import main as cli


MOST_SECONDS, MOST_MEGABYTES = 30, 600
# What loads and cannot be sampled from: `MaCDMPipeline` says so when it is called.
FOUND_WHEN_SAMPLING = {
    "weights: NaN", "weights: infinite", "weights: huge", "scheduler: offset beyond the end", "scheduler: betas beyond one",
    "scheduler: betas of NaN", "scheduler: betas of another number", "scheduler: unknown prediction",
    "scheduler: unknown spacing", "index: scheduler cannot work", "unet config: a sample that cannot be halved",
    "unet config: normalised by nothing", "unet config: scaled by nothing",
}  # fmt: skip
ARGUMENTS = ["--num-per-class", "1", "--num-inference-steps", "5", "--guidance-scale", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


def outcome_of(name, model, folder, monkeypatch, capsys):
    """Generate with the model; returns "a set" or the sentence."""
    target, out, sentinel = folder / "model", folder / "out", folder / "ran"
    shutil.copytree(model, target, symlinks=True)
    HOSTILE[name](target)
    monkeypatch.setenv("MACDM_SENTINEL", str(sentinel))
    monkeypatch.chdir(target)  # as if its files were modules of this process
    monkeypatch.syspath_prepend(str(target))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    capsys.readouterr()
    code = cli.main(["generate", str(target), str(out), *ARGUMENTS])  # an exception here is a traceback for a user
    errors = capsys.readouterr().err
    assert not sentinel.exists(), "code ran"
    assert time.monotonic() - begun < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEGABYTES * 1024
    assert "Traceback" not in errors
    if code == 0:
        images = [np.asarray(Image.open(path)) for path in sorted((out / "train/images").iterdir())]
        assert len(images) == 2 and json.loads((out / "summary.json").read_text())["num_pairs"] == 2
        return "a set"
    sentences = [line for line in errors.splitlines() if line.startswith("macdm generate: ")]
    assert code == 1 and len(sentences) == 1 and errors.splitlines()[-1] == sentences[0]
    assert not out.exists(), "something was written"
    return sentences[0]


def loads_in_python(name, model, folder, monkeypatch):
    """`MaCDMPipeline.from_pretrained` of the model; returns the sentence, or None where it is loaded."""
    target, sentinel = folder / "model", folder / "ran"
    shutil.copytree(model, target, symlinks=True)
    HOSTILE[name](target)
    monkeypatch.setenv("MACDM_SENTINEL", str(sentinel))
    monkeypatch.chdir(target)
    monkeypatch.syspath_prepend(str(target))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    sentence = None
    try:
        MaCDMPipeline.from_pretrained(target)
    except (ValueError, OSError) as error:
        sentence = str(error)
    assert not sentinel.exists(), "code ran"
    assert time.monotonic() - begun < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEGABYTES * 1024
    return sentence


QUICK = (
    "index: module beside", "index: pipe", "index: deep", "unet config: layers without end", "scheduler: device",
    "weights: bomb", "weights: pickle alone", "weights: NaN", "weights: huge", "scheduler: offset beyond the end",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_some(name, model, tmp_path, monkeypatch, capsys):
    assert outcome_of(name, model, tmp_path, monkeypatch, capsys).startswith("macdm generate: ")


OF_PYTHON = tuple(name for name in QUICK if name not in FOUND_WHEN_SAMPLING) + ("index: module of the system",)


@pytest.mark.parametrize("name", OF_PYTHON)
def test_some_in_python(name, model, tmp_path, monkeypatch):
    assert loads_in_python(name, model, tmp_path, monkeypatch)


@pytest.mark.faults
def test_all_in_python(model, tmp_path, monkeypatch, capsys):
    sentences, failed = {}, {}
    for number, name in enumerate(HOSTILE):
        with monkeypatch.context() as patch:
            try:
                (tmp_path / str(number)).mkdir()
                sentences[name] = loads_in_python(name, model, tmp_path / str(number), patch)
            except BaseException as error:
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    loaded = {name for name, sentence in sentences.items() if sentence is None}
    with capsys.disabled():
        ran = sum("code ran" in reason for reason in failed.values())
        print(
            f"\nhostile models, from_pretrained in Python: {len(HOSTILE)} tried, {len(sentences) - len(loaded)} refused, "
            f"{len(loaded)} loaded, code ran {ran}, others {len(failed) - ran}"
        )
    assert not failed, failed
    unread = {name for name in HOSTILE if name.startswith(("record", "audit"))}
    others = sorted(loaded - LOADS - FOUND_WHEN_SAMPLING - unread)
    assert not others, ", ".join(others)


@pytest.mark.faults
def test_all(model, tmp_path, monkeypatch, capsys):
    outcomes, failed = {}, {}
    for number, name in enumerate(HOSTILE):
        with monkeypatch.context() as patch:
            try:
                folder = tmp_path / str(number)
                folder.mkdir()
                outcomes[name] = outcome_of(name, model, folder, patch, capsys)
            except BaseException as error:
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    loaded = {name for name, outcome in outcomes.items() if outcome == "a set"}
    with capsys.disabled():
        ran = sum("code ran" in reason for reason in failed.values())
        print(
            f"\nhostile models: {len(HOSTILE)} tried, {len(outcomes) - len(loaded)} refused in one sentence, {len(loaded)} "
            f"harmless, code ran {ran}, tracebacks and others {len(failed) - ran}"
        )
    assert not failed, failed
    assert loaded <= LOADS, loaded - LOADS
