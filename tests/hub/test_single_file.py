"""The self-contained files, in this process and where the package cannot be imported."""

import ast
import os
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
from diffusers_macdm.hub import single_file
from diffusers_macdm.hub.single_file import self_contained_files


ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "pipelines" / "macdm"
SCRIPT = ROOT / "tests" / "sample_without_package.py"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A saved pipeline with every component, its files beside it, and what the package samples from it."""
    folder = tmp_path_factory.mktemp("published")
    pipe = tiny_pipeline()
    pipe.register_modules(weak_unet=tiny_unet(seed=5))
    pipe.save_pretrained(folder)
    for name, text in self_contained_files(pipe.components).items():
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
    """A real environment that has what this one has, but not this package; the class comes from a clone's pipelines/."""
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
    sample_elsewhere([python], published, COMMITTED, tmp_path)


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


def test_committed_files_are_what_the_package_gives():
    committed = {str(path.relative_to(COMMITTED).as_posix()): path.read_text("utf-8") for path in COMMITTED.rglob("*.py")}
    assert committed == self_contained_files(["unet", "guidance_classifier"]), "run `make single-file`"


def test_files_by_component():
    assert list(self_contained_files([])) == ["pipeline.py"]
    assert list(self_contained_files(["scheduler", "unet"])) == ["pipeline.py", "unet/macdm.py"]
    files = self_contained_files(iter(["weak_unet", "unet", "guidance_classifier", "scheduler"]))
    assert list(files) == ["pipeline.py", "guidance_classifier/macdm.py", "unet/macdm.py", "weak_unet/macdm.py"]
    assert files["unet/macdm.py"] == files["weak_unet/macdm.py"]
    with pytest.raises(
        ValueError, match="vae: no component of MaCDMPipeline; allowed are guidance_classifier, scheduler, unet"
    ):
        self_contained_files(["unet", "vae"])


@pytest.mark.parametrize("name", ["pipeline.py", "unet/macdm.py", "guidance_classifier/macdm.py"])
def test_files_are_self_contained(name):
    tree = ast.parse(self_contained_files(["unet", "guidance_classifier"])[name])
    allowed = {"diffusers", "torch", "numpy", "PIL", "skimage", *sys.stdlib_module_names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module.partition(".")[0] in allowed
        elif isinstance(node, ast.Import):
            assert all(alias.name.partition(".")[0] in allowed for alias in node.names)
    pipelines = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "DiffusionPipeline" for base in node.bases)
    ]
    assert pipelines == (["MaCDMPipeline"] if name == "pipeline.py" else [])


MODULES = {
    "__init__.py": '__version__ = "1.2.3"\n',
    "macdm/unet.py": '"""Net."""\n\nfrom torch.nn import Module\n\n\nclass MaCDMUNet2DModel(Module):\n    pass\n',
    "macdm/guidance_classifier.py": '"""Cls."""\n',
    "sums.py": '"""Sums.\n\nAnd more.\n"""\n\nimport math\n\n\nLIMIT = 3\nTAU = math.tau\n\n\n'
    "def other():\n    return LIMIT\n\n\n# Why it is so.\n@staticmethod\ndef add(x):\n    return x + TAU  # said here\n",
    "macdm/pipeline.py": '"""Pipe."""\n\nfrom ..sums import add\nfrom .unet import MaCDMUNet2DModel\n\n\n'
    "def run(unet: MaCDMUNet2DModel):\n    return add(1)\n",
}


@pytest.fixture
def package_of(monkeypatch):
    """Let the generator read other modules."""

    def replace(**changes):
        modules = {**MODULES, **{f"{name.replace('__', '/')}.py": text for name, text in changes.items()}}

        def source(path):
            if path not in modules:
                raise FileNotFoundError(path)
            return modules[path]

        monkeypatch.setattr(single_file, "_source", source)
        single_file._read.cache_clear()

    yield replace
    single_file._read.cache_clear()


def test_what_is_put_together(package_of):
    package_of()
    text = self_contained_files([])["pipeline.py"]
    head, body = text.split("from __future__ import annotations\n")
    assert head.startswith('"""Pipe."""\n\n# GENERATED') and "of diffusers-macdm 1.2.3 from macdm/pipeline.py" in head
    rule = "# " + "-" * 100
    assert [line for line in body.splitlines() if not line.startswith(rule)] == [
        "",
        "import math",
        "",
        "from torch.nn import Module",
        *["", ""],
        "# The components have files of their own. Their names stand in annotations alone.",
        "MaCDMUNet2DModel = Module",
        *["", ""],
        "# Sums.",
        "#",
        "# And more.",
        *["", ""],
        "TAU = math.tau",
        *["", ""],
        "# Why it is so.",
        "@staticmethod",
        "def add(x):",
        "    return x + TAU  # said here",
        *["", ""],
        *["", ""],
        "def run(unet: MaCDMUNet2DModel):",
        "    return add(1)",
    ]
    assert " sums.py (in part)\n" in body and "- macdm/pipeline.py\n" in body


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("from .. import sums\n\n\ndef run():\n    return sums.add(1)\n", "import sums by its own name from the module"),
        ("from ..sums import add as plus\n\n\nrun = plus(1)\n", "import plus by its own name from the module"),
        ("from ..sums import add\n\nTAU = 6\nrun = add(TAU)\n", "TAU of macdm/pipeline.py is also in sums.py"),
        (
            "import cmath as math\n\nfrom ..sums import add\n\nrun = add(math.pi)\n",
            "math is .*math in .*, something else elsewhere",
        ),
        ("from .unet import MaCDMUNet2DModel\n\nrun = MaCDMUNet2DModel()\n", "uses MaCDMUNet2DModel in more than annotations"),
        ("def run():\n    from ..sums import add\n", "macdm/pipeline.py:1 cannot be put into a self-contained file"),
        ("if True:\n    import json\n", "macdm/pipeline.py:1 cannot be put into a self-contained file"),
    ],
)
def test_modules_that_cannot_be_put_together(package_of, pipeline, message):
    package_of(macdm__pipeline=pipeline)
    with pytest.raises(ValueError, match=message):
        self_contained_files([])
