"""The house rules that no other test would notice: who imports whom, what sampling needs, what stays out of git."""

import ast
import graphlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

PACKAGE = "diffusers_macdm"
ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / PACKAGE
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# From the top down. A module may import modules of its own layer and of lower ones. A new module is put in here; a
# package stands for everything in it that has no line of its own. "" is the package's own __init__, the public names.
LAYERS = (
    ("", "commands", "__main__"),
    ("recipe",),
    ("planning",),
    ("training",),
    ("sweep",),
    ("comparison", "hub"),
    ("metrics",),
    ("evaluation", "quality"),
    ("generate",),
    ("audit",),
    ("hub.loading", "generate.pairs", "generate.insertion"),
    ("provenance",),
    ("data", "phantom", "report", "conversion"),
    (
        "statistics",
        "checks",
        "files",
        "locks",
        "parsing",
        "progress",
        "registration",
        "seeds",
        "devices",
        "optimisation",
        "hub.names",
        "hub.errors",
    ),
    ("macdm",),
)
BASE_DEPENDENCIES = {"torch", "diffusers", "safetensors", "huggingface_hub", "jinja2", "pillow", "numpy", "tyro"}
# Modules that belong to an extra and may import its packages at the top; all others import them where they are used.
EXTRA_MODULES = {
    module: {"datasets", "evaluate"}
    for module in ("metrics.base", *(f"metrics.{path.stem}.{path.stem}" for path in SRC.glob("metrics/*/*.py")))
} | {
    f"training.{name}": {"accelerate"}
    for name in ("averages", "classifier", "copy_watch", "denoiser", "loop", "probe", "processes", "records", "trainer")
}
# huggingface_hub depends on tqdm and shows its own progress with it; jinja2 on markupsafe, whose texts it takes as done.
TRANSITIVE = {"tqdm", "markupsafe"}
IMPORT_NAMES = {"pillow": "PIL"}  # where it differs from the distribution's name

# A file or folder of one particular machine; a path in a URL, below the home folder or below another one is none.
MACHINE_PATH = re.compile(r"(?<![\w.:/~})$-])/(?:work|root|home|tmp|opt|mnt|Users)/\w")


def source_files():
    return sorted(SRC.rglob("*.py"))


def module_of(path):
    """The dotted name below the package: `macdm/unet.py` -> "macdm.unet", `macdm/__init__.py` -> "macdm"."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module):
    """The module's layer, 0 at the top, or None for one that is not in the table; the longest name that fits decides."""
    levels = {name: level for level, names in enumerate(LAYERS) for name in names}
    fitting = [name for name in levels if module == name or (name and module.startswith(name + "."))]
    return levels[max(fitting, key=len)] if fitting else None


