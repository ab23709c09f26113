"""`benchmarks/quality.py`: its table of candidates, what it reads from a training's log, and a whole run with tiny networks."""

import argparse
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_pipeline

from diffusers_macdm.data.cases import load_cases
from diffusers_macdm.files import write_json
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.training.loop import parse_settings
from diffusers_macdm.training.settings import DenoiserSettings


SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "quality.py"
SIZE = 32


@pytest.fixture(scope="module")
def quality():
    spec = importlib.util.spec_from_file_location("benchmark_of_quality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def test_every_candidate_has_options_that_the_training_takes(quality):
    by_name = {candidate.name: candidate for candidate in quality.CANDIDATES}
    assert len(by_name) == len(quality.CANDIDATES) and {"paper", "clean"} <= set(by_name)
    for candidate in quality.CANDIDATES:
        base = by_name[candidate.same_training_as or candidate.name]
        assert base.same_training_as is None and not (candidate.same_training_as and candidate.training)
        words = [*quality.NETWORK, *base.training, "--train_data_dir", "data", "--resolution", "64", "--audit_steps", "0"]
        parse_settings(DenoiserSettings, words).check()


def test_later_options_override_those_of_the_network(quality):
    words = [*quality.NETWORK, "--patch_size", "4", "--block_out_channels", "8", "16"]
    settings = parse_settings(DenoiserSettings, [*words, "--train_data_dir", "data"])
    assert settings.patch_size == 4 and settings.block_out_channels == (8, 16)


def test_the_log_says_how_long_the_updates_took(quality, tmp_path):
    write_json(tmp_path / "training_config.json", {"arguments": {"train_batch_size": 4, "gradient_accumulation_steps": 2}})
    rows = [(10, 8.0), (20, 16.0), (25, 40.0)]  # 80 samples in 10 s, 80 in 5 s, 40 in 1 s
    log = "".join(json.dumps({"step": step, "samples_per_second": speed}) + "\n" for step, speed in rows)
    (tmp_path / "training_log.jsonl").write_text(log)
    assert quality.seconds_of(tmp_path) == (16.0, 200)
    assert quality.seconds_of(tmp_path, after=10) == (6.0, 120)


@pytest.fixture
def arguments(quality, tmp_path, monkeypatch):
    """A benchmark of a tiny network that no training is needed for."""
    trainings = []

    def train(args, data, candidate):
        folder = args.out / candidate.name
        if not (folder / "model").exists():
            trainings.append(candidate.name)
            tiny_pipeline(with_classifier=False, sample_size=SIZE, num_class_embeds=3).save_pretrained(folder / "model")
            facts = {"seconds_per_update": 0.5, "steps": 60, "seconds": 30.0, "samples_seen": 480, "options": []}
            write_json(folder / "training.json", facts)
        return folder

    def prepare_data(args):
        data = tmp_path / "phantom"
        if not data.exists():
            write_phantom(data, 24, 24, SIZE, 0)
        return data, load_cases(data, "train", SIZE), load_cases(data, "validation", SIZE)

    steps = {"num_inference_steps": 2}
    rows = (
        quality.Candidate("one", "tiny", sampling=steps),
        quality.Candidate(
            "two",
            "its samples otherwise",
            same_training_as="one",
            scheduler="DPMSolverMultistepScheduler",
            scheduler_config={"use_karras_sigmas": True},
            sampling=steps,
        ),
    )
    for name, value in (("train", train), ("prepare_data", prepare_data), ("CANDIDATES", rows)):
        monkeypatch.setattr(quality, name, value)
    args = argparse.Namespace(
        out=tmp_path / "out",
        data="phantom48",
        budget_minutes=0.5,
        candidates=None,
        pairs_per_label=8,
        batch_size=16,
        threads=torch.get_num_threads(),
        skip_copies=True,
        segmenter_steps=2,
        seed=0,
    )
    return args, trainings


def test_a_run_ends_with_a_table_and_pictures_and_goes_on(quality, arguments, capsys):
    args, trainings = arguments
    quality.run(args)
    results = json.loads((args.out / "results.json").read_text())
    assert list(results["candidates"]) == ["one", "two"] and trainings == ["one"]
    assert results["settings"]["budget_minutes"] == 0.5
    assert results["candidates"]["two"]["samples_seen"] == 480
    samples = [np.load(args.out / name / "samples.npz") for name in ("one", "two")]
    assert samples[0]["labels"].tolist() == [0, 1] * 8 and samples[0]["films"].dtype == np.uint8
    assert not np.array_equal(samples[0]["films"], samples[1]["films"])
    table = (args.out / "quality.md").read_text()
    assert "| | real | training cases | one | two |" in table and "| AUC |" in table and "its samples otherwise" in table
    assert all((args.out / f"{name}.png").is_file() for name in ("real", "one", "two"))
    capsys.readouterr()
    quality.run(args)
    assert capsys.readouterr().out.count("done already") == 2 and trainings == ["one"]


def test_other_settings_and_a_changed_candidate_are_refused(quality, arguments, monkeypatch, tmp_path):
    args, _ = arguments
    args.candidates = ["one"]
    # What is measured is of no matter here, and takes long.
    monkeypatch.setattr(quality, "measure", lambda *_, **__: {})
    monkeypatch.setattr(quality, "write_table", lambda args, _: (args.out / "quality.md").write_text(""))
    quality.run(args)
    with pytest.raises(ValueError, match="another seed"):
        quality.run(argparse.Namespace(**{**vars(args), "seed": 1}))
    changed = dataclasses.replace(quality.CANDIDATES[0], sampling={"num_inference_steps": 3})
    monkeypatch.setattr(quality, "CANDIDATES", (changed,))
    with pytest.raises(ValueError, match="another sampling num_inference_steps"):
        quality.run(args)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(FileExistsError, match="no benchmark of quality"):
        quality.run(argparse.Namespace(**{**vars(args), "out": other}))


def test_data_that_is_not_here_is_skipped(quality, tmp_path, monkeypatch, capsys):
    words = ["quality.py", str(tmp_path / "out"), "--data", "fracatlas64", "--fracatlas", str(tmp_path / "none")]
    monkeypatch.setattr("sys.argv", words)
    quality.main()
    assert "fracatlas64 is skipped" in capsys.readouterr().out and not (tmp_path / "out").exists()
