"""One decoder: a film is read as it is shown and to its full scale, or refused by name, before memory is taken."""

import os
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from data_folders import DataFolder, mask_pixels, save, usual
from PIL import Image

from diffusers_macdm.data.check import check_dataset, inspect_dataset
from diffusers_macdm.data.decoding import MAX_PIXELS, ImageFile, decode_radiograph
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.hub.privacy import pixels_as_png
from diffusers_macdm.macdm.image_processor import mask_array, radiograph_array


FILM, ANATOMY, LESION = "train/images/train_01.png", "train/anatomy/train_01.png", "train/lesion/train_01.png"


@pytest.fixture
def root(tmp_path):
    usual(tmp_path / "films").write()
    return tmp_path / "films"


def assert_read(folder):
    pairs = load_pairs(folder.root)
    for index, case in enumerate(folder.of("train")):
        for array, right in zip(pairs.arrays(index), (case.radiograph, case.anatomy, case.lesion), strict=True):
            np.testing.assert_array_equal(array, right)


def assert_refused(root, file, kind, words=""):
    (fault,) = check_dataset(root)
    assert (fault.file, fault.kind) == (file, kind) and words in fault.reason
    with pytest.raises(ValueError, match=f"^train_01: {file}: "):
        load_pairs(root).arrays(1)


# ---- which way up


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("film", ["png8", "png16", "tif8", "tif16"])
def test_a_case_stored_turned_is_read_upright(tmp_path, orientation, film):
    folder = usual(tmp_path / "films", film=film, orientation=orientation, width=17).write()
    assert check_dataset(folder.root) == []
    assert_read(folder)
    assert load_pairs(folder.root).size(0) == (17, 12)
    if film.startswith("tif") and orientation > 4:
        return  # Pillow mixes up the rows of such a file, uncompressed, when it is given a path in place of the bytes
    with Image.open(
        folder.root / "train" / folder.cases[1].row["image_file_name"]
    ) as image:  # as a user gives it to the pipeline
        np.testing.assert_array_equal(radiograph_array(image), folder.cases[1].radiograph)
    with Image.open(folder.root / ANATOMY) as image:
        np.testing.assert_array_equal(mask_array(image), folder.cases[1].anatomy)


def test_a_film_is_published_as_it_is_trained_on(tmp_path):
    """The tag goes when the pixels are written anew: turned against its masks it would be published."""
    folder = usual(tmp_path / "films", film="png16", orientation=6, width=17).write()
    pairs = load_pairs(folder.root)
    for column, right in (("image", folder.cases[1].radiograph), ("anatomy_mask", folder.cases[1].anatomy)):
        (tmp_path / "published.png").write_bytes(pixels_as_png(pairs.cases[1].files[column], (17, 12)))
        with Image.open(tmp_path / "published.png") as image:
            assert not image.getexif()
            read = radiograph_array(image) if column == "image" else mask_array(image)
            np.testing.assert_array_equal(read, right)


@pytest.mark.parametrize("orientation", [6, 8])
def test_masks_drawn_on_the_film_as_it_is_shown(tmp_path, orientation):
    """Their size tells it."""
    folder = usual(tmp_path / "films", orientation=orientation, tagged=("image",), width=17).write()
    assert check_dataset(folder.root) == []
    assert_read(folder)


@pytest.mark.parametrize("orientation, width", [(2, 17), (3, 17), (4, 17), (6, 12), (8, 12), (5, 12)])
def test_masks_of_which_nobody_can_tell_how_they_lie_on_the_film(tmp_path, orientation, width):
    folder = DataFolder(tmp_path / "films")
    folder.add(label=0)
    folder.add(label=1, orientation=orientation, tagged=("image",), width=width)
    folder.write()
    faults = check_dataset(folder.root)
    assert [(fault.file, fault.kind) for fault in faults] == [(ANATOMY, "turned otherwise"), (LESION, "turned otherwise")]
    assert f"orientation 1 (EXIF), its radiograph {FILM} with {orientation}" in faults[0].reason
    with pytest.raises(ValueError, match=f"train_01: {ANATOMY}: is stored with orientation 1"):
        load_pairs(folder.root).arrays(1)


