"""DICOM radiographs, with masks as image files beside them: `macdm import-dicom`.

Stored values -> modality transformation (rescale slope and intercept, or a lookup table) -> window (or lookup table) -> gray
value in [0, 1], 1 white -> 16 bits. Equations and numbers are those of DICOM PS3.3, C.7.6.3, C.11.1 and C.11.2.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ..beside import IMAGE_SUFFIXES, walk
from ..decoding import MAX_PIXELS, ImageFile, Unreadable, read_file
from ..faults import brief
from ..layout import SPACING_COLUMN
from .films import DARKEST_OF_16, png_bytes
from .settings import DicomSettings
from .tables import film_name
from .write import Imported, Source, import_sources


if TYPE_CHECKING:
    from pydicom import Dataset

MASKS = {"anatomy_mask": "anatomy", "lesion_mask": "lesion"}  # -> option
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", "")
KEY_BYTES = 32
WINDOWS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def run(settings: DicomSettings, *, show_progress: bool = True) -> Imported:
    """Import what the settings ask for (see `import_sources`).

    Raises:
        ModuleNotFoundError: without pydicom.
        FileNotFoundError: when the folder is not there.
        FileExistsError, ValueError: as `import_sources`; also for a key that is none, and where there is no film or no mask.
    """
    import pydicom  # noqa: F401  before anything is read: without it nothing can be imported

    src, imported = Path(settings.src), Imported(Path(settings.out))
    if not src.is_dir():
        raise FileNotFoundError(f"{src}: no such folder.")
    films, images = _found(src, settings, imported)
    if not films:
        raise ValueError(f"{src}: there is no DICOM file of a film that is taken (--modality {' '.join(settings.modality)}).")
    beside = {column: {} for column in MASKS}
    for name in films:
        for column, option in MASKS.items():
            path = PurePosixPath(name)
            mask = images.pop(str(path.with_name(getattr(settings, option).replace("{name}", path.name))), None)
            if mask is not None:
                beside[column][name] = ImageFile(mask.relative_to(src).as_posix(), mask.name, mask)
    for path in images.values():
        imported.leave_out(path.relative_to(src).as_posix(), "mask without a film", "there is no film whose mask it is.")
    masks = [column for column in MASKS if beside[column]]
    if not masks:
        raise ValueError(f"{src}: no film has a mask {settings.anatomy} or {settings.lesion} beside it.")
    key = read_key(Path(settings.key), imported)
    sources = []
    for name, (path, header) in films.items():
        files: dict[str, ImageFile | None] = {"image": _film_file(path.relative_to(src).as_posix(), path, settings.window)}
        if "anatomy_mask" in masks and name not in beside["anatomy_mask"]:
            imported.leave_out(files["image"].name, "missing mask", f"has no anatomy mask {settings.anatomy} beside it.")
            continue
        files |= {column: beside[column].get(name) for column in masks}
        patient = str(header.get("PatientID") or "").strip()
        values = {"patient_id": patient} if patient else {}
        if (spacing := _spacing(header)) is not None:
            values[SPACING_COLUMN] = spacing
        sources.append(
            Source(name, files, values=values, new_name=pseudonym(key, "film", str(header.get("SOPInstanceUID", name))))
        )
    hidden = lambda patient: pseudonym(key, "patient", patient)  # noqa: E731
    return import_sources("import-dicom", sources, masks, settings, imported, pseudonym=hidden, show_progress=show_progress)


# ------------------------------------------------------------------------------------------------------------ pseudonyms


def read_key(path: Path, imported: Imported) -> bytes:
    """Return the key of the pseudonyms; a new one is written where there is none, which nobody but its owner may read.

    Raises:
        ValueError: when the file is inside of the new set, or is no key.
    """
    if imported.out.absolute() in path.absolute().parents:
        raise ValueError(f"--key {path} is inside of {imported.out}: whoever gets the set must not get the key.")
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        imported.note(str(path), "new key", "is a new key of the patients' pseudonyms: keep it, and give it to nobody.")
    try:
        key = bytes.fromhex(read_file(path).decode("ascii").strip())
    except ValueError as error:
        raise ValueError(f"--key {path} holds no key: {2 * KEY_BYTES} hex digits are needed.") from error
    if len(key) != KEY_BYTES:
        raise ValueError(f"--key {path} holds no key: {2 * KEY_BYTES} hex digits are needed.")
    return key


def pseudonym(key: bytes, kind: str, identity: str) -> str:
    """Return what stands for a patient or a film: 16 hex digits of HMAC-SHA-256 (RFC 2104) after a letter."""
    return kind[0] + hmac.new(key, f"{kind}\0{identity}".encode(), hashlib.sha256).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- headers


def _found(src: Path, settings: DicomSettings, imported: Imported) -> tuple[dict[str, tuple[Path, Dataset]], dict[str, Path]]:
    """Return the films that may be taken, with their headers, and the image files, each by its path without suffix."""
    films: dict[str, tuple[Path, Dataset]] = {}
    images: dict[str, Path] = {}
    for path, is_folder in walk(src):
        inside, suffix = path.relative_to(src).as_posix(), path.suffix.lower()
        if (
            is_folder
            or path.name == "DICOMDIR"
            or path.absolute() in {Path(p).absolute() for p in (settings.labels, settings.key) if p}
        ):
            continue
        if suffix in IMAGE_SUFFIXES and suffix != ".dcm":
            images[film_name(inside)] = path
            continue
        try:
            header = _read(path, stop_before_pixels=True)
            _check_header(header, settings)
        except Unreadable as error:
            if error.kind == "no DICOM file" and suffix not in DICOM_SUFFIXES and not suffix[1:].isdigit():  # of UIDs as names
                imported.note(inside, "no image", "is not read: it is no DICOM file, and no mask.")
            else:
                imported.leave_out(inside, error.kind, error.reason)
            continue
        name = str(PurePosixPath(inside).with_suffix("")) if suffix in DICOM_SUFFIXES else inside
        if name in films:
            reason = f"has the name of {films[name][0].relative_to(src).as_posix()}; one file of each name is allowed."
            imported.leave_out(inside, "two of one name", reason)
        else:
            films[name] = path, header
    return films, images


def _read(path: Path, stop_before_pixels: bool = False) -> Dataset:
    import pydicom

    content = read_file(path)
    with _quiet():
        try:
            return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=stop_before_pixels)
        except pydicom.errors.InvalidDicomError as error:
            raise Unreadable("no DICOM file", "is no DICOM file (it has no DICM at its beginning).") from error
        except Exception as error:  # pydicom raises many classes for broken files
            raise Unreadable("unreadable image", f"cannot be read as DICOM ({error}).") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pydicom's warnings about values that break the standard in places that are not read here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_header(header: Dataset, settings: DicomSettings) -> None:
    """Raise `Unreadable` for a file that holds no film that is taken."""
    modality = str(header.get("Modality") or "none")
    if modality not in settings.modality:
        raise Unreadable("other modality", f"has the modality {modality}; --modality takes {', '.join(settings.modality)}.")
    rows, columns = header.get("Rows"), header.get("Columns")
    if not rows or not columns:
        raise Unreadable("no image", "holds no image.")
    if rows * columns > MAX_PIXELS:
        raise Unreadable("image too large", f"{columns} x {rows} pixels; up to {MAX_PIXELS // 10**6} million are read.")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        raise Unreadable("several images", f"holds {frames} frames; one is allowed: export the one that is meant.")
    photometric = header.get("PhotometricInterpretation")
    if header.get("SamplesPerPixel", 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable("not grayscale", f"is {photometric}; MONOCHROME1 and MONOCHROME2 are read.")
    bits = header.get("BitsStored")
    if not isinstance(bits, int) or not 8 <= bits <= 16:
        raise Unreadable("other depth", f"stores {bits} bits; 8 to 16 are read.")
    if str(header.get("BurnedInAnnotation", "NO")).upper() == "YES" and not settings.take_burned_in:
        reason = "has text burned into it, as its tag says, which may be a name: cover it, or give --take-burned-in."
        raise Unreadable("burned-in text", reason)


def _spacing(header: Dataset) -> list[float] | None:
    """Return the distance of the pixels' centres between rows and between columns in mm, on the detector where known."""
    value = header.get("ImagerPixelSpacing") or header.get("PixelSpacing")
    try:
        spacing = [float(number) for number in value or ()]
    except (TypeError, ValueError):
        return None
    return spacing if len(spacing) == 2 and min(spacing) > 0 else None


