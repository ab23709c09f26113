"""The sources beside published weights, in this process and where the package cannot be imported."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from sample_without_package import samples
from tiny_models import tiny_pipeline, tiny_unet

from diffusers_macdm import MaCDMPipeline, MaCDMUNet2DModel
from diffusers_macdm.hub.sources import source_files


ROOT = Path(__file__).resolve().parents[2]
METHOD = ROOT / "src/diffusers_macdm/macdm"
SCRIPT = ROOT / "tests" / "sample_without_package.py"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A saved pipeline with every component, its files beside it, and what the package samples from it."""
    folder = tmp_path_factory.mktemp("published")
    pipe = tiny_pipeline()
    pipe.register_modules(weak_unet=tiny_unet(seed=5))
    pipe.save_pretrained(folder)
    for name, text in source_files(pipe.components).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder, samples(pipe)


def sample_elsewhere(python, published, custom_pipeline, tmp_path, *directories):
    """Run the script and compare its samples with the package's."""
    folder, expected = published
    result = subprocess.run(
        [*python, SCRIPT, folder, custom_pipeline, tmp_path / "samples.npz", *directories],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
    )
    assert result.returncode == 0, result.stderr
    assert "not found in your environment" not in result.stderr and "Expected types" not in result.stderr, result.stderr
    assert set(module.partition(".")[0] for module in result.stdout.split()) == {"diffusers_modules"}
    found = np.load(tmp_path / "samples.npz")
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert array.shape == (2, 3, 16, 16) and array[:, 0].std() > 0.01, name
        np.testing.assert_allclose(found[name][:, 0], array[:, 0], atol=1e-5, err_msg=name)
        # Masks are thresholded: a difference in the last bit could turn a pixel over.
        assert (found[name][:, 1:] != array[:, 1:]).mean() < 1e-3, name


def test_samples_without_the_package(published, tmp_path):
    """An interpreter without any site-packages (-S: no .pth file, so no editable install either), given them by path."""
    directories = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any((Path(directory) / "diffusers_macdm").is_dir() for directory in directories):
        pytest.skip("the package itself lies in site-packages")
    sample_elsewhere([sys.executable, "-I", "-S"], published, published[0], tmp_path, *directories)


@pytest.mark.slow
def test_samples_in_a_virtual_environment_without_the_package(published, tmp_path):
    """A real environment that has what this one has, but not this package; the class comes from a clone's folder."""
    directories = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any((Path(directory) / "diffusers_macdm").is_dir() for directory in directories):
        pytest.skip("the package itself lies in site-packages")
    venv.create(tmp_path / "venv", symlinks=os.name != "nt")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # Directories named in a .pth file are searched; .pth files *in* them, such as an editable install's, are not read.
    (Path(purelib) / "parent.pth").write_text("\n".join(directories))
    sample_elsewhere([python], published, METHOD, tmp_path)


def test_the_package_is_preferred_where_it_is_installed(published):
    """No flag, and its own classes, whatever files lie beside the weights."""
    folder, expected = published
    for pipeline_class in (MaCDMPipeline, DiffusionPipeline):
        pipe = pipeline_class.from_pretrained(folder)
        assert type(pipe) is MaCDMPipeline and type(pipe.unet) is type(pipe.weak_unet) is MaCDMUNet2DModel
    found = pipe(class_labels=[0, 1], num_inference_steps=5, generator=generators(), output_type="np").images
    np.testing.assert_allclose(found[..., 0], expected["refined"][:, 0], atol=1e-5)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


def test_the_files_are_copies():
    """Whoever reads a repository reads the package's own text."""
    for name, text in source_files(["unet", "guidance_classifier"]).items():
        if "/" not in name:
            assert text == (METHOD / name).read_text("utf-8")
    unet, joint_sample = ((METHOD / name).read_text("utf-8") for name in ("unet.py", "joint_sample.py"))
    whole = source_files(["unet"])["unet/macdm.py"]
    assert unet[unet.index("class MaCDMUNet2DModel") :] in whole and joint_sample[joint_sample.index("RADIOGRAPH") :] in whole


PIPELINE_FILES = [
    "pipeline.py",
    "draws.py",
    "forward_process.py",
    "guidance.py",
    "image_processor.py",
    "inputs.py",
    "joint_sample.py",
    "pipeline_output.py",
    "refinement.py",
    "schedulers.py",
]


def test_files_by_component():
    assert list(source_files([])) == PIPELINE_FILES
    assert list(source_files(["scheduler", "unet"])) == [*PIPELINE_FILES, "unet/macdm.py"]
    files = source_files(iter(["weak_unet", "unet", "guidance_classifier", "scheduler"]))
    assert list(files) == [*PIPELINE_FILES, "guidance_classifier/macdm.py", "unet/macdm.py", "weak_unet/macdm.py"]
    assert files["unet/macdm.py"] == files["weak_unet/macdm.py"]
    with pytest.raises(
        ValueError, match="vae: no component of MaCDMPipeline; allowed are guidance_classifier, scheduler, unet"
    ):
        source_files(["unet", "vae"])


def test_the_pipeline_names_what_its_imports_import():
    """Of a folder, diffusers copies the modules that `pipeline.py` itself names."""
    named = set(re.findall(r"^from \.(\w+) import", source_files([])["pipeline.py"], re.MULTILINE))
    assert {f"{name}.py" for name in named} == set(PIPELINE_FILES) - {"pipeline.py"}


@pytest.mark.parametrize("name", ["unet/macdm.py", "guidance_classifier/macdm.py"])
def test_files_of_components_are_self_contained(name):
    tree = ast.parse(source_files(["unet", "guidance_classifier"])[name])
    allowed = {"diffusers", "torch", "numpy", "PIL", "skimage", *sys.stdlib_module_names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module.partition(".")[0] in allowed
        elif isinstance(node, ast.Import):
            assert all(alias.name.partition(".")[0] in allowed for alias in node.names)


def test_the_pipeline_imports_nothing_but_its_siblings():
    files = source_files([])
    pipelines = []
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in files, name
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "DiffusionPipeline" for base in node.bases):
                pipelines.append((name, node.name))
    assert pipelines == [("pipeline.py", "MaCDMPipeline")]  # diffusers allows one
