"""The one decoder: the files of a case -> its radiograph and masks as arrays, and what is to be said about them.

Range: radiograph [0, 1], its full scale being 1; masks bool. How gray values are read is `macdm.image_processor`, which the
pipeline has in common; here is what a file may be. A file that is none (a pipe, a device) and an image that is too large are
refused before anything is read or taken.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..macdm.image_processor import grayscale_values, mask_reading, orientation, radiograph_scale
from .faults import Fault, shown
from .layout import IMAGE_COLUMNS


FORMATS = ("PNG", "TIFF", "JPEG", "JPEG2000", "BMP", "GIF", "WEBP", "PPM")  # no EPS, say: it is a program
MAX_PIXELS = 64_000_000  # 8000 x 8000; a whole leg of three detectors has 30 million
MAX_FILE_BYTES = 2**28  # more than 64 million pixels of 16 bits need
RADIOGRAPH, MASKS = IMAGE_COLUMNS[0], IMAGE_COLUMNS[1:]


class Unreadable(ValueError):
    """Raised for a file that is not read; carries the kind of the fault and the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class ImageFile:
    """Where one image is: a file, or (of a Hub data set) its bytes.

    Attributes:
        name: how sentences call it, "train/images/a.png".
        file_name: path inside the folder of the split, "images/a.png"; None in a set that has kept no file names.
        path: the file; None where there are bytes.
        content: gives the bytes; None where there is a file.
    """

    name: str
    file_name: str | None = None
    path: Path | None = None
    content: Callable[[], bytes] | None = None

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            Unreadable: when there is no such file, it is no ordinary one, or it is larger than `MAX_FILE_BYTES`.
        """
        return read_file(self.path) if self.content is None else self.content()

    def open(self) -> tuple[Image.Image, int]:
        """Decode the image, every pixel of it; return it as it is stored, and how it has to be turned (`orientation`).

        Raises:
            Unreadable: when there is none or more than one, it cannot be decoded, or it has more than `MAX_PIXELS`.
        """
        content = self.read()
        image = _open(content)
        if image.width * image.height > MAX_PIXELS:
            raise Unreadable(
                "image too large",
                f"{image.width} x {image.height} pixels; up to {MAX_PIXELS // 10**6} million are read, so that no film fills "
                "the memory: reduce it first.",
            )
        try:
            _open(content).verify()  # checksums, which decoding passes over
            turned = orientation(image)  # before decoding, which of a TIFF file forgets it
            image.load()  # opening reads the header alone: a truncated file shows here
        except Exception as error:  # Pillow's decoders raise many classes (OSError, SyntaxError, struct.error, ...)
            raise _undecodable(error) from error
        return image, turned

    def size(self) -> tuple[int, int]:
        """Return width and height as they are shown, by the header alone.

        Raises:
            Unreadable: when there is no such file, or its header cannot be read.
        """
        image = _open(self.read())
        width, height = image.size
        is_turned = image.format != "TIFF" and orientation(image) >= 5  # Pillow says of a TIFF file what it will be
        return (height, width) if is_turned else (width, height)


def read_file(path: Path) -> bytes:
    """Return what is in an ordinary file: not in a pipe or a device, which may never end.

    Raises:
        Unreadable: when there is no such file, or for what is none.
    """
    try:
        # A pipe without a writer would be waited for, were it opened to wait.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise Unreadable("missing file", "is not there.") from error
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device without a machine behind it
            raise Unreadable("no ordinary file", "is a socket or a device; an ordinary file is needed.") from error
        raise Unreadable("unreadable file", f"cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise Unreadable("missing file", f"is not there ({error}).") from error  # a zero byte in the name
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("no ordinary file", f"is {_kind_of(found.st_mode)}; an ordinary file is needed.")
        if found.st_size > MAX_FILE_BYTES:
            size = f"{found.st_size / 2**20:.0f} MiB"
            raise Unreadable("file too large", f"has {size}; files of up to {MAX_FILE_BYTES // 2**20} MiB are read.")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise Unreadable("unreadable file", f"cannot be read ({error.strerror}).") from error
    finally:
        os.close(descriptor)


def _kind_of(mode: int) -> str:
    names = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in names.items() if test(mode)), "a device")


def _open(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning about many pixels: what is too many is said here
        try:
            return Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise Unreadable("image too large", f"more than the {MAX_PIXELS // 10**6} million pixels that are read.") from error
        except Exception as error:
            raise _undecodable(error) from error


def _undecodable(error: Exception) -> Unreadable:
    unknown = isinstance(error, Image.UnidentifiedImageError)
    what = f"no image of a format that is read: {', '.join(FORMATS)}" if unknown else str(error) or type(error).__name__
    return Unreadable("unreadable image", f"cannot be decoded ({shown(what)}).")


# ------------------------------------------------------------------------------------------------------------ one case


@dataclass(frozen=True)
class Case:
    """One row of a set: its label, whatever else is said about it, and its files.

    Attributes:
        line: how sentences call the row, "train/metadata.jsonl:3".
        values: its columns without the images; `label` is a class number or None, `patient_id` and `site` are there.
        files: for each image column of the set where its image is; None for the lesion mask, empty then, of a normal case.
    """

    line: str
    values: dict
    files: dict[str, ImageFile | None]


@dataclass
class Decoded:
    """What the files of a case hold.

    Attributes:
        radiograph: float32 `[H, W]` in [0, 1]; None where it cannot be read.
        anatomy_mask, lesion_mask: bool `[H, W]`; None where they cannot be read, or the set has none.
        refusals: why the case cannot be used; nothing else is missing when there is none.
        findings: what is odd about its values, which are read all the same.
        depth: bits of the radiograph's values: 1, 8, 12 or 16.
    """

    radiograph: np.ndarray | None = None
    anatomy_mask: np.ndarray | None = None
    lesion_mask: np.ndarray | None = None
    refusals: list[Fault] = field(default_factory=list)
    findings: list[Fault] = field(default_factory=list)
    depth: int = 0

    def refuse(self, file: str, kind: str, reason: str) -> None:
        self.refusals.append(Fault(file, reason, kind))

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Radiograph, anatomy mask and lesion mask; None for a mask that the set does not have.

        Raises:
            ValueError: when the case cannot be used, with the first reason; the file is named.
        """
        if self.refusals:
            raise ValueError(f"{self.refusals[0].file}: {self.refusals[0].reason}")
        return self.radiograph, self.anatomy_mask, self.lesion_mask


