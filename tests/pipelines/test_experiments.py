"""`pipelines/experiments.py` as `make experiments` runs it, at the smallest sizes."""

import json
from pathlib import Path

import pytest
from browser import needs_browser, rendered


PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
FILES = {"evaluate": "evaluation.json", "compare": "comparison.json", "sweep": "sweep.json"}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PIPELINES)
        from experiments import Sizes, run_experiments
    sizes = Sizes(
        num_normal=8,
        num_lesion=8,
        classifier_steps=2,
        denoiser_steps=2,
        num_per_class=8,
        num_inference_steps=2,
        downstream_steps=2,
        downstream_width=4,
        ratios=("0.5", "1"),
        models=("macdm", "classifier_free"),
        generator_steps=3,
        generator_channels=("8", "16"),
        denoiser_channels=("32", "32"),
        grid=("guidance_scale=0,1",),
        sweep_per_class=4,
    )
    out = tmp_path_factory.mktemp("runs") / "experiments"
    run_experiments(out, sizes)
    return out, lambda: run_experiments(out, sizes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_measurement_ends_with_its_page(experiments, capfd):
    out, again = experiments
    for folder, file in FILES.items():
        assert json.loads((out / folder / file).read_text())["conclusion"]
        assert (out / folder / "index.html").is_file()
    state = json.loads((out / "experiments.json").read_text())
    assert list(state["seconds"]) == ["phantom", "guidance classifier", "denoiser", "generate", *FILES]
    capfd.readouterr()
    again()
    assert capfd.readouterr().out.count("done already") == 7


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_browser
def test_pages_are_right_in_a_browser(experiments, tmp_path):
    out, _ = experiments
    for folder, file in FILES.items():
        for width in (1280, 400):
            seen = rendered(out / folder / "index.html", width, tmp_path)
            assert json.loads((out / folder / file).read_text())["conclusion"][0] in seen["text"]
            assert seen["scrollWidth"] <= seen["clientWidth"] == width and not seen["tooWide"]
            assert seen["images"] and all(width > 300 and height > 100 for width, height, _ in seen["images"])
