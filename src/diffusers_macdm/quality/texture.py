"""What a film is made of below its anatomy: noise, fine detail, the sharpness of the bone's edge.

Films are uint8 `[N, S, S]`, masks bool `[N, S, S]`; gray levels are those of 0 to 255, distances are in pixels.
"""

from __future__ import annotations

import numpy as np


# Immerkaer, Computer Vision and Image Understanding 64, 1996, eq. 2: the difference of two Laplacians, which sees no constant,
# no slope and no curvature. Its coefficients have the norm 6, so white noise of sigma 1 gives a response of sigma 6.
NOISE_KERNEL = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6.0
NORMAL_MAD = 0.6744897501960817  # median of |x| of a standard normal x
MARGIN = 2  # pixels on either side of the anatomy's border that belong to neither region of the grain
FEWEST_PIXELS = 20  # of a region, for an estimate of its noise
TOP_OCTAVE = 0.25  # cycles per pixel: half of the Nyquist frequency
REACH = 4  # pixels on either side of the border in its profile
HISTOGRAM_BINS = 16
GRADIENT_EDGES = np.array([0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 90, 128, np.inf])  # gray levels per pixel


# Immerkaer 1996, with the median in place of the mean (Donoho & Johnstone, Biometrika 81, 1994): edges are few, so they move
# it little.
def grain(films: np.ndarray, anatomy_masks: np.ndarray) -> dict[str, np.ndarray]:
    """Estimate the noise of each film, outside the anatomy and inside.

    `median |film * K| / 0.6745` with the high-pass kernel K of unit norm, over the pixels whose 3 x 3 neighbourhood lies in the
    region: more than 2 pixels outside the anatomy mask, more than 2 inside.

    Returns:
        `background` and `anatomy`, float64 `[N]` each, gray levels; nan where a region has fewer than 20 pixels. White noise of
        standard deviation s gives s, a region that is clipped to black 0.
    """
    from scipy.ndimage import convolve

    found = {"background": [], "anatomy": []}
    for film, mask in zip(films, anatomy_masks, strict=True):
        response = np.abs(convolve(film.astype(float), NOISE_KERNEL))
        response[[0, -1]] = response[:, [0, -1]] = np.nan  # where the neighbourhood reaches over the edge of the film
        depth = signed_distance(mask)
        for name, region in (("background", depth < -MARGIN), ("anatomy", depth > MARGIN)):
            values = response[region]
            values = values[~np.isnan(values)]
            found[name].append(np.median(values) / NORMAL_MAD if len(values) >= FEWEST_PIXELS else np.nan)
    return {name: np.array(values, dtype=float) for name, values in found.items()}


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel's centre from the border of a bool mask `[S, S]`, in pixels: float64 `[S, S]`, positive inside.

    The border runs half-way between a pixel inside and one outside, so that these have 0.5 and -0.5. Infinite where there is
    no border.
    """
    from scipy.ndimage import distance_transform_edt

    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf if mask.any() else -np.inf)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside)


def power_spectra(films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power spectra of the films less their mean, under a Hann window: the edges of a film are no detail of it.

    Returns:
        Power, float64 `[N, S, S]`, and the frequency of each place, `[S, S]` in cycles per pixel.
    """
    size = films.shape[-1]
    window = np.hanning(size + 2)[1:-1]
    window = window[:, None] * window
    values = films.astype(float)
    # The mean under the window: what is left then has no power at frequency 0.
    values = values - (values * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    frequency = np.fft.fftfreq(size)
    return np.abs(np.fft.fft2(values * window)) ** 2, np.hypot(frequency[:, None], frequency)


def top_octave(films: np.ndarray) -> np.ndarray:
    """Share of the spectral power above 0.25 cycles per pixel, half of the Nyquist frequency: float64 `[N]` in [0, 1].

    White noise has `1 - pi / 16 = 0.80`; a film without any contrast nan.
    """
    power, frequency = power_spectra(films)
    total = power.sum(axis=(1, 2))
    high = power[:, frequency > TOP_OCTAVE].sum(axis=1)
    return np.divide(high, total, out=np.full(len(films), np.nan), where=total > 1e-9)


def edge_profiles(films: np.ndarray, anatomy_masks: np.ndarray) -> np.ndarray:
    """Mean gray level across the border of each anatomy mask: float64 `[N, 8]`, at the distances of `profile_distances()`.

    nan where a film has no pixel at that distance.
    """
    profiles = np.full((len(films), 2 * REACH), np.nan)
    for row, (film, mask) in enumerate(zip(films, anatomy_masks, strict=True)):
        bins = np.floor(np.clip(signed_distance(mask), -REACH - 1, REACH)).astype(int) + REACH  # -1 and 2 REACH: too far
        for place in np.unique(bins[(bins >= 0) & (bins < 2 * REACH)]):
            profiles[row, place] = film[bins == place].mean()
    return profiles


def profile_distances() -> list[float]:
    """Middle of each pixel-wide bin of an edge profile: -3.5 (outside) to 3.5 (inside)."""
    return [place - REACH + 0.5 for place in range(2 * REACH)]


def texture_features(films: np.ndarray) -> np.ndarray:
    """Describe each film by its texture and its gray levels, not by what it shows: float64 `[N, S / 2 + 32]`.

    Logarithm of the radial power spectrum in rings one frequency step wide; square roots of the shares of the gradient's
    magnitudes (16 classes that widen) and of the gray levels (16 equal classes). Roots, so that a rare class counts.
    """
    power, frequency = power_spectra(films)
    size = films.shape[-1]
    rings = np.round(frequency * size).astype(int)
    spectrum = [np.log(power[:, rings == ring].mean(axis=1) + 1e-3) for ring in range(1, size // 2 + 1)]
    rows, columns = np.gradient(films.astype(float), axis=(1, 2))
    gradients = _shares(np.hypot(rows, columns), GRADIENT_EDGES)
    grays = _shares(films, np.linspace(0, 256, HISTOGRAM_BINS + 1))
    return np.concatenate([np.stack(spectrum, axis=1), gradients, grays], axis=1)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Square root of the share of each film's pixels in each class, `[N, len(edges) - 1]`."""
    counts = [np.bincount(np.digitize(film.ravel(), edges[1:-1]), minlength=len(edges) - 1) for film in values]
    return np.sqrt(np.array(counts) / values[0].size)
