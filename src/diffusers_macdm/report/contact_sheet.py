"""Contact sheets: many radiographs on one image, with the outlines of their masks drawn over them.

Ranges: radiograph [0, 255] or [0, 1], masks 0 / non-zero -> RGB [0, 255].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import new_file
from ..macdm.image_processor import mask_array, radiograph_array, resize_radiograph
from .palette import ORANGE


ANATOMY_COLOR = (0, 215, 235)  # cyan
LESION_COLOR = (255, 60, 50)  # red
ANATOMY_OPACITY = 0.7  # its outline is long; opaque, it would outshine the cortex that it follows
BACKGROUND = (20, 20, 22)  # nearly black, as films are read; a white page would dazzle beside dark films
TEXT_COLOR = (228, 228, 228)
CAPTION_COLOR = (165, 165, 168)

GAP = 6  # pixels between tiles
MARGIN = 12  # pixels around the sheet, and between its blocks


def contact_sheet(
    radiographs,
    anatomy_masks,
    lesion_masks,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    tile: int = 128,
    title: str | None = None,
    outlines: bool = True,
    side_by_side: bool = False,
) -> Image.Image:
    """Lay out radiographs row by row, with thin outlines of their masks (anatomy cyan, lesion red); the legend names those that
    there are.

    Args:
        radiographs: N radiographs: array `[N, H, W]` or `[N, H, W, 1]` (uint8, uint16, or floating point in [0, 1]), or a
            list of PIL images (8- or 16-bit grayscale) or arrays `[H, W]`. They may differ in size; one that is not
            square is padded.
        anatomy_masks, lesion_masks: N masks in the same forms, 0 / non-zero; None where the set has no such mask.
        captions: N short texts, each set below its tile and cut to its width.
        columns: tiles in a row; fewer where there are fewer radiographs.
        tile: side of a displayed radiograph in pixels. The resampling is bicubic, as on a viewing station: with pixels
            shown as squares the eye sees the grid instead of the bone.
        title: a line above the sheet.
        outlines: False shows the radiographs alone.
        side_by_side: True shows each radiograph twice, plain and outlined: an outline can hide a subtle lesion.

    Returns:
        An RGB image.

    Raises:
        ValueError: when the numbers or sizes do not agree, naming the offending value.
    """
    block = _block(radiographs, anatomy_masks, lesion_masks, captions, columns, tile, outlines, side_by_side)
    return _sheet([block], [None], title, _legend((anatomy_masks, lesion_masks), outlines or side_by_side))


def side_by_side_sheet(
    real: Sequence,
    synthetic: Sequence,
    columns: int = 6,
    tile: int = 96,
    headings: tuple[str, str] = ("Real", "Synthetic"),
    captions: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
    title: str | None = None,
    outlines: bool = True,
    side_by_side: bool = False,
) -> Image.Image:
    """A block of real pairs beside a block of synthetic ones, each under its heading.

    Args:
        real, synthetic: `(radiographs, anatomy_masks, lesion_masks)` as in `contact_sheet`.
        columns: tiles in a row of *each* block.
        headings, captions: of the real block and of the synthetic one.
        tile, title, outlines, side_by_side: as in `contact_sheet`.
    """
    blocks = [
        _block(*pairs, texts, columns, tile, outlines, side_by_side)
        for pairs, texts in zip((real, synthetic), captions, strict=True)
    ]
    masks = [real[place] if real[place] is not None else synthetic[place] for place in (1, 2)]
    return _sheet(blocks, headings, title, _legend(masks, outlines or side_by_side))


def match_sheet(
    matches: Sequence[tuple[np.ndarray, np.ndarray]],
    captions: Sequence[tuple[str, str]],
    framed: Sequence[bool],
    title: str,
    columns: int = 4,
    tile: int = 128,
) -> Image.Image:
    """Lay out pairs of images, each pair side by side above two lines of text.

    Args:
        matches: two images of a pair, uint8 `[H, W]` each.
        captions: two lines of each pair, cut to its width.
        framed: whether a frame is drawn around the pair.
        title: a line above the sheet, which is at least as wide.
        columns: pairs in a row; fewer where there are fewer pairs.
        tile: side of a displayed image in pixels.
    """
    font = _font(11)
    line, top = _line_height(font) + 2, MARGIN + _line_height(_font(15)) + 8
    width, height = 2 * tile + 2 + 2 * GAP, tile + 2 * line + 2 * GAP
    columns = min(columns, len(matches))
    rows = -(-len(matches) // columns)
    inner_width = max(columns * width - 2 * GAP, int(_font(15).getlength(title)) + 1)
    sheet = Image.new("RGB", (inner_width + 2 * MARGIN, top + rows * height + MARGIN - 2 * GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, TEXT_COLOR, _font(15))
    for place, (images, texts, has_frame) in enumerate(zip(matches, captions, framed, strict=True)):
        x, y = MARGIN + place % columns * width, top + place // columns * height
        if has_frame:
            draw.rectangle((x - 3, y - 3, x + 2 * tile + 4, y + tile + 2), outline=ORANGE, width=3)
        for side, image in enumerate(images):
            resized = Image.fromarray(image).resize((tile, tile), Image.Resampling.BICUBIC)
            sheet.paste(resized.convert("RGB"), (x + side * (tile + 2), y))
        for row, text in enumerate(texts):
            draw.text((x, y + tile + 4 + row * line), _cut(text, font, 2 * tile + 2), CAPTION_COLOR, font)
    return sheet


def outlined(radiograph: np.ndarray, anatomy_mask: np.ndarray | None, lesion_mask: np.ndarray | None, tile: int) -> np.ndarray:
    """One radiograph `[H, W]` in [0, 1] with the outlines of its masks (bool `[H, W]`, or None): uint8 `[tile, tile, 3]`."""
    image = _plain(radiograph, tile)
    if anatomy_mask is not None:
        line = outline(anatomy_mask, tile)
        image[line] = np.rint((1 - ANATOMY_OPACITY) * image[line] + ANATOMY_OPACITY * np.array(ANATOMY_COLOR))
    if lesion_mask is not None:
        image[outline(lesion_mask, tile)] = LESION_COLOR  # on top
    return image


def outline(mask: np.ndarray, tile: int) -> np.ndarray:
    """The pixels just outside of a bool mask `[H, W]` that is magnified to `[tile, tile]`: bool `[tile, tile]`.

    Outside, so that every pixel of a small lesion stays visible. A mask that is cut off by the image's edge has no line
    there. However small a mask is, something is drawn.
    """
    fraction = resize_radiograph(mask.astype(np.float32), tile)
    inside = fraction >= min(0.5, fraction.max() / 2) if mask.any() else np.zeros((tile, tile), dtype=bool)
    padded = np.pad(inside, 1)
    beside = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return beside & ~inside


def save(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet as PNG, atomically."""
    with new_file(Path(path)) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _plain(radiograph: np.ndarray, tile: int) -> np.ndarray:
    gray = np.rint(resize_radiograph(radiograph, tile) * 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)  # [tile, tile, 3]


