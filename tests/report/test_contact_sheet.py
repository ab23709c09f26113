import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.report.contact_sheet import (
    ANATOMY_COLOR,
    BACKGROUND,
    LESION_COLOR,
    MARGIN,
    contact_sheet,
    match_sheet,
    outline,
    outlined,
    save,
    side_by_side_sheet,
)
from diffusers_macdm.report.palette import ORANGE


@pytest.fixture
def pairs():
    """Five gray ramps with a square anatomy and, in every second one, a lesion of one pixel: `[5, 16, 16]` each."""
    radiographs = np.tile(np.arange(16, dtype=np.uint8) * 10, (5, 16, 1)) + np.arange(5, dtype=np.uint8)[:, None, None]
    anatomy, lesion = np.zeros((2, 5, 16, 16), dtype=bool)
    anatomy[:, 4:12, 4:12] = True
    lesion[::2, 6, 7] = True
    return radiographs, anatomy, lesion


def is_gray(image):
    return (image[..., 0] == image[..., 1]) & (image[..., 1] == image[..., 2])


@pytest.mark.parametrize("place, other, color", [(1, LESION_COLOR, ANATOMY_COLOR), (2, ANATOMY_COLOR, LESION_COLOR)])
def test_a_mask_that_is_not_there_is_neither_outlined_nor_named(pairs, place, other, color):
    one = [None if index == place else part for index, part in enumerate(pairs)]
    whole, sheet = (np.asarray(contact_sheet(*parts, tile=64, columns=2)) for parts in (pairs, one))
    colour_of = lambda image, rgb: (image == rgb).all(axis=-1).any()  # noqa: E731
    assert colour_of(whole, ANATOMY_COLOR) and colour_of(whole, LESION_COLOR)  # in the legend, the anatomy's
    assert not colour_of(sheet, color) and colour_of(sheet, other)
    both = side_by_side_sheet(pairs, one, columns=2, tile=64)  # real pairs have it: the legend names it
    assert colour_of(np.asarray(both), color)


def test_outline_is_the_ring_of_edge_neighbours():
    mask = np.zeros((8, 8), dtype=bool)
    mask[3:5, 3:6] = True
    expected = {(y, x) for y in (2, 5) for x in (3, 4, 5)} | {(y, x) for y in (3, 4) for x in (2, 6)}
    assert set(zip(*np.nonzero(outline(mask, 8)), strict=True)) == expected


def test_outline_of_a_mask_cut_off_by_the_edge_is_open():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :3] = True
    expected = np.zeros((8, 8), dtype=bool)
    expected[:, 3] = True
    np.testing.assert_array_equal(outline(mask, 8), expected)


@pytest.mark.parametrize("tile", [16, 24, 64, 128, 256])
def test_outline_at_every_magnification(tile):
    """A lesion of one pixel is outlined larger and smaller than it is; no mask, no line; thin whatever the size."""
    mask = np.zeros((64, 64), dtype=bool)
    assert not outline(mask, tile).any()
    mask[20, 30] = True
    line = outline(mask, tile)
    assert line.any()
    rows, columns = np.nonzero(line)
    scale = tile / 64
    assert abs(rows.mean() + 0.5 - 20.5 * scale) <= 1 and abs(columns.mean() + 0.5 - 30.5 * scale) <= 1
    mask[10:50, 10:50] = True
    line = outline(mask, tile)
    assert line.sum() <= 4 * (np.ceil(40 * scale) + 2)


def test_the_mask_itself_stays_visible(pairs):
    radiograph, anatomy, lesion = pairs[0][0] / 255, pairs[1][0], pairs[2][0]
    image = outlined(radiograph, anatomy, lesion, 16)
    line = outline(anatomy, 16) | outline(lesion, 16)
    np.testing.assert_array_equal(image[~line], np.repeat(pairs[0][0][~line][:, None], 3, axis=1))
    assert not line[lesion].any()
    assert (image[5, 7] == LESION_COLOR).all()  # opaque, and over the anatomy's line
    assert not is_gray(image)[3, 4:12].any()
    assert image[3, 5, 2] > image[3, 5, 0]  # cyan over gray


