"""Odd data folders, as people have them or as somebody made them: each says what has to become of it.

"read": nothing is a fault, and every case is read as it was written. "named": `macdm check` names the file, the line or the
column, and what cannot be read is refused by the reader.
"""

import bz2
import codecs
import gzip
import json
import os
import shutil
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_folders import COLUMNS, DataFolder, mask_pixels, save, usual, zip_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo


READ, NAMED = "read", "named"
FILM, ANATOMY, LESION = (f"train/{folder}/train_01.png" for folder in COLUMNS.values())
SIDE = 12


@dataclass(frozen=True)
class Odd:
    """One odd folder.

    Attributes:
        name: what is odd.
        outcome: `READ` or `NAMED`.
        change: changes the folder before its lines are written.
        late: changes it afterwards.
        words: one of which a sentence must have.
        options: of every case.
        lines: of `DataFolder.write`.
        folder: name of the folder.
    """

    name: str
    outcome: str
    change: Callable | None = None
    late: Callable | None = None
    words: tuple[str, ...] = ()
    options: dict | None = None
    lines: dict | None = None
    folder: str = "films"
    make: Callable | None = None

    def write(self, top: Path) -> DataFolder:
        folder = (self.make or usual)(top / self.folder, **(self.options or {}))
        if self.change is not None:
            self.change(folder)
        folder.write(**(self.lines or {}))
        if self.late is not None:
            self.late(folder)
        return folder


ODD: list[Odd] = []


def read(name, **parts):
    ODD.append(Odd(name, READ, **parts))


def named(name, *words, **parts):
    ODD.append(Odd(name, NAMED, words=words, **parts))


def in_row(number=1, **values):
    """A change of the line of one case."""
    return lambda folder: folder.cases[number].row.update(values)


def without(column, number=1):
    return lambda folder: folder.cases[number].row.pop(column)


def bytes_of(file, content):
    def late(folder):
        (folder.root / file).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / file).write_bytes(content(folder.root / file) if callable(content) else content)

    return late


def image_of(file, image, format="PNG", **options):
    def late(folder):
        (image() if callable(image) else image).save(folder.root / file, format, **options)

    return late


def gray(seed=0, dtype=np.uint8, high=256, side=SIDE):
    values = np.random.default_rng(seed).integers(0, high, (side, side))
    values.flat[:2] = 0, high - 1
    return values.astype(dtype)


# ------------------------------------------------------------------------------------- what stands beside, and is not read


def copy_to(inside, source="train"):
    return lambda folder: shutil.copytree(folder.root / source, folder.root / inside)


for inside in ("old/test", "train/old", "test_old", "validation/test", "data/train", "train/train", "TRAIN", "val", "holdout"):
    read(f"a copy of the set as {inside}", late=copy_to(inside))


def archive(inside, kind):
    def late(folder):
        path = folder.root / inside
        if kind == "zip":
            zip_of(path, folder.root / "train")
        elif kind == "tar":
            with tarfile.open(path, "w:gz") as file:
                file.add(folder.root / "train", "train")
        else:
            path.write_bytes(
                {"gz": gzip.compress, "bz2": bz2.compress}[kind]((folder.root / "train/metadata.jsonl").read_bytes())
            )

    return late


for inside, kind in (("train/train.zip", "zip"), ("train.zip", "zip"), ("train/a.tar.gz", "tar"),
            ("train/metadata.jsonl.gz", "gz"),
                     ("test.tar.gz", "tar"), ("train/metadata.jsonl.bz2", "bz2")):  # fmt: skip
    read(f"an archive {inside}", late=archive(inside, kind))
for inside in ("train/metadata.csv", "metadata.csv", "train/metadata.parquet", "train/metadata.json", "metadata.jsonl",
               "train/images/metadata.jsonl", "train/images/metadata.csv", "README.md", "dataset_infos.json"):  # fmt: skip
    read(f"another table {inside}", late=bytes_of(inside, b"file_name,label\nimages/x.png,1\n"))
for inside in ("train/images/extra.png", "train/x.png", "train/lesion/a.tif", "test.png"):
    read(f"an image that no line names, {inside}", late=lambda folder, inside=inside: save(folder.root / inside, gray()))
