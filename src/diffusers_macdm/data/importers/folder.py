"""A folder of films with same-named masks: `macdm import-folder`."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ..beside import IMAGE_SUFFIXES, walk
from ..decoding import ImageFile
from .settings import FolderSettings
from .tables import film_name
from .write import Imported, Source, import_sources


MASK_OPTIONS = {"anatomy_mask": "anatomy", "lesion_mask": "lesion"}
NAME = "{name}"


def run(settings: FolderSettings, *, show_progress: bool = True) -> Imported:
    """Import what the settings ask for (see `import_sources`).

    Raises:
        FileNotFoundError, NotADirectoryError: when a folder that is named is not there.
        FileExistsError, ValueError: as `import_sources`.
    """
    src = Path(settings.src)
    if not src.exists():
        raise FileNotFoundError(f"{src}: no such folder.")
    if not src.is_dir():
        raise NotADirectoryError(f"{src} is a file; a folder is needed.")
    imported = Imported(Path(settings.out))
    patterns = {"image": settings.films}
    for column, option in MASK_OPTIONS.items():
        asked = getattr(settings, option)
        if asked is not None or (src / option).is_dir():
            patterns[column] = asked or option
    if len(patterns) == 1:
        raise ValueError(f"{src} has no folder {' or '.join(MASK_OPTIONS.values())}, and no option says where masks are.")
    found = _found(src, patterns, settings, imported)
    sources = _sources(found, patterns, settings, imported)
    return import_sources(
        "import-folder",
        sources,
        [c for c in patterns if c != "image"],
        settings,
        imported,
        settings.bits,
        show_progress=show_progress,
    )


def _found(src: Path, patterns: dict[str, str], settings: FolderSettings, imported: Imported) -> dict[str, dict[str, Path]]:
    """Return the files of each image column by the film's name; two of one name are left out by name."""
    places = {column: _place(pattern) for column, pattern in patterns.items()}
    found: dict[str, dict[str, Path]] = {}
    for column, (folder, expression) in places.items():
        option = "films" if column == "image" else MASK_OPTIONS[column]
        if not (src / folder).is_dir():
            raise FileNotFoundError(f"--{option} {patterns[column]}: {src} has no folder {folder}.")
        others = [other for name, other in places.items() if name != column and column == "image"]
        mask_folders = [src / other for other, _ in others if Path(other) != Path(folder)]
        of_column = found[column] = {}
        for path, is_folder in walk(src / folder):
            if is_folder or any(inside in path.parents for inside in mask_folders):
                continue
            inside, name = path.relative_to(src).as_posix(), film_name(path.relative_to(src / folder).as_posix())
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.suffix.lower() == ".dcm":
                if settings.labels is None or path.absolute() != Path(settings.labels).absolute():
                    imported.note(inside, "no image", "is not read: its name has no suffix of an image that is read.")
                continue
            match = expression.fullmatch(name)
            if match is None or any(Path(other) == Path(folder) and of.fullmatch(name) for other, of in others):
                continue
            name = _joined(match)
            if name in of_column:
                reason = f"has the name of {of_column[name].relative_to(src).as_posix()}; one file of each name is allowed."
                imported.leave_out(inside, "two of one name", reason)
            else:
                of_column[name] = path
    return found


def _place(pattern: str) -> tuple[str, re.Pattern]:
    """Split a place into its folder and the expression that finds a film's name in a path below it."""
    if NAME not in pattern:
        return pattern, re.compile("(?P<folder>(?:.*/)?)(?P<name>[^/]+)")
    path = PurePosixPath(pattern.replace("\\", "/"))
    before, _, after = path.name.partition(NAME)
    if str(path).count(NAME) > 1 or NAME not in path.name:
        raise ValueError(f"{pattern} is not allowed: {NAME} stands once, in the last part of the path.")
    return str(path.parent), re.compile(f"(?P<folder>(?:.*/)?){re.escape(before)}(?P<name>[^/]+){re.escape(after)}")


def _joined(match: re.Match) -> str:
    return match["folder"] + match["name"]


def _sources(found: dict[str, dict[str, Path]], patterns: dict[str, str], settings: FolderSettings, imported: Imported):
    """Put each film and its masks together; a mask without a film and a film without its anatomy mask are left out by name."""
    src, films = Path(settings.src), found["image"]
    for of_column in found.values():
        for name, path in of_column.items():
            if name not in films:
                imported.leave_out(path.relative_to(src).as_posix(), "mask without a film", f"there is no film {name}.")
    sources = []
    for name, path in films.items():
        files = {"image": _file(src, path)}
        if "anatomy_mask" in patterns:
            if name not in found["anatomy_mask"]:
                imported.leave_out(files["image"].name, "missing mask", f"has no anatomy mask in {patterns['anatomy_mask']}.")
                continue
            files["anatomy_mask"] = _file(src, found["anatomy_mask"][name])
        if "lesion_mask" in patterns:
            files["lesion_mask"] = _file(src, found["lesion_mask"].get(name))
        sources.append(Source(name, files))
    if not films:
        raise ValueError(f"{src}: there is no film in --films {settings.films}.")
    return sources


def _file(src: Path, path: Path | None) -> ImageFile | None:
    return None if path is None else ImageFile(path.relative_to(src).as_posix(), path.name, path)
