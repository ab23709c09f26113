"""The source files that let plain diffusers load a published pipeline where this package is not installed.

`DiffusionPipeline.from_pretrained(repo, custom_pipeline=..., trust_remote_code=True)` takes the pipeline's class from
`pipeline.py` at the repository's root, and the class of a component that `model_index.json` records as `["macdm", NAME]` from
`COMPONENT/macdm.py`. diffusers fetches just these files, so each must be whole in itself. They are made from the package's own
modules: what a file needs of them, and no more, is put together in one module, text and comments unchanged.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources


PIPELINE_MODULE = "macdm.pipeline"
COMPONENT_MODULES = {
    "unet": "macdm.unet",
    "weak_unet": "macdm.unet",
    "guidance_classifier": "macdm.guidance_classifier",
}
OTHER_COMPONENTS = {"scheduler"}  # a class of diffusers, which needs no file

LINE_LENGTH = 128


def self_contained_files(components: Iterable[str]) -> dict[str, str]:
    """The files to put beside the weights of a saved pipeline.

    Args:
        components: names of the components that the pipeline has: `unet`, and as the case may be `guidance_classifier`,
            `weak_unet`, `scheduler`.

    Returns:
        Source text by its path in the repository: `pipeline.py`, and `COMPONENT/macdm.py` for each component that is a class of
        this package.

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
    files = {"pipeline.py": _self_contained(PIPELINE_MODULE, left_out=frozenset(COMPONENT_MODULES.values()))}
    for name in components:
        if name in COMPONENT_MODULES:
            files[f"{name}/macdm.py"] = _self_contained(COMPONENT_MODULES[name], left_out=frozenset())
    return files


# ------------------------------------------------------------------------------------------------------ reading modules


@dataclass(frozen=True)
class _Import:
    """One name bound by an import of another package: `import module as name` or `from module import member as name`."""

    name: str
    module: str
    member: str | None = None

    @property
    def clause(self) -> str:
        imported = self.member or self.module
        return imported if self.name in (imported, imported.partition(".")[0]) else f"{imported} as {self.name}"