for inside in (".DS_Store", "train/images/._train_00.png", "train/images/Thumbs.db",
            "train/.ipynb_checkpoints/metadata.jsonl",
               "train/images/broken.png", "train/metadata.jsonl~", "train/metadata.jsonl.bak"):  # fmt: skip
    read(f"what systems leave, {inside}", late=bytes_of(inside, b"\x00\x05\x16\x07"))


def beside(make):
    def late(folder):
        make(folder.root / "train" / "images" / "beside.png")

    return late


def listening(path):
    """A socket in the file system; its path must be short."""
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


NO_FILES = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a device without an end of its own": lambda path: path.symlink_to("/dev/random"),
    "a link to nothing": lambda path: path.symlink_to("nowhere.png"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": lambda path: path.mkdir(),
    "a socket": listening,
}
for name, make in NO_FILES.items():
    read(f"{name} that no line names", late=beside(make))
read("a link to the folder above", late=lambda folder: (folder.root / "train" / "loop").symlink_to(".."))
read("a link to the root", late=lambda folder: (folder.root / "root").symlink_to("/"))


def deep(folder):
    path = folder.root / "train"
    for _ in range(300):
        path = path / "deep"
    path.mkdir(parents=True)


read("folders in folders", late=deep)


# ------------------------------------------------------------------------------------------------------------------ paths

for name in ("films [v2]", "films*", "f?lms", "**", "{a,b}", "a::b", "zip:x", "50%20", "~", "$HOME", "a b", "ä漢",
            "train", "test", "-x",
             "x.zip", "#1", "a;b&c", "'", '"'):  # fmt: skip
    read(f"a folder called {name}", folder=name)


def beside_v2(folder):
    usual(folder.root.parent / "films v", film="png16").write()


read("films [v2] beside films v", folder="films [v2]", late=beside_v2)


def renamed(name):
    def change(folder):
        case = folder.cases[1]
        for column, kind in COLUMNS.items():
            path = folder.root / "train" / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder.root / "train" / kind / "train_01.png").rename(path)
            case.row[f"{column}_file_name"] = f"{kind}/{name}"
        case.name = Path(name).stem

    return change


for name in ("a[1].png", "a*.png", "a?.png", "hf:x.png", "https:/x/y.png", "a b.png", "ä.png", "a%20b.png", "-a.png",
            "{a}.png", "n.PNG", "n",
             "n.jpg", "n.dat", "..a.png", "~.png", "a#b.png", "x" * 200 + ".png", "deep/er/n.png", "a'b\".png",
             "a\tb.png"):  # fmt: skip
    read(f"a file called {name[:20]}", change=renamed(name))


def path_as(function):
    def change(folder):
        for case in folder.cases:
            case.row = {k: function(v) if k.endswith("file_name") else v for k, v in case.row.items()}

    return change


read("paths of Windows", change=path_as(lambda path: path.replace("/", "\\")))
read("paths with ./", change=path_as(lambda path: "./" + path))
read("paths with ..", change=path_as(lambda path: "x/../" + path))
read("paths with //", change=path_as(lambda path: path.replace("/", "//")))
for path in ("../validation/images/validation_06.png", "/etc/hostname", "images/../../x.png", "..\\x.png",
            "C:\\x.png", "\\\\host\\x.png",
             ".", "..", "a\0b.png", "\ud800.png"):  # fmt: skip
    named(f"a path {path!r}", "metadata.jsonl:2", change=in_row(image_file_name=path))
for path in ("images/nowhere.png", "images", "https://example.org/x.png", "file://x.png", "images/*.png",
            "images/train_0?.png",
             "zip://images/train_01.png::train.zip", "x" * 300 + ".png", "images/train_01.png/x",
             "images/TRAIN_01.PNG", " images/train_01.png"):  # fmt: skip
    named(f"a path {path[:40]!r}", "train/", change=in_row(image_file_name=path))
named("one film in two lines", "named by", change=in_row(3, image_file_name="images/train_01.png"))
named("one file as film and mask", "named by", change=in_row(1, anatomy_mask_file_name="images/train_01.png"))


# ------------------------------------------------------------------------------------------------------------------ lines

read("a byte order mark", lines={"bom": True})
read("lines of Windows", lines={"ends": "\r\n"})
read("empty lines", lines={"blank_lines": True})
METADATA = "train/metadata.jsonl"


def text_as(function):
    return lambda folder: (folder.root / METADATA).write_bytes(function((folder.root / METADATA).read_text(encoding="utf-8")))


