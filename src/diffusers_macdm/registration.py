"""Makes `MaCDMPipeline` known to diffusers, so that `from_pretrained` needs no `trust_remote_code`.

diffusers looks for the components of a saved pipeline in `diffusers.pipelines.<name>` and for the pipeline's class in
`diffusers`. Both names are set as soon as diffusers is imported, before or after this package; the classes behind them are
loaded when they are first asked for.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys

from . import macdm


def register_with_diffusers() -> None:
    """Set `diffusers.pipelines.macdm` and `diffusers.MaCDMPipeline`: now, or when diffusers is imported."""
    if "diffusers" in sys.modules:
        _set_names()
    else:
        sys.meta_path.insert(0, _AfterDiffusers())


def _set_names() -> None:
    import diffusers.pipelines

    diffusers.pipelines.macdm = macdm
    # diffusers' own module is lazy; as an attribute of its class, the pipeline is as lazy as diffusers' own pipelines.
    lazy = property(lambda module: macdm.MaCDMPipeline)
    diffusers.__class__ = type("_LazyModuleWithMaCDM", (type(diffusers),), {"MaCDMPipeline": lazy})


class _AfterDiffusers(importlib.abc.MetaPathFinder):
    """Finds diffusers as all other finders do, and lets `_set_names` run at the end of its import."""

    def __init__(self):
        self._asking_others = False

    def find_spec(self, name, path=None, target=None):
        if name != "diffusers" or self._asking_others:
            return None
        self._asking_others = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking_others = False
        if spec is None or spec.loader is None:
            return None
        run_module = spec.loader.exec_module

        def run_and_set_names(module):
            run_module(module)
            sys.meta_path.remove(self)
            _set_names()

        spec.loader.exec_module = run_and_set_names
        return spec