def test_masks_drawn_on_the_film_as_it_is_stored(tmp_path):
    folder = usual(tmp_path / "films", width=17)
    folder.write()
    save(folder.root / FILM, np.arange(12 * 17, dtype=np.uint8).reshape(12, 17), 6)
    assert {fault.kind for fault in check_dataset(folder.root)} == set()  # shown, it has the size of the masks
    save(folder.root / FILM, np.arange(12 * 17, dtype=np.uint8).reshape(17, 12), 6)
    assert {fault.kind for fault in check_dataset(folder.root)} == {"size mismatch", "turned otherwise"}


# ---- how bright


@pytest.mark.parametrize("film", ["png12", "tif12", "png16", "tif16", "tif16-white-is-zero", "pgm16", "png8", "tif8", "bmp8"])
def test_the_full_scale(tmp_path, film):
    """Twelve bits in a file of sixteen come in black where the file's scale is taken for theirs."""
    folder = usual(tmp_path / "films", film=film).write()
    assert check_dataset(folder.root) == []
    assert_read(folder)
    assert load_pairs(folder.root).arrays(0)[0].max() == 1


def test_films_of_two_depths(tmp_path):
    folder = usual(tmp_path / "films", film="png16")
    folder.add(label=1, film="png12")
    folder.write()
    (fault,) = check_dataset(folder.root)
    assert (fault.file, fault.kind) == ("train/images/train_08.png", "two depths") and "read as 12 bits" in fault.reason
    assert_read(folder)


@pytest.mark.parametrize("bits, dtype", [(10, np.uint16), (14, np.uint16), (8, np.uint16), (1, np.uint8), (5, np.uint8)])
def test_a_set_of_another_scale(root, bits, dtype):
    for path in root.glob("*/images/*.png"):
        generator = np.random.default_rng(len(path.parts[-3]) + int(path.stem[-2:]))
        save(path, generator.integers(0, 2**bits, (12, 12)).astype(dtype))
    report = inspect_dataset(root)
    assert [fault.kind for fault in report.faults] == ["dark set"] and "nearly black" in report.faults[0].reason


# ---- what a mask is


@pytest.mark.parametrize("mask", ["255", "1", "bit", "ids", "16", "7"])
def test_masks_of_every_kind(tmp_path, mask):
    folder = usual(tmp_path / "films", mask=mask).write()
    assert check_dataset(folder.root) == []
    assert_read(folder)


def disc(size, radius):
    y, x = np.indices((size, size)) - (size - 1) / 2
    return np.hypot(x, y) <= radius


@pytest.mark.parametrize("how", ["jpeg", "smoothed", "smoothed 16 bit"])
def test_shades_are_a_fault_and_cut_at_half(root, how):
    """A lesion of 42 pixels became one of 53."""
    mask = disc(48, 10)
    film = np.random.default_rng(0).integers(0, 256, (48, 48)).astype(np.uint8)
    save(root / FILM, film)
    save(root / ANATOMY, np.ones((48, 48), dtype=np.uint8))
    if how == "jpeg":
        Image.fromarray(mask_pixels(mask, "255")).save(root / LESION, "JPEG", quality=60)
    else:
        large = Image.fromarray(mask_pixels(disc(480, 100), "255"))
        smooth = np.asarray(large.resize((48, 48), Image.Resampling.BILINEAR))
        save(root / LESION, smooth * np.uint16(257) if "16" in how else smooth)
    (fault,) = check_dataset(root)
    assert (fault.file, fault.kind) == (LESION, "more than two values") and "cut at half" in fault.reason
    lesion = load_pairs(root).arrays(1)[2]
    with Image.open(root / LESION) as image:
        grown = np.asarray(image) != 0
    assert abs(int(lesion.sum()) - int(mask.sum())) <= 8 < grown.sum() - mask.sum()


def test_values_that_are_no_mask_are_refused(root):
    save(root / ANATOMY, np.random.default_rng(0).integers(0, 100, (12, 12)).astype(np.uint8))
    assert_refused(root, ANATOMY, "not allowed values", "label numbers from 0 to 63")


def test_film_and_mask_swapped(root):
    film, mask = (root / FILM).read_bytes(), (root / ANATOMY).read_bytes()
    (root / FILM).write_bytes(mask)
    (root / ANATOMY).write_bytes(film)
    report = inspect_dataset(root)
    assert (FILM, "film like a mask") in {(note.file, note.kind) for note in report.notes}
    assert (ANATOMY, "more than two values") in {(fault.file, fault.kind) for fault in report.faults}