read("no end of the last line", late=text_as(lambda text: text.rstrip("\n").encode()))
read("blanks around the lines", late=text_as(lambda text: "\n".join(f"  {line} \t" for line in text.splitlines()).encode()))
read("escapes in the lines", late=text_as(lambda text: text.replace("/", "\\/").encode()))
BROKEN = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "a list": lambda text: f"[{','.join(text.splitlines())}]".encode(),
    "a list over lines": lambda text: b"[\n" + ",\n".join(text.splitlines()).encode() + b"\n]",
    "lines with commas": lambda text: ",\n".join(text.splitlines()).encode(),
    "many lines for an object": lambda text: "\n".join(json.dumps(json.loads(t), indent=1) for t in text.splitlines()).encode(),
    "all in one line": lambda text: text.replace("\n", "").encode(),
    "single quotes": lambda text: text.replace('"', "'").encode(),
    "NaN": lambda text: text.replace('"label": 1', '"label": NaN').encode(),
    "Infinity": lambda text: text.replace('"label": 1', '"label": Infinity').encode(),
    "a name twice": lambda text: text.replace('"label": 1', '"label": 1, "label": 0').encode(),
    "a comment": lambda text: b"# films\n" + text.encode(),
    "a heading": lambda text: b"image_file_name,label\n" + text.encode(),
    "a text": lambda text: text.encode() + b'"x"\n',
    "a number": lambda text: text.encode() + b"3\n",
    "null": lambda text: text.encode() + b"null\n",
    "a list in a line": lambda text: text.encode() + b"[1]\n",
    "half of the last line": lambda text: text.encode()[:-30],
    "a line cut in the middle": lambda text: text.replace('"label": 1', "", 1).encode(),
    "nothing": lambda text: b"",
    "blanks": lambda text: b"\n \n\t\n",
    "a mark alone": lambda text: codecs.BOM_UTF8,
    "zeros": lambda text: bytes(1000),
    "noise": lambda text: np.random.default_rng(0).bytes(3000),
    "Latin 1": lambda text: text.replace('"label": 1', '"label": 1, "site": "ä"').encode("latin-1"),
    "endless nesting": lambda text: text.encode() + b'{"a": ' + b"[" * 200_000 + b"\n",
    "endless nesting, closed": lambda text: text.encode() + b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n",
    "endless nesting of objects": lambda text: text.encode() + b'{"a": ' * 50_000 + b"1" + b"}" * 50_000 + b"\n",
    "a number of 5000 digits": lambda text: text.replace('"label": 1', '"label": ' + "9" * 5000).encode(),
}
for name, function in BROKEN.items():
    named(f"lines: {name}", METADATA, late=text_as(function))
read("a text of a megabyte", change=in_row(note="x" * 2**20))
read("many columns", change=in_row(**{f"column {number}": number for number in range(500)}))
read(
    "columns that mix everything",
    change=lambda folder: [
        case.row.update(a=value) for case, value in zip(folder.cases, (1, "x", [1], None, {"b": 1}, True, 2.5, 0), strict=True)
    ],
)
read("columns of images", change=in_row(image="x.png", lesion_mask=3, file_name="x"))
read("columns of one line alone", change=in_row(site="frontal"))
for column in ("image_file_name", "anatomy_mask_file_name", "lesion_mask_file_name", "label"):
    named(f"no {column}", column, change=without(column))
for column in ("image_file_name", "anatomy_mask_file_name", "lesion_mask_file_name"):
    for value in (None, "", 7, ["images/train_01.png"], {"path": "images/train_01.png"}, True):
        named(f"{column} is {value!r}", METADATA, change=in_row(**{column: value}))


def no_lesion(folder, how):
    for case in folder.cases:
        if case.label == 0:
            (folder.root / case.split / case.row["lesion_mask_file_name"]).unlink()
            case.row["lesion_mask_file_name"] = None
            if how == "absent":
                del case.row["lesion_mask_file_name"]


read("normal films without a lesion mask: null", change=lambda folder: no_lesion(folder, "null"))
read("normal films without a lesion mask: absent", change=lambda folder: no_lesion(folder, "absent"))
named("an unlabeled film without a lesion mask", METADATA, change=in_row(0, label=None, lesion_mask_file_name=None))
named("a film without an anatomy mask", METADATA, change=in_row(0, anatomy_mask_file_name=None))