def test_tiles_show_the_radiographs_in_order(pairs):
    sheet = np.asarray(contact_sheet(*pairs, columns=3, tile=16, outlines=False))
    for i, radiograph in enumerate(pairs[0]):
        top, left = MARGIN + (i // 3) * 22, MARGIN + (i % 3) * 22
        np.testing.assert_array_equal(sheet[top : top + 16, left : left + 16, 1], radiograph)
    assert sheet.shape == (2 * MARGIN + 2 * 22 - 6, 2 * MARGIN + 3 * 22 - 6, 3)
    assert (sheet[-MARGIN - 16 :, -MARGIN - 16 :] == BACKGROUND).all()  # the sixth place is empty


def test_side_by_side_shows_the_radiograph_plain_as_well(pairs):
    sheet = np.asarray(contact_sheet(*pairs, columns=1, tile=16, side_by_side=True))
    top = sheet.shape[0] - MARGIN - 16
    plain, with_outlines = sheet[top : top + 16, MARGIN : MARGIN + 16], sheet[top : top + 16, MARGIN + 18 : MARGIN + 34]
    np.testing.assert_array_equal(plain[..., 0], pairs[0][4])
    assert is_gray(plain).all() and not is_gray(with_outlines).all()


def test_forms_of_input_agree(pairs):
    radiographs, anatomy, lesion = pairs
    expected = contact_sheet(*pairs, tile=32).tobytes()
    as_images = [[Image.fromarray(image) for image in images] for images in (radiographs, anatomy * np.uint8(255), lesion)]
    in_16_bit = radiographs.astype(np.uint16) * 257
    assert contact_sheet(*as_images, tile=32).tobytes() == expected
    assert contact_sheet(in_16_bit, anatomy, lesion, tile=32).tobytes() == expected
    assert contact_sheet(radiographs[..., None] / 255.0, anatomy[..., None] * 1.0, lesion, tile=32).tobytes() == expected


def test_real_beside_synthetic(pairs):
    dark, bright = (np.full_like(pairs[0], value) for value in (40, 200))
    sheet = np.asarray(side_by_side_sheet((dark, *pairs[1:]), (bright, *pairs[1:]), columns=2, tile=16, outlines=False))
    left, right = np.array_split(sheet[-MARGIN - 16 : -MARGIN], 2, axis=1)
    assert (left == 40).all(-1).any() and not (left == 200).all(-1).any()
    assert (right == 200).all(-1).any() and not (right == 40).all(-1).any()


def test_matches_stand_side_by_side_and_copies_are_framed(pairs):
    matches = [(dark, np.full_like(dark, 200)) for dark in np.full_like(pairs[0], 40)]
    captions = [("one", "a second line that is much too long for a pair of tiles " * 3)] * 5
    framed = [True, False, False, False, False]
    sheet = np.asarray(match_sheet(matches, captions, framed, "title", columns=3, tile=32))
    frame = (sheet == [int(ORANGE[place : place + 2], 16) for place in (1, 3, 5)]).all(-1)
    rows, columns = np.nonzero(frame)
    assert np.ptp(columns) + 1 == 2 * 32 + 8 and np.ptp(rows) + 1 == 32 + 6  # around the first pair alone
    inside = sheet[rows.min() + 3 : rows.max() - 2, columns.min() + 3 : columns.max() - 2]
    assert (inside[:, :32] == 40).all() and (inside[:, -32:] == 200).all()
    assert (sheet == 200).all(-1).sum() >= 5 * 32 * 32
    assert match_sheet(matches[:1], captions[:1], [False], "a title that is wider than a pair").width > 2 * 32 + 100


def test_captions_and_title_take_room_of_their_own(pairs):
    captions = ["a caption that is much too long for its tile"] * 5
    plain = contact_sheet(*pairs, tile=48)
    sheet = contact_sheet(*pairs, captions=captions, tile=48, title="A title that is much too long for this sheet " * 9)
    assert sheet.width == plain.width and sheet.height > plain.height
    pixels = np.asarray(sheet)
    assert (pixels[:, -MARGIN:] == BACKGROUND).all()
    assert (np.asarray(plain)[:8] == BACKGROUND).all()
    assert ANATOMY_COLOR in {tuple(pixel) for pixel in pixels.reshape(-1, 3)}  # the legend


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lesion_masks": np.zeros((4, 16, 16), dtype=bool)}, "5 radiographs, 5 anatomy_masks, 4 lesion_masks"),
        ({"lesion_masks": np.zeros((5, 16, 8), dtype=bool)}, r"lesion mask 0 has shape \(16, 8\), its radiograph \(16, 16\)"),
        ({"captions": ["one"]}, "1 captions for 5"),
        ({"radiographs": np.full((5, 16, 16), 1.5)}, "values from 1.5 to 1.5"),
        ({"radiographs": np.zeros((5, 16, 16, 3), dtype=np.uint8)}, r"shape \(16, 16, 3\)"),
        ({"columns": 0}, "columns=0"),
    ],
)
def test_bad_input_is_named(pairs, change, message):
    arguments = dict(zip(("radiographs", "anatomy_masks", "lesion_masks"), pairs, strict=True)) | change
    with pytest.raises(ValueError, match=message):
        contact_sheet(**arguments)


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="one at least"):
        contact_sheet([], [], [])


def test_save_leaves_no_temporary_file(pairs, tmp_path):
    save(contact_sheet(*pairs), tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"