@dataclass
class _Statement:
    """A statement at the top level of a module, with the comment above it."""

    node: ast.stmt
    text: str
    blank_lines_before: int

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)

    @property
    def defined(self) -> set[str]:
        if self.is_definition:
            return {self.node.name}
        if isinstance(self.node, ast.If):  # `if TYPE_CHECKING:`
            return {alias.asname or alias.name for node in ast.walk(self.node) for alias in getattr(node, "names", ())}
        return {node.id for node in ast.walk(self.node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}

    @property
    def used(self) -> set[str]:
        """Every name in it, those of its local variables as well: too much is harmless, too little is not."""
        return {node.id for node in ast.walk(self.node) if isinstance(node, ast.Name)}


@dataclass
class _Module:
    name: str
    docstring: str
    statements: list[_Statement] = field(default_factory=list)
    external: dict[str, _Import] = field(default_factory=dict)  # name -> import of another package
    internal: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> module of this package, name there

    @property
    def path(self) -> str:
        return self.name.replace(".", "/") + ".py"

    def defining(self, name: str) -> _Statement | None:
        return next((statement for statement in self.statements if name in statement.defined), None)


@functools.cache
def _source(path: str) -> str:
    return resources.files("diffusers_macdm").joinpath(path).read_text(encoding="utf-8")


@functools.cache
def _read(name: str) -> _Module:
    source = _source(name.replace(".", "/") + ".py")
    lines = source.splitlines()
    tree = ast.parse(source)
    module = _Module(name, ast.get_docstring(tree) or "")
    end_of_previous = 0
    for node in tree.body:
        first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", ()))]) - 1
        while first > end_of_previous and lines[first - 1].startswith("#"):
            first -= 1
        blank = first
        while blank > end_of_previous and not lines[blank - 1].strip():
            blank -= 1
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                module.external[bound] = _Import(bound, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level:
            parents = [*name.split(".")[: -node.level], *filter(None, [node.module])]
            for alias in node.names:
                module.internal[alias.asname or alias.name] = (".".join(parents), alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                bound = alias.asname or alias.name
                module.external[bound] = _Import(bound, node.module, alias.name)
        elif not isinstance(node, ast.ImportFrom | ast.Expr):
            module.statements.append(_Statement(node, "\n".join(lines[first : node.end_lineno]), first - blank))
        end_of_previous = node.end_lineno
    return module


# ----------------------------------------------------------------------------------------------- putting them together


def _self_contained(root: str, left_out: frozenset[str]) -> str:
    """One module that holds all of `root` and what it uses of the package's other modules.

    Args:
        left_out: modules whose classes have files of their own. `root` may name these classes in annotations alone; there
            they are known by their first base class.
    """
    kept: dict[str, list[_Statement]] = {}  # module -> its statements that are needed
    imports: dict[str, _Import] = {}
    stand_ins: dict[str, str] = {}  # class that is left out -> its base class
    needs: dict[str, set[str]] = {root: set()}  # module -> modules it uses
    waiting = [(root, statement) for statement in _read(root).statements]
    while waiting:
        name, statement = waiting.pop()
        if statement in kept.setdefault(name, []):
            continue
        if isinstance(statement.node, ast.If | ast.Try) or any(map(_is_internal_import, ast.walk(statement.node))):
            raise ValueError(f"{_read(name).path}:{statement.node.lineno} cannot be put into a self-contained file.")
        kept[name].append(statement)
        for used in sorted(statement.used):
            module, found = _resolve(name, used)
            if module in left_out and module != root:
                if used in _outside_of_annotations(statement.node):
                    raise ValueError(f"{_read(name).path} uses {used} in more than annotations, so it is not self-contained.")
                base = _read(module).defining(used).node.bases[0].id
                found = _read(module).external[base]
                stand_ins[used] = base
            if isinstance(found, _Import):
                if imports.setdefault(found.name, found) != found:
                    raise ValueError(f"{found.name} is {found.module} in {_read(module).path}, something else elsewhere.")
            elif found is not None:
                needs.setdefault(module, set())
                if module != name:
                    needs[name].add(module)
                waiting.append((module, found))

    order = list(graphlib.TopologicalSorter({name: sorted(needs[name]) for name in sorted(needs)}).static_order())
    _check_names(order, kept, {*imports, *stand_ins})
    parts = [f"{_header(root, order)}\n\n{_import_block(imports.values())}"]
    if stand_ins:
        bases = "\n".join(f"{name} = {base}" for name, base in sorted(stand_ins.items()))
        parts.append(f"# The components have files of their own. Their names stand in annotations alone.\n{bases}")
    parts += [_section(_read(name), kept[name], with_docstring=name != root) for name in order]
    return "\n\n\n".join(parts) + "\n"


def _resolve(name: str, used: str) -> tuple[str, _Statement | _Import | None]:
    """Where a name that is used in module `name` is defined: the module and the statement or import there."""
    module = _read(name)
    if used in module.internal:
        target, original = module.internal[used]
        if original != used or not _is_module(target):
            raise ValueError(f"{module.path}: import {used} by its own name from the module that defines it.")
        return _resolve(target, original)
    return name, module.defining(used) or module.external.get(used)


def _is_module(name: str) -> bool:
    try:
        return bool(name) and bool(_source(name.replace(".", "/") + ".py"))
    except OSError:
        return False


def _is_internal_import(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or node.module.partition(".")[0] == "diffusers_macdm"
    return isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "diffusers_macdm" for alias in node.names)


def _outside_of_annotations(node: ast.AST) -> Iterator[str]:
    """The names in a statement that are evaluated, which annotations are not."""
    if isinstance(node, ast.Name):
        yield node.id
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _outside_of_annotations(child)


def _check_names(order: list[str], kept: dict[str, list[_Statement]], imported: set[str]) -> None:
    """In one module a name can mean one thing only."""
    taken = dict.fromkeys(imported, "an import")
    for name in order:
        for defined in sorted(set().union(*(statement.defined for statement in kept[name]))):
            if defined in taken:
                raise ValueError(f"{defined} of {_read(name).path} is also {taken[defined]}: rename one of them.")
            taken[defined] = f"in {_read(name).path}"


# -------------------------------------------------------------------------------------------------------- writing files


def _header(root: str, order: list[str]) -> str:
    version = re.search(r'^__version__ = "(.*)"$', _source("__init__.py"), re.MULTILINE).group(1)
    others = [_read(name).path for name in order if name != root]
    made_from = f"{_read(root).path}, with what it uses of {', '.join(others)}" if others else _read(root).path
    paragraphs = (
        f"GENERATED, do not edit: made by diffusers_macdm/single_file.py of diffusers-macdm {version} from {made_from}. "
        "Change these files, then run `make single-file`.",
        "With pipeline.py and COMPONENT/macdm.py beside the weights, a published pipeline loads where diffusers-macdm is not "
        "installed" + (", with scikit-image where masks are refined or resampled:" if root == PIPELINE_MODULE else ":"),
        '    DiffusionPipeline.from_pretrained("org/name", custom_pipeline="org/name", trust_remote_code=True)',
        "Apache License 2.0, the diffusers-macdm developers.",
    )
    comment = "\n#\n".join(_comment(paragraph) for paragraph in paragraphs)
    return f'"""{_read(root).docstring}"""\n\n{comment}'


def _section(module: _Module, statements: list[_Statement], with_docstring: bool) -> str:
    title = module.path if len(statements) == len(module.statements) else f"{module.path} (in part)"
    parts = [f"# {'-' * (LINE_LENGTH - 11 - len(title))} {title}"]
    if with_docstring:
        parts[0] += "\n# " + "\n# ".join(_comment(line)[2:] for line in module.docstring.splitlines())
        parts[0] = "\n".join(line.rstrip() for line in parts[0].splitlines())
    previous = None
    for statement in sorted(statements, key=lambda item: item.node.lineno):
        is_definition = statement.is_definition or (previous is not None and previous.is_definition)
        between = 2 if is_definition or previous is None else min(statement.blank_lines_before, 1)
        parts.append("\n" * between + statement.text)
        previous = statement
    return "\n".join(parts)


def _comment(text: str) -> str:
    indent = text[: len(text) - len(text.lstrip())]
    width = LINE_LENGTH - 2
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, width, subsequent_indent=indent) or [""])


def _import_block(imports: Iterable[_Import]) -> str:
    """All imports, grouped and sorted as isort does."""
    groups = ["from __future__ import annotations"]
    for is_standard in (True, False):
        group = [item for item in imports if (item.module.partition(".")[0] in sys.stdlib_module_names) == is_standard]
        lines = sorted((f"import {item.clause}" for item in group if item.member is None), key=str.lower)
        for module in sorted({item.module for item in group if item.member is not None}, key=str.lower):
            clauses = [item.clause for item in sorted(group, key=_isort_key) if item.module == module and item.member]
            line = f"from {module} import {', '.join(clauses)}"
            if len(line) > LINE_LENGTH:
                line = "\n".join([f"from {module} import (", *(f"    {clause}," for clause in clauses), ")"])
            lines.append(line)
        if lines:
            groups.append("\n".join(lines))
    return "\n\n".join(groups)


def _isort_key(item: _Import) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    member = item.member or ""
    kind = 0 if member.isupper() and len(member) > 1 else 1 if member[:1].isupper() else 2
    return kind, member.lower()