def in_place_of_metadata(make):
    def late(folder):
        (folder.root / METADATA).unlink()
        make(folder.root / METADATA)

    return late


for name, make in NO_FILES.items():
    named(f"metadata is {name}", "train", late=in_place_of_metadata(make))
for name in ("metadata.csv", "metadata.parquet", "metadata.json", "METADATA.JSONL", "metadata.jsonl.txt", "metadata.jsonl.gz"):
    named(
        f"{name} alone", "train", late=lambda folder, name=name: (folder.root / METADATA).rename(folder.root / "train" / name)
    )
named("no split to train", "train", late=lambda folder: shutil.rmtree(folder.root / "train"))
named("an empty folder", "train", late=lambda folder: (shutil.rmtree(folder.root), folder.root.mkdir()))
named("train is a file", "train", late=lambda folder: (shutil.rmtree(folder.root / "train"), (folder.root / "train").touch()))
named("an empty validation split", "validation", late=lambda folder: (folder.root / "validation/metadata.jsonl").unlink())
read("no validation split", late=lambda folder: shutil.rmtree(folder.root / "validation"))


# ------------------------------------------------------------------------------------------------ labels, patients, sites


def labels(*of_train, validation=(0, 1)):
    def make(root):
        folder = DataFolder(root)
        for split, of_split in (("train", of_train), ("validation", validation)):
            for label in of_split:
                folder.add(split, label=label, lesion=label not in (0, "normal", "Normal", " normal", None, False))
        return folder

    return make


for values in ((0, -1), (0, 1.0), (0, 0.5), ("0", "1"), (0, True), (False, 1), (0, ""), (0, " "), (0, [1]), (0, {}),
            (0, 10**6), (0, 10**30),
               (0, 2), (1, 2), (0, 1, 3), (0, 1, 5000), ("a", "b"), ("normal", 1), ("normal", "Normal", "b"),
               ("normal", " normal", "b"),
               ("0: normal", "1: fracture"), ("1e3", "normal"), ("nan", "normal"), ("healthy", "sick")):  # fmt: skip
    named(f"labels {values!r}", "label", make=labels(*values, validation=()))
named("a label of validation alone", "label 2", make=labels(0, 1, validation=(0, 2)))


def named_labels(root):
    folder = labels("torus", "normal", "fracture", None, validation=("normal", "torus"))(root)
    numbers = {"normal": 0, "fracture": 1, "torus": 2, None: None}
    for case in folder.cases:
        case.label = numbers[case.label]
    return folder


read("names as labels", make=named_labels)
read("three classes", make=labels(0, 1, 2, 2, 1, 0))
read("unlabeled films", make=labels(0, 1, None, None, 1, validation=(None, 0)))
read("one class to validate", make=labels(0, 1, validation=(1, 1)))
named("a normal film with a lesion", LESION, change=in_row(label=0))
named("a lesion that is empty", "train/lesion/train_00.png", change=in_row(0, label=1))


def patients(first, last):
    def change(folder):
        folder.cases[0].row["patient_id"], folder.cases[-1].row["patient_id"] = first, last

    return change


for first, last in (("p", "p"), (17, 17), (17, "17"), (17.0, 17), ("17", 17.0), (0, "0")):
    named(f"patients {first!r} and {last!r} in two splits", "patient", change=patients(first, last))
for value in (True, [1], {"a": 1}, 1.5, ["p"]):
    named(f"a patient {value!r}", "patient_id", change=in_row(patient_id=value))
    named(f"a site {value!r}", "site", change=in_row(site=value))
for first, last in (("P1", " P1"), ("P1", "p1"), ("", ""), (" ", " "), (None, None), (1, 2), ("a", 2)):
    read(f"patients {first!r} and {last!r}", change=patients(first, last))


# ------------------------------------------------------------------------------------------------------------------ films

for film in ("png8", "png16", "png12", "tif8", "tif16", "tif12", "tif16-white-is-zero", "pgm16", "bmp8"):
    read(f"films as {film}", options={"film": film})
for orientation in range(2, 9):
    for film in ("png8", "tif16"):
        read(
            f"all stored with orientation {orientation}, {film}",
            options={"orientation": orientation, "film": film, "width": 17},
        )
for orientation in (6, 8):
    read(
        f"masks drawn on the film as shown, {orientation}",
        options={"orientation": orientation, "tagged": ("image",), "width": 17},
    )
