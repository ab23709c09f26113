"""Gray values of films and masks on their way in and out: what is gray is read as gray, what comes out is an 8- or 16-bit PNG.

Ranges: radiograph file -> [0, 1] (`data.decoding`) -> the whole numbers of the file, 0..255 or 0..65535 -> file.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..decoding import Case, Decoded, ImageFile, Unreadable, decode


# Between the channels of a gray film that a JPEG encoder took for a coloured one: rounding. A colour is far beyond it.
MOST_COLOUR = 4
SCALES = {1: 1, 8: 255, 12: 4095, 16: 65535}  # bits -> value that is full scale
DARKEST_OF_16 = 4095  # a 16-bit file without a value above it is read as one of 12 bits
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def as_gray(image: Image.Image) -> Image.Image:
    """Return an image that is stored in colour and has none as grayscale of 8 bits; every other one as it is.

    Raises:
        ValueError: when it has colours, or parts that can be seen through.
    """
    if image.mode not in ("RGB", "RGBA", "LA", "P", "PA"):
        return image
    values = np.asarray(image.convert("RGBA")).astype(np.int16)  # [H, W, 4]
    if (values[..., 3] != 255).any():
        raise ValueError("has pixels that can be seen through; what is behind them is not known.")
    colour = int(np.ptp(values[..., :3], axis=-1).max())
    if colour > MOST_COLOUR:
        raise ValueError(f"is in colour (red, green and blue differ by up to {colour}); gray values are needed.")
    return image.convert("RGB").convert("L")


def decode_film(case: Case) -> Decoded:
    """Decode a case of an importer: as `data.decoding` does, and films and masks that are gray in colour files as well."""
    decoded = decode(case, convert=as_gray)
    film = case.files["image"]
    if not decoded.refusals and decoded.depth == 8 and _has_deep_colour(film):
        decoded.refuse(film.name, "16-bit colour", "is a 16-bit PNG in colour, of which 8 bits are read; save it as grayscale.")
    return decoded


def _has_deep_colour(file: ImageFile) -> bool:
    if file.path is None:  # made by an importer
        return False
    try:
        head = file.read()[:26]
    except Unreadable:
        return False
    return head.startswith(PNG_SIGNATURE) and head[24] == 16 and head[25] in (2, 4, 6)  # bit depth, colour type


def film_values(decoded: Decoded) -> np.ndarray:
    """Return the whole numbers that a decoded radiograph has in its file, `[H, W]`: uint8 of 8 bits (and of 1, 0 / 255), else
    uint16; exact, since float32 holds 16 bits."""
    scale = SCALES[decoded.depth]
    values = np.rint(decoded.radiograph.astype(np.float64) * (255 if scale == 1 else scale))
    return values.astype(np.uint8 if scale <= 255 else np.uint16)


def stretched(values: np.ndarray, bits: int) -> np.ndarray:
    """Bring values of so many bits to 16, `[H, W]` uint16: all films of a set by the same factor.

    Raises:
        ValueError: for values beyond these bits, and for a film that stays so dark that it would be read as one of 12 bits.
    """
    full, brightest = 2**bits - 1, int(values.max())
    if brightest > full:
        raise ValueError(f"has the value {brightest}, beyond the {bits} bits of --bits.")
    result = np.rint(values.astype(np.float64) * (65535 / full)).astype(np.uint16)
    if result.max() <= DARKEST_OF_16:
        raise ValueError(f"has no value above {brightest}, of {full} with --bits {bits}: it is nearly black.")
    return result


def write_film(path: Path, values: np.ndarray) -> None:
    """Write uint8 or uint16 values `[H, W]` as a grayscale PNG of that depth."""
    Image.fromarray(values).save(path, format="PNG")


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a bool mask `[H, W]` as 0 / 255."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path, format="PNG")


def png_bytes(values: np.ndarray) -> bytes:
    """Return what `write_film` writes."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
