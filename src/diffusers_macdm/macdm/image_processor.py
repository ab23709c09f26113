"""Between what a user holds (PIL images, arrays, tensors) and the tensors of the pipeline.

Ranges: radiograph file -> [0, 1] -> [-1, 1] -> [0, 1] -> file; mask 0 / non-zero -> {0, 1} -> {-1, 1} -> {0, 1} -> 0 / 255.
The decoder of the data sets is made of the functions here, so that a film is to the pipeline what it was in training.
"""

from __future__ import annotations

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import torch


OUTPUT_TYPES = ("pil", "np", "pt", "latent")

_FULL_SCALE = {"1": 1, "L": 255, "I;16": 65535, "I;16B": 65535, "I;16L": 65535, "I": 65535}
PHOTOMETRIC = 262  # TIFF tag: 0 where white is zero
SAMPLE_FORMAT, SIGNED = 339, (2,)  # tag of TIFF, and its value of one channel
TWELVE_BITS = 4095  # what detectors give; files have 8 or 16 bits
MOST_LABEL_IDS = 63  # a mask with more than two values up to here holds numbers of structures, no shades


# --- files: decoding and resampling -----------------------------------------------------------------------------------


def radiograph_array(image: PIL.Image.Image) -> np.ndarray:
    """Decode an 8- or 16-bit grayscale image to float32 `[H, W]` in [0, 1], upright (see `grayscale_values`).

    The full scale of the values maps to 1, not the image's brightest value: exposure is kept. It is that of the file's format,
    255 or 65535, and 4095 for a 16-bit file without a value beyond 12 bits, which would come in black otherwise.

    Raises:
        ValueError: for every other mode (colour, palette, float), for several images in one file, and for 32-bit values beyond
            16 bits.
    """
    values = grayscale_values(image, "radiograph")
    return values.astype(np.float32) / np.float32(radiograph_scale(values, image.mode))


def radiograph_scale(values: np.ndarray, mode: str) -> int:
    """Return the value that stands for 1 in a radiograph with these values and this PIL mode.

    Raises:
        ValueError: for 32-bit values beyond 16 bits.
    """
    full_scale, brightest = _FULL_SCALE[mode], int(values.max())
    if mode == "I" and (values.min() < 0 or brightest > full_scale):
        raise ValueError(f"The radiograph has values from {values.min()} to {brightest}; 0 to 65535 (16 bits) are allowed.")
    return TWELVE_BITS if full_scale > TWELVE_BITS >= brightest else full_scale


def mask_array(image: PIL.Image.Image) -> np.ndarray:
    """Decode a mask to bool `[H, W]`, upright: see `mask_reading`.

    Raises:
        ValueError: when the image is not grayscale (a palette index or a colour is not a mask value), holds several images, or
            has values of which nobody can tell where the mask ends.
    """
    return mask_reading(grayscale_values(image, "mask"))[0]