for orientation in (2, 3, 4, 6, 8):
    named(f"a film with orientation {orientation}, square, its masks without", "orientation",
          options={"orientation": orientation, "tagged": ("image",)})  # fmt: skip
named(
    "masks with orientation 3, the film without",
    "orientation",
    options={"orientation": 3, "tagged": ("anatomy_mask", "lesion_mask")},
)
named("masks drawn on the film as stored", FILM, late=lambda folder: save(folder.root / FILM, gray().reshape(9, 16), 6))


def film_values(values, full, number=1, **options):
    """A film written otherwise, and what it holds."""

    def change(folder):
        case = folder.cases[number]
        save(folder.root / "train" / case.row["image_file_name"], values, **options)
        case.radiograph = (values / full).astype(np.float32)

    return change


read("a 16-bit film among 8-bit films", change=film_values(gray(1, np.uint16, 65536), 65535))
read("a bitmap of one bit", change=film_values(gray(2, bool, 2), 1))
read("a PNG file that is not compressed", change=film_values(gray(3), 255, compress_level=0))
for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
    read(
        f"a TIFF file, {compression}",
        change=film_values(gray(4, np.uint16, 65536), 65535, format="TIFF", compression=compression),
    )


def big_endian(folder):
    values = gray(5, np.uint16, 65536)
    Image.frombytes("I;16B", (SIDE, SIDE), values.astype(">u2").tobytes()).save(folder.root / FILM, "TIFF")
    folder.cases[1].radiograph = (values / 65535).astype(np.float32)


read("a TIFF file, big end first", change=big_endian)


def lossless_jp2(folder):
    values = gray(6)
    Image.fromarray(values).save(folder.root / FILM, "JPEG2000", irreversible=False)
    folder.cases[1].radiograph = (values / 255).astype(np.float32)


read("JPEG 2000, lossless", change=lossless_jp2)


def jpeg(folder):
    """Gray, one pixel in 255 away from nothing: flat films are kept by JPEG."""
    values = np.where(np.arange(64) < 32, 40, 200).astype(np.uint8)[None].repeat(64, 0)
    folder.cases[1].radiograph = (values / 255).astype(np.float32)
    image = Image.fromarray(values)
    image.save(folder.root / FILM, "JPEG", quality=100)
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:50, 10:50] = True
    for column, file in (("anatomy", ANATOMY), ("lesion", LESION)):
        save(folder.root / file, mask)
        setattr(folder.cases[1], column, mask)


read("a gray JPEG file", change=jpeg)


def interlaced_text(folder):
    info = PngInfo()
    info.add_text("PatientName", "Doe^Jane")
    values = gray(7)
    Image.fromarray(values).save(folder.root / FILM, pnginfo=info)
    folder.cases[1].radiograph = (values / 255).astype(np.float32)


read("a PNG file with texts", change=interlaced_text)
read("a PNG file with something behind its end", late=bytes_of(FILM, lambda path: path.read_bytes() + b"x" * 1000))
read(
    "a link to a film elsewhere",
    late=lambda folder: (
        (folder.root / FILM).rename(folder.root.parent / "x.png"),
        (folder.root / FILM).symlink_to(folder.root.parent / "x.png"),
    ),
)

for mode in ("RGB", "RGBA", "LA", "P", "CMYK", "F", "YCbCr", "LAB"):
    format = "PNG" if mode in ("RGB", "RGBA", "LA", "P") else "TIFF"
    named(f"a film of mode {mode}", FILM, late=image_of(FILM, Image.new(mode, (SIDE, SIDE)), format))
    named(f"a mask of mode {mode}", ANATOMY, late=image_of(ANATOMY, Image.new(mode, (SIDE, SIDE)), format))