@pytest.mark.parametrize("file", [ANATOMY, LESION])
def test_an_inverted_mask_is_a_note(root, file):
    with Image.open(root / file) as image:
        mask = np.asarray(image)
    save(root / file, 255 - mask)
    assert (file, "inverted mask") in {(note.file, note.kind) for note in inspect_dataset(root).notes}


# ---- what a file is


def test_frames_and_pages(root):
    frames = [Image.fromarray(np.full((12, 12), value, dtype=np.uint8)) for value in (10, 200)]
    for format in ("TIFF", "PNG", "WEBP"):
        frames[0].save(root / FILM, format, save_all=True, append_images=frames[1:])
        kind = "not grayscale" if format == "WEBP" else "several images"  # WebP knows colours alone
        if kind == "several images":
            assert_refused(root, FILM, kind, "one is allowed")
        else:
            assert [fault.file for fault in check_dataset(root)] == [FILM]


def test_a_pipe_a_device_and_a_folder(root, tmp_path):
    """None is waited for, and none is read without an end."""
    for make, words in (
        (lambda path: os.mkfifo(path), "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.mkdir(), "a folder"),
    ):
        for file in (FILM, ANATOMY):
            before = (root / file).read_bytes()
            (root / file).unlink()
            make(root / file)
            started = time.monotonic()
            assert_refused(root, file, "no ordinary file", words)
            assert time.monotonic() - started < 5
            (root / file).rmdir() if words == "a folder" else (root / file).unlink()
            (root / file).write_bytes(before)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (root / "train/metadata.jsonl").unlink()
        make(root / "train/metadata.jsonl")
        assert [fault.kind for fault in check_dataset(root)] == ["no ordinary file"]
        with pytest.raises(ValueError, match="train/metadata.jsonl: is a"):
            load_pairs(root)


def test_links_to_ordinary_files_are_read(root, tmp_path):
    (tmp_path / "elsewhere.png").write_bytes((root / FILM).read_bytes())
    (root / FILM).unlink()
    (root / FILM).symlink_to(tmp_path / "elsewhere.png")
    assert check_dataset(root) == []


def png_header(width, height, bits=8):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)])
def test_large_films_are_refused_by_their_header(root, width, height):
    (root / FILM).write_bytes(png_header(width, height))
    tracemalloc.start()
    try:
        assert_refused(root, FILM, "image too large", "")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_whole_film_of_100_megapixels_is_refused_and_one_of_a_few_read(root):
    Image.new("1", (10_000, 10_000)).save(root / FILM)
    assert_refused(root, FILM, "image too large", "10000 x 10000 pixels; up to 64 million are read")


def test_programs_are_no_films(root):
    """EPS is a program, which Pillow hands to Ghostscript."""
    Image.fromarray(np.zeros((12, 12), dtype=np.uint8)).save(root / FILM, "EPS")
    assert_refused(root, FILM, "unreadable image", "no image of a format that is read: PNG, TIFF, JPEG")


def tiff_file(path, values, sample_format=1, photometric=1):
    """An uncompressed TIFF file of one strip."""
    height, width = values.shape
    data, bits = values.tobytes(), 8 * values.dtype.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in {**tags, 339: sample_format}.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags) + 1)
    path.write_bytes(head + entries + struct.pack("<I", 0))
    return ImageFile(path.name, path.name, path)


def test_values_with_a_sign_are_not_read_as_bright_ones(tmp_path):
    values = np.array([[-100, -1, 0], [1, 50, 100]], dtype=np.int8)
    with pytest.raises(ValueError, match="film.tif: The radiograph has 8-bit values with a sign"):
        decode_radiograph(tiff_file(tmp_path / "film.tif", values, sample_format=2))
    np.testing.assert_array_equal(
        decode_radiograph(tiff_file(tmp_path / "film.tif", values.view(np.uint8))), (values.view(np.uint8) / 255).astype("f4")
    )
    with pytest.raises(ValueError, match="has values from -100 to 100"):
        decode_radiograph(tiff_file(tmp_path / "film.tif", values.astype("<i2"), sample_format=2))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_films_in_which_white_is_0(tmp_path, bits):
    """The inverse of 12 bits is that of 4095: of 65535 it would be nearly white all over."""
    full = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, full + 1, (9, 13)).astype("<u1" if bits == 8 else "<u2")
    values.flat[:2] = 0, full
    film = decode_radiograph(tiff_file(tmp_path / "film.tif", values, photometric=0))
    np.testing.assert_allclose(film, 1 - values / full, atol=1e-6)
