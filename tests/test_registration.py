"""`import diffusers_macdm` is cheap, and diffusers knows the pipeline whichever is imported first."""

import json
import subprocess
import sys

import pytest


def run_python(code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


ORDERS = {
    "the package first": "import diffusers_macdm; assert 'torch' not in sys.modules; import diffusers",
    "diffusers first": "import diffusers, diffusers_macdm",
    "asked for before it is imported": "import importlib.util, diffusers_macdm; importlib.util.find_spec('diffusers')",
    "a class of the package first": "from diffusers_macdm import MaCDMUNet2DModel",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_diffusers_knows_the_pipeline(order):
    code = f"""
import sys
{order}
import diffusers
from diffusers import MaCDMPipeline
from diffusers_macdm import macdm
assert diffusers.MaCDMPipeline is macdm.MaCDMPipeline is MaCDMPipeline and diffusers.pipelines.macdm is macdm
assert diffusers.DDPMScheduler.__name__ == "DDPMScheduler"  # diffusers' own names go on working
print(MaCDMPipeline.__module__, [finder for finder in sys.meta_path if "diffusers_macdm" in type(finder).__module__])
"""
    assert run_python(code).split() == ["diffusers_macdm.macdm.pipeline", "[]"]


def test_importing_the_package_imports_neither_torch_nor_diffusers():
    code = "import json, sys, diffusers_macdm; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    loaded = set(json.loads(run_python(code))) - sys.stdlib_module_names
    assert not loaded & {"torch", "diffusers", "numpy", "PIL", "jinja2", "huggingface_hub"}


def test_an_unknown_name_is_an_attribute_error():
    import diffusers_macdm

    for module in (diffusers_macdm, diffusers_macdm.macdm):
        with pytest.raises(AttributeError, match="has no attribute 'MaCDM'"):
            module.MaCDM  # noqa: B018