def mask_reading(values: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Say which pixels of a mask are inside, and what is odd about its values.

    0 is outside and everything else inside, also where whole numbers up to `MOST_LABEL_IDS` tell structures apart. More than
    two values that reach the upper half of 0..255 or 0..65535 are shades, of a JPEG or of smoothed edges: cut at half, since
    "not 0" would make the mask grow by its seam.

    Args:
        values: `[H, W]`, whole numbers.

    Returns:
        bool `[H, W]`, and None or a clause that goes on after "the mask".

    Raises:
        ValueError: for values without a 0, and for more than two that are neither of the above.
    """
    lowest, highest = int(values.min()), int(values.max())
    is_highest = values == highest
    if lowest >= 0 and (is_highest | (values == 0)).all():  # empty, full, or two values
        return values != 0, None
    range_of = f"more than two values, from {lowest} to {highest}"
    full_scale = 255 if highest <= 255 else 65535
    if 2 * highest > full_scale:
        if (is_highest | (values == lowest)).all():
            range_of = f"the values {lowest} and {highest}, and no 0"
        return 2 * values.astype(np.int64) > full_scale, f"has {range_of} (a JPEG, or smoothed edges?), and is cut at half"
    if lowest < 0 or highest > MOST_LABEL_IDS or not (values == 0).any():
        raise ValueError(
            f"The mask has values from {lowest} to {highest}, which is no mask: 0 outside and one value inside is needed, or "
            f"label numbers from 0 to {MOST_LABEL_IDS}."
        )
    return values != 0, None


def grayscale_values(image: PIL.Image.Image, what: str = "image") -> np.ndarray:
    """Return the gray values of an image as they stand in the file, `[H, W]`, upright.

    Raises:
        ValueError: when there are several images in the file, or it is not grayscale.
    """
    if getattr(image, "is_animated", False):
        raise ValueError(f"The {what}'s file holds several images (frames or pages); one is allowed: keep one of them.")
    if image.mode not in _FULL_SCALE:
        raise ValueError(
            f"The {what} has PIL mode {image.mode!r}; 8- or 16-bit grayscale is allowed (modes 1, L, I;16, I): "
            "import it into the layout first."
        )
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    if image.mode == "L" and tags.get(SAMPLE_FORMAT) == SIGNED:  # Pillow reads -1 as 255
        raise ValueError(f"The {what} has 8-bit values with a sign; 8- or 16-bit grayscale without is allowed.")
    white_is_zero = image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == 0
    values = np.asarray(upright(image))
    if not white_is_zero:
        return values
    return (
        TWELVE_BITS if values.max() <= TWELVE_BITS else 65535
    ) - values  # of 8-bit TIFF files Pillow inverts them, of others it does not


def orientation(image: PIL.Image.Image) -> int:
    """Return how a file says that its image has to be turned: a number of the EXIF standard, 1 for not at all.

    Of a TIFF file, ask before it is decoded: Pillow turns it then, and forgets.
    """
    value = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    return value if value in range(2, 9) else 1


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turn the image as its file says that it has to be shown (EXIF orientation)."""
    image.load()
    return image if orientation(image) == 1 else PIL.ImageOps.exif_transpose(image)


def resize_radiograph(array: np.ndarray, size: int) -> np.ndarray:
    """Resample `[H, W]` in [0, 1] to `[size, size]` float32 in [0, 1].

    A radiograph that is not square is first padded with 0 to a centred square, so the aspect ratio is kept. The
    bicubic filter widens with the reduction, so nothing aliases. An array that has the size already comes back
    unchanged.
    """
    square = _pad_to_square(np.asarray(array, dtype=np.float32))
    if len(square) == size:
        return square
    return np.clip(_resample(square, size, PIL.Image.Resampling.BICUBIC), 0, 1)


def resize_mask(mask: np.ndarray, size: int, keep_small: bool = True) -> np.ndarray:
    """Resample a bool mask `[H, W]` to `[size, size]`, padded as `resize_radiograph` does.

    An output pixel is inside when at least half of its area is. What is smaller than that must not disappear:

    - `keep_small=True` (lesions): each connected component that would vanish is thresholded at half of the largest
      area fraction that it reaches itself, so a lesion of a few pixels survives (scikit-image finds the components).
    - `keep_small=False` (anatomy): specks may vanish, but a mask that was not empty is treated in this way as a whole
      rather than become empty.
    """
    square = _pad_to_square(np.asarray(mask, dtype=bool))
    if len(square) == size:
        return square
    fraction = _area_fraction(square, size)
    resized = fraction >= 0.5
    if keep_small and square.any():
        try:
            from skimage.measure import label
        except ImportError as error:
            raise ImportError(
                "Resampling a lesion mask needs scikit-image: install diffusers-macdm[train], or give the mask in the size "
                "that is asked for."
            ) from error
        components, count = label(square, return_num=True)
        for component in range(1, count + 1):
            own = _area_fraction(components == component, size)
            if not (resized & (own > 0)).any():
                resized |= own >= own.max() / 2
    elif square.any() and not resized.any():
        resized = fraction >= fraction.max() / 2
    return resized


def resize_case(
    radiograph: np.ndarray, anatomy_mask: np.ndarray | None, lesion_mask: np.ndarray | None, size: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Resample a radiograph and its two masks, `[H, W]` each, to `[size, size]`; a mask that is None stays None.

    A lesion that was inside the anatomy still is: where the two thresholds disagree the lesion wins and its pixels are
    added to the anatomy. A lesion that was outside stays where it was (`macdm check` reports it).
    """
    anatomy = None if anatomy_mask is None else resize_mask(anatomy_mask, size, keep_small=False)
    lesion = None if lesion_mask is None else resize_mask(lesion_mask, size)
    if anatomy is not None and lesion is not None and not (lesion_mask & ~anatomy_mask).any():
        anatomy = anatomy | lesion
    return resize_radiograph(radiograph, size), anatomy, lesion


def _pad_to_square(array: np.ndarray) -> np.ndarray:
    side = max(array.shape)
    pads = [((side - length) // 2, side - length - (side - length) // 2) for length in array.shape]
    return np.pad(array, pads)


def _resample(array: np.ndarray, size: int, resampling: PIL.Image.Resampling) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(array.astype(np.float32)).resize((size, size), resampling))  # PIL mode F


def _area_fraction(mask: np.ndarray, size: int) -> np.ndarray:
    return _resample(mask, size, PIL.Image.Resampling.BOX)


# --- what a user holds: to and from tensors ---------------------------------------------------------------------------


def radiographs_from(value, name: str, size: int) -> torch.Tensor:
    """One or several radiographs -> `[B, 1, size, size]` float32 in [0, 1].

    Args:
        value: a PIL image (8- or 16-bit grayscale, any size: resampled as in training), an array `[H, W]`, `[B, H, W]` or
            `[B, H, W, 1]`, a tensor `[H, W]`, `[B, H, W]` or `[B, 1, H, W]`, or a list of these. Floating point is in
            [0, 1]; uint8 and uint16 are divided by their maximum.
        name: the argument's name, for the error message.

    Raises:
        ValueError: for another type, shape, size or range, naming the value and what is allowed.
    """
    return torch.cat([_radiographs_from_one(item, name, size) for item in _as_list(value, name)])


def masks_from(value, name: str, size: int, keep_small: bool) -> torch.Tensor:
    """One or several masks -> `[B, 1, size, size]` float32 in {0, 1}; types, shapes and errors as `radiographs_from`.

    Any non-zero value of an array or a tensor is inside; PIL images are read by `mask_array` and resampled as in training: with
    `keep_small` for lesions, without for the anatomy (`resize_mask`).
    """
    return torch.cat([_masks_from_one(item, name, size, keep_small) for item in _as_list(value, name)])


def to_output(images: torch.Tensor, output_type: str):
    """`[B, 1, H, W]` in [0, 1] -> list of 8-bit grayscale PIL images, array `[B, H, W, 1]` or tensor `[B, 1, H, W]`."""
    if output_type == "pt":
        return images
    array = images.cpu().permute(0, 2, 3, 1).numpy()  # [B, H, W, 1]
    if output_type == "np":
        return array
    return [PIL.Image.fromarray(image[..., 0]) for image in np.rint(array * 255).astype(np.uint8)]


def _as_list(value, name: str) -> list:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise ValueError(f"{name} is an empty list; give at least one.")
    return values


def _radiographs_from_one(value, name: str, size: int) -> torch.Tensor:
    if isinstance(value, PIL.Image.Image):
        return torch.from_numpy(resize_radiograph(radiograph_array(value), size))[None, None]
    tensor = _to_tensor(value, name, size)
    if not tensor.is_floating_point():
        maximum = {torch.uint8: 255, torch.uint16: 65535, torch.bool: 1}.get(tensor.dtype)
        if maximum is None:
            raise ValueError(f"{name} has dtype {tensor.dtype}; allowed are floating point in [0, 1], uint8 and uint16.")
        return tensor.float() / maximum
    tensor = tensor.float()
    if not (tensor.isfinite().all() and tensor.min() >= 0 and tensor.max() <= 1):
        raise ValueError(
            f"{name} has values from {tensor.min().item():.4g} to {tensor.max().item():.4g}; "
            "floating point arrays and tensors must be in [0, 1]."
        )
    return tensor


def _masks_from_one(value, name: str, size: int, keep_small: bool) -> torch.Tensor:
    if isinstance(value, PIL.Image.Image):
        mask = resize_mask(mask_array(value), size, keep_small)
        return torch.from_numpy(mask)[None, None].float()
    tensor = _to_tensor(value, name, size)
    if tensor.is_floating_point() and not tensor.min() >= 0:
        raise ValueError(f"{name} has negative values or NaN; masks are 0 outside and positive inside.")
    return (tensor != 0).float()


def _to_tensor(value, name: str, size: int) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        array = value[..., 0] if value.ndim == 4 and value.shape[-1] == 1 else value
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    elif torch.is_tensor(value):
        tensor = value.detach()[:, 0] if value.ndim == 4 and value.shape[1] == 1 else value.detach()
    else:
        raise ValueError(f"{name} is a {type(value).__name__}; allowed are PIL images, arrays, tensors and lists of them.")
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] < 1 or tuple(tensor.shape[1:]) != (size, size):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; this model takes single-channel images of {size}x{size}: arrays "
            f"[H, W], [B, H, W] or [B, H, W, 1], tensors [H, W], [B, H, W] or [B, 1, H, W] (PIL images are resampled)."
        )
    return tensor[:, None]


def check_same_sizes(**images) -> None:
    """Raise `ValueError` when PIL images of one case differ in size.

    They are padded and resampled one by one: of different sizes they would not lie on each other.
    """
    sizes = {}
    for name, value in images.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, PIL.Image.Image):
                sizes.setdefault(upright(item).size, name)
    if len(sizes) > 1 and len(set(sizes.values())) > 1:
        raise ValueError(
            f"{', '.join(f'{name} has {w}x{h}' for (w, h), name in sizes.items())} pixels; a radiograph and its masks must "
            "have the same size."
        )
