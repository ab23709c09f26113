"""The source files that let plain diffusers load a published pipeline where this package is not installed.

`DiffusionPipeline.from_pretrained(repo, custom_pipeline=..., trust_remote_code=True)` takes the pipeline's class from
`pipeline.py` at the repository's root and fetches the modules beside it that it imports by `from .x import`; the class of a
component that `model_index.json` records as `["macdm", NAME]` it takes from `COMPONENT/macdm.py`, and fetches that file alone.
The method lies in one folder that imports nothing else of the package, so all of these are copies of its files.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterable
from importlib import resources


PIPELINE_MODULE = "pipeline"
COMPONENT_MODULES = {"unet": "unet", "weak_unet": "unet", "guidance_classifier": "guidance_classifier"}
OTHER_COMPONENTS = {"scheduler"}  # a class of diffusers, which needs no file

RELATIVE_IMPORT = re.compile(r"^from \.(\w+) import (?:\([^)]*\)|.*)\n", re.MULTILINE)
FUTURE_IMPORT = "from __future__ import annotations\n"


def source_files(components: Iterable[str]) -> dict[str, str]:
    """Return the files to put beside the weights of a saved pipeline, source text by path in the repository.

    Args:
        components: names of the components that the pipeline has: `unet`, and as the case may be `guidance_classifier`,
            `weak_unet`, `scheduler`.

    Returns:
        `pipeline.py` and the modules that it imports, and `COMPONENT/macdm.py` for each component that is a class of this
        package.

    Raises:
        ValueError: for a component that `MaCDMPipeline` does not have.
    """
    components = sorted(set(components))
    unknown = [name for name in components if name not in COMPONENT_MODULES and name not in OTHER_COMPONENTS]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: no component of MaCDMPipeline; allowed are "
            f"{', '.join(sorted({*COMPONENT_MODULES, *OTHER_COMPONENTS}))}."
        )
    files = {f"{name}.py": _read(name) for name in [PIPELINE_MODULE, *sorted(_imported_by(PIPELINE_MODULE))]}
    files |= {f"{name}/macdm.py": _whole(COMPONENT_MODULES[name]) for name in components if name in COMPONENT_MODULES}
    return files


def _read(module: str) -> str:
    return resources.files("diffusers_macdm.macdm").joinpath(f"{module}.py").read_text(encoding="utf-8")


def _imported_by(module: str) -> set[str]:
    """Find the modules of the method that a module imports, directly or by way of others."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        names = set(RELATIVE_IMPORT.findall(_read(waiting.pop()))) - found
        found |= names
        waiting += names
    return found


def _whole(module: str) -> str:
    """Make one file of a component's module and the modules that it imports: their texts, each after those that it imports."""
    graph = {name: RELATIVE_IMPORT.findall(_read(name)) for name in (module, *_imported_by(module))}
    order = graphlib.TopologicalSorter({name: sorted(imported) for name, imported in sorted(graph.items())}).static_order()
    texts = (RELATIVE_IMPORT.sub("", _read(name)).replace(FUTURE_IMPORT, "") for name in order)
    return FUTURE_IMPORT + "\n" + "\n\n".join(texts)