def imported_names(path, tree):
    """Yields (node, absolute dotted name) of all that a file imports; `from a import b` gives "a.b"."""
    package = [PACKAGE, *path.relative_to(SRC).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def internal_imports(path, modules):
    """The package's own modules that a file imports, each as the deepest module that its dotted name reaches."""
    for node, name in imported_names(path, ast.parse(path.read_text(encoding="utf-8"))):
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            target = name[len(PACKAGE) + 1 :]
            while target not in modules:
                target = target.rpartition(".")[0]
            yield node, target


def top_level_imports(path):
    """External packages that a file needs to be imported itself: not those inside functions or for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = set()
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            deferred.update(ast.walk(node))
    for node, name in imported_names(path, tree):
        package = name.partition(".")[0]
        if node not in deferred and package != PACKAGE and package not in sys.stdlib_module_names:
            yield node, package


def where(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def run_python(code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def base_install():
    """Import names of the packages that the base dependencies bring along, and those of all other installed ones."""
    distributions = {canonicalize_name(item.name): item for item in importlib.metadata.distributions()}
    found, waiting = set(), {canonicalize_name(name) for name in BASE_DEPENDENCIES}
    while waiting:
        found.add(name := waiting.pop())
        requirements = map(Requirement, distributions[name].requires or [])
        needed = {canonicalize_name(r.name) for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})}
        waiting |= (needed & set(distributions)) - found
    base, others = set(), set()
    for name, distribution in distributions.items():
        # Not `packages_distributions()`, which misses half of them in Python 3.10. "x-1.0.dist-info" is no identifier.
        tops = {file.parts[0].partition(".")[0] for file in distribution.files or []}
        (base if name in found else others).update(top for top in tops if top.isidentifier() and top != "__pycache__")
    return base, others - base - {PACKAGE}


def test_every_module_is_in_the_table():
    unknown = [str(path.relative_to(ROOT)) for path in source_files() if layer_of(module_of(path)) is None]
    assert not unknown, f"not in LAYERS: {unknown}"


def test_imports_go_downward():
    modules = {module for module in map(module_of, source_files()) if layer_of(module) is not None}
    upward = [
        f"{where(path, node)} imports {target or PACKAGE}"
        for path in source_files()
        if module_of(path) in modules
        for node, target in internal_imports(path, modules)
        if layer_of(target) < layer_of(module_of(path))
    ]
    assert not upward, "\n".join(upward)


def test_imports_make_no_circle():
    modules = {module_of(path) for path in source_files()}
    graph = {}
    for path in source_files():
        module = module_of(path)
        # `from .unet import X` in a package's __init__ is no circle, though it names the package on the way.
        graph[module] = {target for _, target in internal_imports(path, modules)} - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("circle of imports: " + " -> ".join(error.args[1]))


def test_what_stays_outside_the_package():
    """Options come from settings classes; accelerate belongs to the trainings; scripts are never imported."""
    scripts = {path.stem for folder in ("training", "pipelines") for path in (ROOT / folder).glob("*.py")}
    forbidden = {"argparse", "accelerate", "training", "pipelines", *scripts}
    found = []
    for path in source_files():
        allowed = {"accelerate"} if module_of(path).startswith("training") else set()
        for node, name in imported_names(path, ast.parse(path.read_text(encoding="utf-8"))):
            if name.partition(".")[0] in forbidden - allowed:
                found.append(f"{where(path, node)} imports {name}")
    assert not found, "\n".join(found)


def test_only_the_settings_and_the_parser_know_tyro():
    found = []
    for path in source_files():
        allowed = module_of(path) == "parsing" or module_of(path).endswith("settings")
        for node, name in imported_names(path, ast.parse(path.read_text(encoding="utf-8"))):
            if name.partition(".")[0] == "tyro" and not allowed:
                found.append(where(path, node))
    assert not found, "\n".join(found)


def test_the_method_imports_nothing_else_of_the_package():
    """What a model repository publishes are copies of its files."""
    modules = {module_of(path) for path in source_files()}
    found = [
        f"{where(path, node)} imports {target or PACKAGE}"
        for path in (SRC / "macdm").glob("*.py")
        for node, target in internal_imports(path, modules)
        if target.partition(".")[0] != "macdm"
    ]
    assert not found, "\n".join(found)


LONGEST_FILE, LONGEST_FUNCTION = 400, 60
# The signature of one is diffusers' law, that of the other its documentation.
LONG_FUNCTIONS = {"macdm.unet.__init__", "macdm.guidance_classifier.__init__", "macdm.pipeline.__call__"}


def test_files_and_functions_can_be_read():
    """No file over 400 lines, no function over 60 without its docstring."""
    found = []
    for path in source_files():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > LONGEST_FILE:
            found.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                length = node.end_lineno - node.lineno + 1
                length -= first.end_lineno - first.lineno + 1 if is_docstring else 0
                if length > LONGEST_FUNCTION and f"{module_of(path)}.{node.name}" not in LONG_FUNCTIONS:
                    found.append(f"{where(path, node)} {node.name}: {length} lines")
    assert not found, "\n".join(found)


def test_no_page_stands_in_python():
    """Pages are templates, which editors color and people find."""
    tag = re.compile(r"</?(?:html|head|body|div|p|span|table|tr|td|th|ul|li|h[1-6]|img|figure|style|pre)[ >]")
    folders = (SRC, ROOT / "training", ROOT / "pipelines")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if tag.search(line)
    ]
    assert not found, "\n".join(found)


def test_temporary_names_are_made_in_one_place():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in source_files()
        if module_of(path) not in ("files", "hub.privacy", "comparison.run")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if ".tmp" in line or "os.replace(" in line
    ]
    assert not found, "\n".join(found)


def test_base_dependencies_are_these():
    names = {re.match(r"[\w.-]+", line).group() for line in PYPROJECT["project"]["dependencies"]}
    assert names == BASE_DEPENDENCIES


def test_every_package_is_in_the_wheel():
    """A folder of modules that pyproject.toml does not list would be missing from an installed wheel alone."""
    packages = {".".join([PACKAGE, *path.relative_to(SRC).parent.parts]) for path in SRC.rglob("__init__.py")}
    settings = PYPROJECT["tool"]["setuptools"]
    assert set(settings["packages"]) - packages == set(settings["package-dir"]) - {""}
    missing = packages - set(settings["packages"])
    assert not missing, f"pyproject.toml, [tool.setuptools] packages: add {sorted(missing)}"


def test_every_template_is_in_the_wheel():
    """What the code reads beside its modules; a pattern of pyproject.toml reaches it, or an installed wheel lacks it."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    reached = {
        path
        for package, globs in patterns.items()
        if (folder := SRC.joinpath(*package.split(".")[1:])).is_dir()
        for pattern in globs
        for path in folder.glob(pattern)
    }
    others = {path for path in SRC.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path.name for path in others} >= {"base.html.jinja", "page.css"}
    assert not others - reached, f"pyproject.toml, [tool.setuptools.package-data]: add {sorted(map(str, others - reached))}"