def _block(radiographs, anatomy_masks, lesion_masks, captions, columns, tile, outlines, side_by_side) -> Image.Image:
    """The tiles of one set of pairs in rows, with their captions and nothing around."""
    if columns < 1 or tile < 8:
        raise ValueError(f"columns={columns}, tile={tile} is not possible: columns >= 1 and tile >= 8 are needed.")
    triples = _triples(radiographs, anatomy_masks, lesion_masks)
    if captions is not None and len(captions) != len(triples):
        raise ValueError(f"There are {len(captions)} captions for {len(triples)} radiographs; one for each is needed.")

    font = _font(max(9, min(13, tile // 9)))
    caption_height = _line_height(font) + 4 if captions is not None else 0
    columns = min(columns, len(triples))
    rows = -(-len(triples) // columns)
    width = 2 * tile + 2 if side_by_side else tile
    block = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (tile + caption_height + GAP) - GAP), BACKGROUND)
    draw = ImageDraw.Draw(block)
    for i, triple in enumerate(triples):
        left, top = (i % columns) * (width + GAP), (i // columns) * (tile + caption_height + GAP)
        images = [_plain(triple[0], tile)] if side_by_side or not outlines else []
        if side_by_side or outlines:
            images.append(outlined(*triple, tile))
        for place, image in enumerate(images):
            block.paste(Image.fromarray(image), (left + place * (tile + 2), top))
        if captions is not None:
            draw.text((left, top + tile + 1), _cut(captions[i], font, width), CAPTION_COLOR, font)
    return block


def _legend(masks: Sequence, outlines: bool) -> list[tuple[str, tuple[int, int, int]]]:
    """Return name and colour of the masks (anatomy, lesion) that are outlined."""
    known = (("anatomy mask", ANATOMY_COLOR), ("lesion mask", LESION_COLOR))
    return [entry for entry, of_kind in zip(known, masks, strict=True) if outlines and of_kind is not None]


def _sheet(
    blocks: list[Image.Image],
    headings: Iterable[str | None],
    title: str | None,
    legend: Sequence[tuple[str, tuple[int, int, int]]],
) -> Image.Image:
    """Blocks beside each other, below their headings, below title and legend."""
    title_font, heading_font, legend_font = _font(18), _font(15), _font(12)
    headings = list(headings)
    title_height = _line_height(title_font) + 6 if title else 0
    legend_height = _line_height(legend_font) + 8 if legend else 0
    heading_height = _line_height(heading_font) + 6 if any(headings) else 0
    between = 3 * MARGIN  # wide enough to see where one block ends
    inner_width = sum(block.width for block in blocks) + between * (len(blocks) - 1)
    above = MARGIN + title_height + legend_height
    height = above + heading_height + max(block.height for block in blocks) + MARGIN
    sheet = Image.new("RGB", (inner_width + 2 * MARGIN, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN), _cut(title, title_font, inner_width), TEXT_COLOR, title_font)
    if legend:
        left, middle = MARGIN, MARGIN + title_height + _line_height(legend_font) // 2
        for name, color in legend:
            draw.line((left, middle, left + 16, middle), color, width=2)
            draw.text((left + 22, MARGIN + title_height), name, CAPTION_COLOR, legend_font)
            left += 22 + int(legend_font.getlength(name)) + 18
    left = MARGIN
    for block, heading in zip(blocks, headings, strict=True):
        if heading:
            draw.text((left, above), _cut(heading, heading_font, block.width), TEXT_COLOR, heading_font)
        sheet.paste(block, (left, above + heading_height))
        left += block.width + between
    return sheet


def _triples(radiographs, anatomy_masks, lesion_masks) -> list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """Radiographs in [0, 1] float32 and bool masks, `[H, W]` each; None for the masks of a kind that there is not."""
    given = {"radiographs": radiographs, "anatomy_masks": anatomy_masks, "lesion_masks": lesion_masks}
    counts = {name: len(values) for name, values in given.items() if values is not None}
    anatomy_masks, lesion_masks = (
        [None] * len(radiographs) if masks is None else masks for masks in (anatomy_masks, lesion_masks)
    )
    if len(set(counts.values())) > 1 or not len(radiographs):
        raise ValueError(
            f"A contact sheet needs as many masks as radiographs, and one at least; there are "
            f"{', '.join(f'{count} {name}' for name, count in counts.items())}."
        )
    triples = []
    for i, (radiograph, *masks) in enumerate(zip(radiographs, anatomy_masks, lesion_masks, strict=True)):
        radiograph = _radiograph(radiograph)
        masks = [None if mask is None else _mask(mask) for mask in masks]
        for name, mask in zip(("anatomy mask", "lesion mask"), masks, strict=True):
            if mask is not None and mask.shape != radiograph.shape:
                raise ValueError(f"The {name} {i} has shape {mask.shape}, its radiograph {radiograph.shape}.")
        triples.append((radiograph, *masks))
    return triples


def _mask(value) -> np.ndarray:
    return mask_array(value) if isinstance(value, Image.Image) else _flat(value) != 0


def _radiograph(value) -> np.ndarray:
    if isinstance(value, Image.Image):
        return radiograph_array(value)
    array = _flat(value)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"A radiograph has dtype {array.dtype} and values from {array.min()} to {array.max()}; allowed are uint8, "
            "uint16 and floating point in [0, 1]."
        )
    return array.astype(np.float32)


def _flat(value) -> np.ndarray:
    array = np.asarray(value)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.ndim != 2:
        raise ValueError(f"An image of a contact sheet has shape {array.shape}; [H, W] or [H, W, 1] is allowed.")
    return array


def _font(size: int):
    return ImageFont.load_default(size)


def _line_height(font) -> int:
    return font.getbbox("Ag")[3]


def _cut(text: str, font, width: int) -> str:
    """`text`, or its beginning with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
