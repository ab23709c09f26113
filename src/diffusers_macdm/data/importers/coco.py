"""Films with outlines in a COCO file: `macdm import-coco`.

Polygons and run lengths become masks by pycocotools. What they lie on is the film as it is shown: of a film that its file
says to turn (EXIF) the one decoder tells, by the size, whether the outlines were drawn on it as it is stored.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..beside import IMAGE_SUFFIXES, walk
from ..decoding import MAX_PIXELS, ImageFile, Unreadable, read_file
from ..faults import brief
from ..reader import path_inside
from .films import png_bytes
from .settings import CocoSettings
from .tables import film_name
from .write import Imported, Source, import_sources


# Run lengths as text: digits of 5 bits from "0" on, all but the last one of a number with a sixth bit.
PACKED = re.compile("(?:[P-o]{0,6}[0-O])+")


@dataclass
class Entry:
    """An image of a COCO file.

    Attributes:
        size: height and width; None where the file does not say them.
        annotations: of each image column its annotations, in the order of the file.
    """

    size: tuple[int, int] | None
    annotations: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))


def run(settings: CocoSettings, *, show_progress: bool = True) -> Imported:
    """Import what the settings ask for (see `import_sources`).

    Raises:
        ModuleNotFoundError: without pycocotools.
        FileNotFoundError: when the folder of the films or the file is not there.
        FileExistsError, ValueError: as `import_sources`; also for a file that is no COCO file or lacks a category.
    """
    import pycocotools.mask  # noqa: F401  before anything is read: without it nothing can be imported

    images = Path(settings.images)
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder.")
    content = read_coco(Path(settings.json))
    columns = _columns(content, settings)
    imported = Imported(Path(settings.out))
    entries = _entries(content, columns, settings, imported)
    films = {}
    for path, is_folder in walk(images):
        inside = path.relative_to(images).as_posix()
        if not is_folder and path.suffix.lower() in IMAGE_SUFFIXES and path.suffix.lower() != ".dcm":
            films[inside] = path
        elif not is_folder and path.absolute() not in {Path(p).absolute() for p in (settings.json, settings.labels) if p}:
            imported.note(inside, "no image", "is not read: its name has no suffix of an image that is read.")
    for name in entries:
        if name not in films:
            imported.leave_out(name, "missing file", f"{settings.json.name} names it, but it is not in {images.name}.")
    if not films:
        raise ValueError(f"{images}: there is no film in it.")
    masks = [mask for mask, names in (("anatomy_mask", settings.anatomy), ("lesion_mask", settings.lesion)) if names]
    sources = _sources(films, entries, masks, settings, imported)
    return import_sources("import-coco", sources, masks, settings, imported, settings.bits, show_progress=show_progress)


def read_coco(path: Path) -> dict:
    """Read a COCO file: lists `images`, `annotations` and `categories` of objects.

    Raises:
        ValueError: when it cannot be read or is no such file.
    """
    try:
        content = json.loads(read_file(path).decode("utf-8-sig"))
    except Unreadable as error:
        raise ValueError(f"{path} {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    for key in ("images", "annotations", "categories"):
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ValueError(f"{path} is no COCO file of outlines: a list {key!r} of objects is needed.")
    return content


def _columns(content: dict, settings: CocoSettings) -> dict:
    """Return category id -> (image column, number of the label)."""
    names = {str(c.get("name")): c.get("id") for c in content["categories"] if isinstance(c.get("id"), int | str)}
    listed = ", ".join(map(repr, names))
    if not settings.lesion and not settings.anatomy:
        raise ValueError(
            f"{settings.json} has the categories {listed}: say by --lesion which are lesions, and by --anatomy which are the "
            "anatomy."
        )
    columns: dict = {}
    for option, column in (("anatomy", "anatomy_mask"), ("lesion", "lesion_mask")):
        for number, name in enumerate(getattr(settings, option), start=1):
            if name not in names:
                raise ValueError(f"--{option} {name}: {settings.json} has no such category; it has {listed}.")
            if names[name] in columns:
                raise ValueError(f"--{option} {name}: the category is named twice; it is anatomy or lesion, once.")
            columns[names[name]] = (column, number)
    return columns


def _entries(content: dict, columns: dict, settings: CocoSettings, imported: Imported) -> dict[str, Entry]:
    """Return the images of the file by their path in IMAGES, with the annotations that are asked for."""
    entries: dict[str, Entry] = {}
    by_id: dict = {}
    for image in content["images"]:
        name, number = path_inside(image.get("file_name")), image.get("id")
        if name is None:
            imported.leave_out(brief(image.get("file_name")), "invalid entry", f"is no path inside of {settings.images.name}.")
            continue
        if not isinstance(number, int | str) or number in by_id or name in entries:
            raise ValueError(
                f"{settings.json}: the image {brief(name)} or its id {brief(number)} stands there twice, or has none."
            )
        sides = (image.get("height"), image.get("width"))
        known = all(isinstance(side, int) and 0 < side for side in sides) and math.prod(sides) <= MAX_PIXELS
        entries[name] = by_id[number] = Entry(sides if known else None)
    others: Counter[str] = Counter()
    for annotation in content["annotations"]:
        category, number = annotation.get("category_id"), annotation.get("image_id")
        if not isinstance(category, int | str) or category not in columns:
            others[brief(category)] += 1
        elif not isinstance(number, int | str) or number not in by_id:
            reason = f"annotation {brief(annotation.get('id'))} belongs to the image {brief(number)}, which is not there."
            imported.leave_out(settings.json.name, "annotation without an image", reason)
        else:
            by_id[number].annotations[columns[category][0]].append(annotation | {"label": columns[category][1]})
    for category, count in others.items():
        reason = f"{count} annotation{'s' if count > 1 else ''} of category {category}, which no option names, not read."
        imported.note(settings.json.name, "other category", reason)
    return entries


def _sources(
    films: Mapping[str, Path], entries: Mapping[str, Entry], masks: Sequence[str], settings: CocoSettings, imported: Imported
) -> list[Source]:
    """Put each film and its outlines together."""
    sources: list[Source] = []
    for name, path in films.items():
        film = ImageFile(name, path.name, path)
        annotations = entries[name].annotations if name in entries else {}
        if "anatomy_mask" in masks and not annotations.get("anatomy_mask"):
            imported.leave_out(name, "missing mask", f"has no anatomy outline in {settings.json.name}.")
            continue
        labels = {annotation["label"] for annotation in annotations.get("lesion_mask", ())}
        if len(labels) > 1 and settings.label_column is None:
            kinds = " and ".join(settings.lesion[label - 1] for label in sorted(labels))
            imported.leave_out(
                name, "two kinds of lesion", f"has lesions of two kinds ({kinds}): --labels has to say its label."
            )
            continue
        files: dict[str, ImageFile | None] = {"image": film}
        for mask in masks:
            outlines = annotations.get(mask)
            files[mask] = _mask_file(name, film, entries[name].size, mask, outlines, settings) if outlines else None
        sources.append(Source(film_name(name), files, label=min(labels, default=None)))
    return sources


def _mask_file(name: str, film: ImageFile, size, mask: str, outlines: list[dict], settings: CocoSettings) -> ImageFile:
    """A mask as the decoder takes it: a PNG that is made when it is asked for."""

    def content() -> bytes:
        height, width = size or film.size()[::-1]
        return png_bytes(outlined_mask(outlines, height, width).astype(np.uint8) * 255)

    return ImageFile(f"{name} ({mask.split('_')[0]} in {settings.json.name})", content=content)


def outlined_mask(annotations: Sequence[Mapping], height: int, width: int) -> np.ndarray:
    """Return the pixels inside any of these annotations, bool `[height, width]`.

    Args:
        annotations: with `segmentation`: polygons (lists x, y, x, y, ... in pixels), or run lengths `{"size", "counts"}`,
            packed or not.

    Raises:
        Unreadable: for an annotation without an outline, or with one that is none or does not fit the film.
    """
    from pycocotools import mask as coco_mask

    inside = np.zeros((height, width), dtype=bool)
    for annotation in annotations:
        outline, which = annotation.get("segmentation"), f"annotation {brief(annotation.get('id'))}"
        try:
            if isinstance(outline, dict):
                _check_run_lengths(outline, which, height, width)
                packed = isinstance(outline["counts"], str)
                runs = [dict(outline) if packed else coco_mask.frPyObjects(dict(outline), height, width)]
            else:
                _check_polygons(outline, which, height, width)
                runs = coco_mask.frPyObjects(outline, height, width)
            for run in runs:
                inside |= coco_mask.decode(run).astype(bool)
        except Unreadable:
            raise
        except Exception as error:  # of pycocotools' C code, of several classes
            raise Unreadable("invalid outline", f"{which} cannot be read ({error}).") from error
    return inside


def _check_polygons(outline, which: str, height: int, width: int) -> None:
    if not isinstance(outline, list) or not outline:
        raise Unreadable("invalid outline", f"{which} has no outline (a box alone is none).")
    reach = max(height, width)
    for polygon in outline:
        numbers = isinstance(polygon, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise Unreadable("invalid outline", f"{which} has a polygon that is no list x, y, x, y, ... of at least 3 points.")
        if not all(-reach <= value <= 2 * reach for value in polygon):  # no NaN either
            raise Unreadable("invalid outline", f"{which} has a point far outside of the film.")


def _check_run_lengths(outline: dict, which: str, height: int, width: int) -> None:
    counts = outline.get("counts")
    if isinstance(counts, str) and PACKED.fullmatch(counts):
        counts = _unpacked(counts)
    if outline.get("size") != [height, width]:
        raise Unreadable(
            "invalid outline", f"{which} has the size {brief(outline.get('size'))}, its image [{height}, {width}]."
        )
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
            raise Unreadable("invalid outline", f"{which} has runs that do not add up to its {height} x {width} pixels.")
    else:
        raise Unreadable("invalid outline", f"{which} has no runs (counts).")


def _unpacked(text: str) -> list[int]:
    """Return the runs of a packed text, to look at them before pycocotools does.

    It reads on beyond a text that ends within a number, and leaves pixels after the last run to chance. From the fourth on a
    number is the difference to the one two before.
    """
    runs: list[int] = []
    number = digits = 0
    for char in text:
        value = ord(char) - ord("0")
        number |= (value & 0x1F) << 5 * digits
        digits += 1
        if not value & 0x20:
            number -= (value & 0x10) and 1 << 5 * digits  # the sign
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = digits = 0
    return runs
