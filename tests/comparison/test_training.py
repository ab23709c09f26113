"""The comparison's training loop tells a log how far it is, and keeps quiet where it was not asked to."""

import re

from toy_cases import toy_cases

from diffusers_macdm import progress
from diffusers_macdm.comparison.settings import TrainingBudget
from diffusers_macdm.comparison.training import batches


def test_progress(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    drawn = {"steps": 3, "seed": 0, "device": "cpu", "augmentation": None}
    for shown in (None, "denoiser"):
        assert len(list(batches(toy_cases(), TrainingBudget(batch_size=4), **drawn, progress=shown))) == 3
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (0 if shown is None else 3)
    assert re.fullmatch(r"denoiser: 3 of 3 steps, .* 0 s left", lines[-1])
