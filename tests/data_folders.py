"""Data folders as people have them, written from arrays: what stands in the files is known without reading them."""

import codecs
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base


COLUMNS = {"image": "images", "anatomy_mask": "anatomy", "lesion_mask": "lesion"}
# How an upright array has to be stored so that a viewer which follows the tag shows it upright (EXIF 2.3, tag 274).
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, -1),
}


@dataclass
class Case:
    """One case as it has to be read: radiograph in [0, 1], masks bool, all `[H, W]`; `row` is its line."""

    split: str
    name: str
    radiograph: np.ndarray
    anatomy: np.ndarray
    lesion: np.ndarray
    label: int | None
    row: dict


@dataclass
class DataFolder:
    """A folder in the making; `write` writes the lines."""

    root: Path
    cases: list[Case] = field(default_factory=list)

    def add(
        self,
        split: str = "train",
        name: str | None = None,
        label: int | None = 0,
        *,
        height: int = 12,
        width: int = 12,
        film: str = "png8",
        mask: str = "255",
        orientation: int = 1,
        tagged: tuple[str, ...] = tuple(COLUMNS),
        lesion: bool | None = None,
        **columns,
    ) -> Case:
        """Write the files of a case whose pixels follow from its number.

        Args:
            film: "png8", "png12", "png16", "tif8", "tif12", "tif16", "tif16-white-is-zero", "pgm16" or "bmp8".
            mask: "255", "1", "bit", "ids" (label numbers), "16" (65535 in 16 bits) or "7" (two values, 0 and 7).
            orientation: EXIF orientation of the files in `tagged`; the others are stored upright.
            lesion: whether there is a lesion; by the label when None.
            columns: further columns of the line.
        """
        number = len(self.cases)
        name = name or f"{split}_{number:02d}"
        generator = np.random.default_rng([number, height, width])
        anatomy = np.zeros((height, width), dtype=bool)
        anatomy[2:-2, 2 : width - 3] = True
        inside = np.zeros_like(anatomy)
        if lesion if lesion is not None else label not in (0, None):
            inside[3 : 5 + number % 2, 3:5] = True
        radiograph = self._write_film(split, name, film, (height, width), generator, orientation if "image" in tagged else 1)
        row = {"image_file_name": f"images/{name}.{_suffix(film)}"}
        for column, pixels in (("anatomy_mask", anatomy), ("lesion_mask", inside)):
            turned = orientation if column in tagged else 1
            save(self.path(split, column, f"{name}.png"), mask_pixels(pixels, mask), turned)
            row[f"{column}_file_name"] = f"{COLUMNS[column]}/{name}.png"
        row |= {"label": label, **columns}
        self.cases.append(Case(split, name, radiograph, anatomy, inside, label, row))
        return self.cases[-1]

    def _write_film(self, split, name, film, shape, generator, orientation) -> np.ndarray:
        bits = int("".join(filter(str.isdigit, film.partition("-")[0].replace("pgm", "").replace("tif", ""))))
        full = 2**bits - 1
        values = generator.integers(0, full + 1, shape)
        values.flat[:2] = 0, full  # the whole range is used
        stored = values.astype(np.uint8 if bits == 8 else np.uint16)
        path = self.path(split, "image", f"{name}.{_suffix(film)}")
        if film.endswith("white-is-zero"):
            write_white_is_zero(path, stored)
        else:
            save(path, stored, orientation)
        return (values / full).astype(np.float32)

    def path(self, split: str, column: str, file: str) -> Path:
        folder = self.root / split / COLUMNS[column]
        folder.mkdir(parents=True, exist_ok=True)
        return folder / file

    def of(self, split: str) -> list[Case]:
        return [case for case in self.cases if case.split == split]

    def write(self, *, bom: bool = False, blank_lines: bool = False, ends: str = "\n") -> "DataFolder":
        for split in dict.fromkeys(case.split for case in self.cases):
            lines = [json.dumps(case.row, ensure_ascii=False) for case in self.of(split)]
            lines = [json.dumps(case.row) if _halved(line) else line for case, line in zip(self.of(split), lines, strict=True)]
            text = (ends * 2 if blank_lines else ends).join(lines) + ends
            start = codecs.BOM_UTF8 if bom else b""
            (self.root / split / "metadata.jsonl").write_bytes(start + text.encode("utf-8"))
        return self


def _halved(text: str) -> bool:
    """Whether there is half of a character, which JSON can say and UTF-8 cannot."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def usual(root: Path, **options) -> DataFolder:
    """Six cases to train and two to validate, every second one with a lesion."""
    folder = DataFolder(root)
    for split, count in (("train", 6), ("validation", 2)):
        for number in range(count):
            folder.add(split, label=number % 2, **options)
    return folder


def _suffix(film: str) -> str:
    return {"png": "png", "tif": "tif", "pgm": "pgm", "bmp": "bmp"}[film[:3]]


def mask_pixels(mask: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bit":
        return mask
    if kind == "ids":  # structures are numbered: the halves of the mask are 1 and 2
        numbers = np.where(np.arange(mask.shape[1]) % 2, 1, 2)
        return (mask * numbers).astype(np.uint8)
    if kind == "16":
        return mask.astype(np.uint16) * 65535
    return mask.astype(np.uint8) * int(kind)


def save(path: Path, upright: np.ndarray, orientation: int = 1, **options) -> None:
    """Write an array so that it is shown upright."""
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    if orientation != 1:
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        options["exif"] = exif
    image.save(path, **options)


def write_white_is_zero(path: Path, values: np.ndarray) -> None:
    """A 16-bit TIFF file whose photometric interpretation is WhiteIsZero, as some film scanners write it."""
    image = Image.fromarray(65535 - values)
    image.save(path)
    content = bytearray(path.read_bytes())
    entries = int.from_bytes(content[4:8], "little")
    for entry in range(int.from_bytes(content[entries : entries + 2], "little")):
        place = entries + 2 + 12 * entry
        if int.from_bytes(content[place : place + 2], "little") == 262:
            content[place + 8 : place + 10] = (0).to_bytes(2, "little")
    path.write_bytes(bytes(content))


def zip_of(path: Path, folder: Path) -> None:
    """An archive of a folder, of which nothing may be read."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folder.parent))