def test_top_level_imports_need_only_the_base_dependencies():
    base = {IMPORT_NAMES.get(name, name) for name in BASE_DEPENDENCIES} | TRANSITIVE
    found = [
        f"{where(path, node)} imports {package}"
        for path in source_files()
        for node, package in top_level_imports(path)
        if package not in base | EXTRA_MODULES.get(module_of(path), set())
    ]
    assert not found, "\n".join(found)


def test_base_install_imports_every_module():
    """As if only the base dependencies were installed: each module imports, with all other packages out of sight."""
    code = """
import importlib, importlib.machinery, json, sys

hidden, modules = map(json.loads, sys.argv[1:])

class BaseInstallFinder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = BaseInstallFinder
for module in modules:
    importlib.import_module(module)
assert not set(hidden) & set(sys.modules)
"""
    _, hidden = base_install()
    assert {"accelerate", "datasets", "matplotlib", "skimage", "scipy"} <= hidden
    names = [module_of(path) for path in source_files()]
    modules = [f"{PACKAGE}.{name}".rstrip(".") for name in names if name not in EXTRA_MODULES]
    hidden = {name for name in hidden if not name.startswith("__editable__")}  # how this very package was installed
    run_python(code, json.dumps(sorted(hidden)), json.dumps(modules))


def test_import_loads_nothing_that_diffusers_does_not():
    """diffusers itself loads transformers and accelerate where they are installed; this package adds nothing."""
    code = f"""
import json, sys
import diffusers.loaders
from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, UNet2DModel
before = set(sys.modules)
import {PACKAGE}
print(json.dumps(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""
    added = set(json.loads(run_python(code).splitlines()[-1]))
    base, _ = base_install()
    added -= {PACKAGE} | base | sys.stdlib_module_names
    assert not added, f"`import {PACKAGE}` loads {sorted(added)}"


def test_version_is_the_same_everywhere():
    version = PYPROJECT["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(version)}$", citation, re.MULTILINE)
    declared = re.search(r'^__version__ = "(.*)"$', (SRC / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared is None or declared.group(1) == version


@pytest.mark.parametrize(
    "text, expected",
    [
        ("cd /" + "work/main", True),
        ('path = "/' + 'root/data"', True),
        ("/" + "home/ann/x.png", True),
        ("https://example.org/home/page", False),
        ("docs/work/notes.md", False),
        ("$HOME/tmp/x", False),
    ],
)
def test_machine_path_pattern(text, expected):
    assert bool(MACHINE_PATH.search(text)) == expected


def test_no_tracked_file_names_a_path_of_a_machine():
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if not path.is_file():  # deleted, not yet committed
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # an image
        found += [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not found, "\n".join(found)