# -------------------------------------------------------------------------------------------------------------- values


def _film_file(name: str, path: Path, window: str) -> ImageFile:
    """A film as the decoder takes it: a PNG that is made when it is asked for."""

    def content() -> bytes:
        values = np.rint(gray_values(_read(path), window) * 65535).astype(np.uint16)
        if values.max() <= DARKEST_OF_16:
            raise Unreadable("dark film", f"has no value above {values.max() / 65535:.3f} of its window: it is nearly black.")
        return png_bytes(values)

    return ImageFile(name, content=content)


def gray_values(dataset: Dataset, window: str = "file") -> np.ndarray:
    """Return the gray values of a film as they are to be shown, float64 `[H, W]` in [0, 1], 1 white.

    Args:
        dataset: of one frame, MONOCHROME1 or MONOCHROME2.
        window: "file" maps by its first lookup table or window where it has one; "none", and where it has none, the whole range
            of its stored values becomes [0, 1].

    Raises:
        Unreadable: when its values cannot be decoded, or its window is none.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi

    with _quiet():
        try:
            stored = dataset.pixel_array  # [H, W]
        except Exception as error:  # of pydicom and its decoders, of many classes
            syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "unknown")
            raise Unreadable("unreadable image", f"cannot be decoded, stored as {syntax} ({_first_line(error)}).") from error
        values = apply_modality_lut(stored, dataset).astype(np.float64)
        has_table = "VOILUTSequence" in dataset and len(dataset.VOILUTSequence)
        if window == "file" and has_table:
            bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
            gray = apply_voi(values.astype(np.int64), dataset) / (2**bits - 1)
        elif window == "file" and _first(dataset.get("WindowCenter")) is not None:
            centre, width = _first(dataset.WindowCenter), _first(dataset.get("WindowWidth"))
            gray = windowed(values, centre, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
        else:
            lowest, highest = _range(dataset)
            gray = np.clip((values - lowest) / (highest - lowest), 0, 1)
    return 1 - gray if dataset.PhotometricInterpretation == "MONOCHROME1" else gray


def windowed(values: np.ndarray, centre: float, width: float | None, function: str = "LINEAR") -> np.ndarray:
    """Map values by a window to [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Raises:
        Unreadable: for another function, and for a width that is not allowed.
    """
    if function not in WINDOWS:
        raise Unreadable("invalid window", f"has the window function {brief(function)}; {', '.join(WINDOWS)} are known.")
    if width is None or not (width >= 1 if function == "LINEAR" else width > 0):
        raise Unreadable("invalid window", f"has a window of width {width}.")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _range(dataset: Dataset) -> tuple[float, float]:
    """Return the lowest and the highest value that the modality transformation can give."""
    if "ModalityLUTSequence" in dataset and len(dataset.ModalityLUTSequence):
        return 0.0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits, is_signed = dataset.BitsStored, dataset.PixelRepresentation == 1
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    low, high = sorted(end * slope + intercept for end in ends)
    return low, high


def _first(value) -> float | None:
    """Return the first number of an attribute that may have several."""
    try:
        return float(value)
    except (TypeError, ValueError):
        try:
            return float(value[0])
        except (TypeError, ValueError, IndexError):
            return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