def decode(case: Case, convert: Callable[[Image.Image], Image.Image] | None = None) -> Decoded:
    """Decode the images of a case; what is wrong with one hides nothing that is wrong with another.

    Args:
        case: the case.
        convert: what is done to an image before its gray values are read; it may raise `ValueError`. Importers read gray films
            that are stored in colour by it.
    """
    decoded, turned, shapes = Decoded(), {}, {}
    for column, file in case.files.items():
        if file is None:
            continue
        try:
            image, turned[column] = file.open()
            if convert is not None and not getattr(image, "is_animated", False):
                image = convert(image)
            values = grayscale_values(image, "radiograph" if column == RADIOGRAPH else "mask")
            shapes[column] = values.shape
            _take(decoded, column, file.name, values, image.mode)
        except Unreadable as error:
            reason = error.reason
            if error.kind == "missing file" and file.path is not None:
                reason = f"{column}_file_name in line {case.line.rpartition(':')[2]} names it, but it is not there."
            decoded.refuse(file.name, error.kind, reason)
        except ValueError as error:
            several = "several images" if getattr(image, "is_animated", False) else "not grayscale"
            decoded.refuse(file.name, several if column not in shapes else "not allowed values", str(error))
    _compare_sizes(decoded, case, shapes)
    _compare_orientations(decoded, case, turned, shapes)
    if case.files.get("lesion_mask", ...) is None and decoded.radiograph is not None:
        decoded.lesion_mask = np.zeros(decoded.radiograph.shape, dtype=bool)
    return decoded


def decode_radiograph(file: ImageFile) -> np.ndarray:
    """Decode a radiograph alone, float32 `[H, W]` in [0, 1].

    Raises:
        ValueError: when it cannot be read; the file is named.
    """
    decoded = Decoded()
    try:
        image, _ = file.open()
        _take(decoded, RADIOGRAPH, file.name, grayscale_values(image, "radiograph"), image.mode)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
    return decoded.radiograph


def _take(decoded: Decoded, column: str, name: str, values: np.ndarray, mode: str) -> None:
    if column == RADIOGRAPH:
        scale = radiograph_scale(values, mode)
        decoded.radiograph = values.astype(np.float32) / np.float32(scale)
        decoded.depth = scale.bit_length()
        return
    mask, oddity = mask_reading(values)
    setattr(decoded, column, mask)
    if oddity is not None:
        decoded.findings.append(Fault(name, f"the mask {oddity}.", "more than two values"))


def _compare_sizes(decoded: Decoded, case: Case, shapes: dict[str, tuple[int, int]]) -> None:
    film = shapes.get(RADIOGRAPH)
    for column in MASKS:
        if film is not None and shapes.get(column, film) != film:
            (height, width), (film_height, film_width) = shapes[column], film
            reason = (
                f"{width} x {height} pixels, but its radiograph {case.files[RADIOGRAPH].name} has {film_width} x {film_height}."
            )
            decoded.refuse(case.files[column].name, "size mismatch", reason)


def _compare_orientations(decoded: Decoded, case: Case, turned: dict[str, int], shapes: dict[str, tuple[int, int]]) -> None:
    """Refuse a case of which some files say that they have to be turned and others do not, when the sizes do not tell what the
    masks were drawn on: the film as it is stored, or as it is shown."""
    if RADIOGRAPH not in shapes:
        return
    height, width = shapes[RADIOGRAPH]
    for column in MASKS:
        if turned.get(column, turned[RADIOGRAPH]) == turned[RADIOGRAPH] or column not in shapes:
            continue
        # Turned by 90 degrees it fits, stored it would not: so the mask was drawn on the film as it is shown.
        tells = {turned[column], turned[RADIOGRAPH]} & {5, 6, 7, 8} and 1 in (turned[column], turned[RADIOGRAPH])
        if tells and height != width and shapes[column] == shapes[RADIOGRAPH]:
            continue
        decoded.refuse(
            case.files[column].name,
            "turned otherwise",
            f"is stored with orientation {turned[column]} (EXIF), its radiograph {case.files[RADIOGRAPH].name} with "
            f"{turned[RADIOGRAPH]}: save both upright, and without the tag.",
        )
