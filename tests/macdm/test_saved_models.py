"""Models that version 0.1.0 saved and published: they load, and sample what they sampled then."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from sample_saved_model import latents

from diffusers_macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel


FIXTURES = Path(__file__).parent / "fixtures"
SCRIPT = Path(__file__).parents[1] / "sample_saved_model.py"


def assert_as_then(results):
    expected = np.load(FIXTURES / "model_0_1_0" / "expected.npz")
    assert results.keys() == {"pairs_latents", "variation_latents"}
    for name, array in results.items():
        # Random networks make large samples: the tolerance is that of their size.
        size = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5 * size, err_msg=name)


@pytest.mark.parametrize("pipeline_class", [MaCDMPipeline, DiffusionPipeline])
def test_a_saved_model_samples_the_same(pipeline_class):
    pipe = pipeline_class.from_pretrained(FIXTURES / "model_0_1_0")
    assert type(pipe) is MaCDMPipeline
    assert type(pipe.unet) is MaCDMUNet2DModel and type(pipe.guidance_classifier) is GuidanceClassifier
    assert_as_then(latents(pipe, np.load(FIXTURES / "model_0_1_0" / "expected.npz")))


@pytest.fixture
def published(tmp_path):
    """The repository: weights, and the source files beside them."""
    shutil.copytree(FIXTURES / "model_0_1_0", tmp_path / "repository")
    shutil.copytree(FIXTURES / "pushed_0_1_0", tmp_path / "repository", dirs_exist_ok=True)
    return tmp_path / "repository"


def test_a_published_model_loads_with_the_package(published):
    """No flag, and the package's own classes."""
    pipe = DiffusionPipeline.from_pretrained(published)
    assert type(pipe) is MaCDMPipeline and type(pipe.unet) is MaCDMUNet2DModel
    assert_as_then(latents(pipe, np.load(published / "expected.npz")))


def test_a_published_model_samples_the_same_without_the_package(published, tmp_path):
    directories = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any((Path(directory) / "diffusers_macdm").is_dir() for directory in directories):
        pytest.skip("the package itself lies in site-packages")
    result = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, published, tmp_path / "latents.npz", *directories],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
    )
    assert result.returncode == 0, result.stderr
    assert {module.partition(".")[0] for module in result.stdout.split()} == {"diffusers_modules"}
    assert_as_then(dict(np.load(tmp_path / "latents.npz")))