for low, high in ((0, 65536), (-1, 100), (0, 2**31 - 1)):
    values = np.array([[low, high]] * SIDE * (SIDE // 2), dtype=np.int32).reshape(SIDE, SIDE)
    named(f"32-bit values from {low} to {high}", FILM, late=image_of(FILM, Image.fromarray(values), "TIFF"))


def frames(format, file, count=2):
    def late(folder):
        images = [Image.fromarray(np.full((SIDE, SIDE), 90 * number + 5, dtype=np.uint8)) for number in range(count)]
        images[0].save(folder.root / file, format, save_all=True, append_images=images[1:])

    return late


for format in ("TIFF", "PNG", "GIF", "WEBP"):
    named(f"two images in a {format} file", FILM, late=frames(format, FILM))
    named(f"two masks in a {format} file", LESION, late=frames(format, LESION))


def damaged(function):
    return lambda path: function(bytearray(path.read_bytes()))


def flipped(content):
    content[len(content) // 2] ^= 4
    return bytes(content)


DAMAGE = {
    "truncated": damaged(lambda content: bytes(content[:-20])),
    "half of it": damaged(lambda content: bytes(content[: len(content) // 2])),
    "a flipped bit": damaged(flipped),
    "empty": b"",
    "a text": b"hello",
    "a page": b"<html><body>404</body></html>",
    "its header alone": damaged(lambda content: bytes(content[:33])),
    "its first byte": damaged(lambda content: bytes(content[:1])),
    "an archive": b"PK\x03\x04" + bytes(100),
    "DICOM": bytes(128) + b"DICM" + bytes(100),
    "NIfTI": struct.pack("<i", 348) + bytes(344),
    "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\nshowpage\n",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "a numpy array": b"\x93NUMPY\x01\x00" + bytes(100),
    "a pickle": b"\x80\x04N.",
    "a PNG file after a blank": damaged(lambda content: b" " + bytes(content)),
}
for name, content in DAMAGE.items():
    for file in (FILM, LESION):
        named(f"{Path(file).parent.name}: {name}", file, late=bytes_of(file, content))


def instead_of(file, make):
    def late(folder):
        (folder.root / file).unlink()
        make(folder.root / file)

    return late


for name, make in NO_FILES.items():
    named(f"a film is {name}", FILM, late=instead_of(FILM, make))
    named(f"a mask is {name}", ANATOMY, late=instead_of(ANATOMY, make))


def png_header(width, height, bits=8, extra=b""):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
        extra,
        chunk(b"IDAT", zlib.compress(bytes(900))),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(width, height, pixels=b"", bits=8, photometric=1, loop=False):
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 200),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, width * height * bits // 8 % 2**32),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 8 if loop else 0)
    return start.ljust(200, b"\0") + pixels


def zipped_text(size):
    content = b"Comment\0\0" + zlib.compress(bytes(size))
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


BOMBS = {
    "a header of 10000 x 10000": png_header(10_000, 10_000),
    "a header of 60000 x 60000": png_header(60_000, 60_000),
    "a header of 2^31": png_header(2**31 - 1, 2**31 - 1),
    "a line of 10^9": png_header(10**9, 1),
    "16 bits of 9000 x 9000": png_header(9000, 9000, 16),
    "no height": png_header(12, 0),
    "a TIFF header of 100000 x 100000": tiff(100_000, 100_000),
    "a TIFF header of 12 x 12 without pixels": tiff(12, 12),
    "a text of 300 MB": png_header(12, 12, extra=zipped_text(300 * 2**20)),
    "a PGM header of 10^5 x 10^5": b"P5 100000 100000 255\n" + bytes(100),
    "a BMP header of 40000 x 40000": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 8, 0, 0, 0, 0, 256, 0),
}


def circle(folder):
    """The next page of its one page is that page."""
    values = gray(10)
    (folder.root / FILM).write_bytes(tiff(SIDE, SIDE, values.tobytes(), loop=True))
    folder.cases[1].radiograph = (values / 255).astype(np.float32)


read("a TIFF file whose pages go in a circle", change=circle)


def white_is_zero(folder):
    values = gray(9)
    (folder.root / FILM).write_bytes(tiff(SIDE, SIDE, (255 - values).tobytes(), photometric=0))
    folder.cases[1].radiograph = (values / 255).astype(np.float32)


def white_is_zero_16(folder):
    values = gray(9, np.uint16, 65536)
    (folder.root / FILM).write_bytes(tiff(SIDE, SIDE, (65535 - values).astype("<u2").tobytes(), 16, photometric=0))
    folder.cases[1].radiograph = (values / 65535).astype(np.float32)


read("a TIFF file in which white is 0, 8 bits", change=white_is_zero)
read("a TIFF file in which white is 0, 16 bits", change=white_is_zero_16)
for name, content in BOMBS.items():
    named(f"a film: {name}", FILM, late=bytes_of(FILM, content))
    named(f"a mask: {name}", LESION, late=bytes_of(LESION, content))
named("a film of 100 megapixels", FILM, late=image_of(FILM, lambda: Image.new("1", (10_000, 10_000))))

named("a blank film", FILM, late=image_of(FILM, Image.new("L", (SIDE, SIDE), 7)))
named("a film of another size", "train/anatomy/train_01.png", late=image_of(FILM, lambda: Image.fromarray(gray(side=13))))


def all_films(dtype, high):
    def late(folder):
        for number, path in enumerate(sorted(folder.root.glob("*/images/*"))):
            save(path, gray(number, dtype, high))

    return late


for dtype, high in ((np.uint16, 256), (np.uint16, 1024), (np.uint16, 16384), (np.uint8, 2), (np.uint8, 16), (np.uint8, 32)):
    named(f"films of {np.dtype(dtype).name} up to {high - 1}", "train/images/", late=all_films(dtype, high))
named(
    "a film of 12 bits among those of 16",
    FILM,
    options={"film": "png16"},
    late=lambda folder: save(folder.root / FILM, gray(1, np.uint16, 4096)),
)
named(
    "one film in two splits",
    "same content",
    late=lambda folder: shutil.copy(folder.root / FILM, folder.root / "validation/images/validation_06.png"),
)
named("one film in two splits, in another format", "same content",
      late=lambda folder: Image.open(folder.root / FILM).save(folder.root / "validation/images/validation_06.png",
      "TIFF"))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ masks

for mask in ("255", "1", "bit", "ids", "16", "7"):
    read(f"masks: {mask}", options={"mask": mask})


def mask_values(values, column="anatomy", right=None, **options):
    file = {"anatomy": ANATOMY, "lesion": LESION}[column]

    def change(folder):
        save(folder.root / file, values, **options)
        if right is not None:
            setattr(folder.cases[1], column, right)

    return change


LARGE = np.ones((SIDE, SIDE), dtype=bool)
read("a mask of the whole film", change=mask_values(LARGE.astype(np.uint8) * 255, right=LARGE))


def numbered(folder):
    """Structures 1 to 63, all of the anatomy."""
    numbers = (folder.cases[1].anatomy * (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 63 + 1)).astype(np.uint8)
    save(folder.root / ANATOMY, numbers)


read("label numbers 1 to 63", change=numbered)
for name, values in {
    "numbers up to 100": np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 101,
    "no 0, two values": np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 2 + 1,
    "no 0, many values": np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 9 + 3,
    "1 and 255": np.where(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 2, 1, 255),
    "0, 127 and 255": np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 * 127.5,
    "noise": np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)),
}.items():
    named(f"a mask: {name}", ANATOMY, change=mask_values(np.asarray(values).astype(np.uint8)))
named(
    "a mask: numbers of 16 bits",
    ANATOMY,
    change=mask_values((np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 100).astype(np.uint16)),
)


def smooth(folder, file, format="PNG", **options):
    y, x = np.indices((480, 480)) - 239.5
    disc = Image.fromarray(mask_pixels(np.hypot(x, y) < 100, "255"))
    side = 48
    shrunk = disc.resize((side, side), Image.Resampling.BILINEAR if format == "PNG" else Image.Resampling.NEAREST)
    shrunk.save(folder.root / file, format, **options)
    save(folder.root / FILM, gray(8, side=side))
    for other in {ANATOMY, LESION} - {file}:
        save(folder.root / other, np.ones((side, side), dtype=bool))


named("an anatomy mask with smooth edges", ANATOMY, late=lambda folder: smooth(folder, ANATOMY))
named("a lesion mask with smooth edges", LESION, late=lambda folder: smooth(folder, LESION))
named("a lesion mask as JPEG", LESION, late=lambda folder: smooth(folder, LESION, "JPEG", quality=60))
named("a mask of another size", ANATOMY, late=lambda folder: save(folder.root / ANATOMY, np.ones((SIDE, SIDE + 1), dtype=bool)))
named(
    "a mask on its side",
    ANATOMY,
    options={"width": 17},
    late=lambda folder: save(folder.root / ANATOMY, np.ones((17, SIDE), dtype=bool)),
)
named("a lesion outside the anatomy", LESION, late=lambda folder: save(folder.root / LESION, LARGE))
named(
    "film and mask swapped",
    FILM,
    change=in_row(image_file_name="anatomy/train_01.png", anatomy_mask_file_name="images/train_01.png"),
)
