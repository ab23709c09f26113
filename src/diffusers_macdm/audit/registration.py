"""How alike two radiographs are after the best alignment: the distance that decides what is a copy.

A copy may be mirrored, shifted, rotated, rescaled and exposed otherwise. So one image is laid over the other as well as that
goes, and they are compared where both have content, after the local mean and the contrast are taken away:

    distance = 1 - NCC,   NCC = sum m a b / sqrt(sum m a^2  sum m b^2)

(normalised cross-correlation) with `m` the common part of the two frames and `a`, `b` the images less their local mean (a
Gaussian window, taken inside of `m` alone, so that nothing outside of the frame reaches in). As is usual in image registration
the alignment is found from coarse to fine: an exhaustive search at 16 px over mirror image, rotations, scales and shifts, then
gradient descent on the distance itself at 32 px.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
import torch.nn.functional as F

from .images import SIZE, affine_grid, gaussian_blur, in_blocks, to_unit


MIN_OVERLAP = 0.5  # of the frame; a smaller common part proves nothing

SEARCH_SIZE, SEARCH_BLUR = 16, 2.0  # the blur in pixels of the audit's size: the shifts tried lie a pixel of 16 apart
ROTATIONS = (-10.0, -5.0, 0.0, 5.0, 10.0)  # degrees
SCALES = (0.74, 0.86, 1.0, 1.16, 1.35)
SHIFTS = (-0.24, -0.18, -0.12, -0.06, 0.0, 0.06, 0.12, 0.18, 0.24)  # of the side, in either direction

# Of the descent, first on few pixels for many candidates, then on more for the best: side of the grid, blur of the images (in
# pixels of the audit's size; without it the distance would feel how far a pixel lies from the next), window of the local mean
# (in grid pixels), and the step of Adam, in radians, log-scale and half sides alike.
COARSE, FINE = (16, 2.0, 2.0, 0.04), (32, 1.0, 3.0, 0.02)
_FLAT = 1e-4  # sum of squares below which an image has no detail: alike with nothing
_NO_EDGE = 1e-3  # difference of neighbouring pixels, of gray values in [0, 1]: a fourth of a gray level of 8 bits
_SEARCH_BLOCK = 2**25  # products that stand in memory at once


class Search:
    """The images that others are laid over, prepared for an exhaustive search at 16 px.

    Compared are the differences between neighbouring pixels: exposure does not matter to them, and the black border that a
    shifted copy has reaches no further in than one pixel. Of these the square roots, with their signs: otherwise the few
    strong ones, as those of the black corners of a rotated copy, decide alone.

    Args:
        images: uint8 `[M, 64, 64]`.
    """

    def __init__(self, images: torch.Tensor):
        self.edges = in_blocks(lambda block: _edges(_small(block))[:, 0], images)  # [M, E]

    def __call__(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best alignment of each query with each of the images.

        Args:
            queries: uint8 `[N, 64, 64]`.

        Returns:
            NCC `[N, 2, M]`, as it is and mirrored, at its peak, which may lie between the alignments that are tried; and the
            number of the best of these in `alignments()` `[N, 2, M]`.
        """
        grids, frames = _search_grids()  # [V, n, n, 2], [V, E]
        stacked = _small(queries).transpose(0, 1).expand(len(frames), -1, -1, -1)  # [V, N, n, n]
        moved = _edges(F.grid_sample(stacked, grids, align_corners=False)) * frames[:, None]  # [V, N, E]
        moved = moved / (moved.norm(dim=2, keepdim=True) + _FLAT**0.5)
        best = torch.full((len(queries), 2, len(self.edges)), -1.0)
        number = torch.zeros(best.shape, dtype=torch.long)
        step = max(1, _SEARCH_BLOCK // (len(frames) * max(1, len(queries))))
        for start in range(0, len(self.edges), step):
            part = slice(start, start + step)
            fixed = self.edges[part]  # [G, E]
            norms = (frames @ fixed.square().T).clamp_min(0).sqrt() + _FLAT**0.5  # [V, G], inside of the moved frame
            ncc = (moved.flatten(0, 1) @ fixed.T).view(len(frames), len(queries), -1).div_(norms[:, None])  # [V, N, G]
            for side, half in enumerate(ncc.chunk(2)):  # alignments() has the mirrored half last
                likeness, place = half.max(dim=0)  # [N, G]
                best[:, side, part] = likeness + _above_grid(half, likeness, place)
                number[:, side, part] = place + side * len(frames) // 2
        return best, number


def _above_grid(ncc: torch.Tensor, best: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """How much higher than at the best alignment tried the NCC is at its peak, by a parabola through the neighbouring shifts in
    either direction: `[N, G]` of `ncc` `[V / 2, N, G]`, `best` and `place` `[N, G]`.

    The true shift of a copy lies up to half a step from those tried, and half a step away many strangers are as like. (Along
    rotation and scale the steps are too wide for a parabola.)
    """
    height = torch.zeros_like(best)
    for below, above in _shift_neighbours():
        before, after = below[place], above[place]  # [N, G]
        low, high = (ncc.gather(0, index.clamp_min(0)[None])[0] for index in (before, after))
        bend = 2 * best - low - high
        inside = (before >= 0) & (after >= 0) & (bend > 1e-4)
        height += torch.where(inside, (high - low).square() / (8 * bend.clamp_min(1e-4)), 0.0)
    return height


@functools.cache
def _shift_neighbours() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For x and for y, the alignment one shift before and after each one, `[V / 2]`; -1 where there is none."""
    tried = alignments()[: len(alignments()) // 2].round(decimals=4)
    index = {tuple(row): number for number, row in enumerate(tried.tolist())}
    step = 2 * (SHIFTS[1] - SHIFTS[0])  # in half sides

    def moved(axis: int, by: float) -> torch.Tensor:
        rows = tried.clone()
        rows[:, axis] += by
        return torch.tensor([index.get(tuple(row), -1) for row in rows.round(decimals=4).tolist()])

    return [(moved(axis, -step), moved(axis, step)) for axis in (3, 4)]


@functools.cache
def alignments() -> torch.Tensor:
    """What is searched, `[V, 5]`: mirror (-1 or 1), rotation (radians), log-scale, shift (x, y in half sides)."""
    tried = itertools.product((1.0, -1.0), ROTATIONS, SCALES, SHIFTS, SHIFTS)
    every = torch.tensor([(m, math.radians(r), math.log(s), 2 * x, 2 * y) for m, r, s, x, y in tried])
    return every[_inside(_grids(every)).flatten(1).mean(dim=1) >= MIN_OVERLAP]


def unmoved_start(mirrored: torch.Tensor) -> torch.Tensor:
    """The alignments `[..., 5]` that move nothing, of images that are mirrored or not `[...]`."""
    start = torch.zeros(*mirrored.shape, 5)
    start[..., 0] = 1 - 2.0 * mirrored
    return start


@functools.cache
def _search_grids() -> tuple[torch.Tensor, torch.Tensor]:
    """The grids of `alignments()`, and which edges lie inside of the moved frame: `[V, n, n, 2]`, `[V, E]` of 0 and 1."""
    grids = _grids(alignments())
    inside = _inside(grids)
    both = inside[:, :, 1:] * inside[:, :, :-1], inside[:, 1:] * inside[:, :-1]
    return grids, torch.cat([pair.flatten(1) for pair in both], dim=1)


def _grids(chosen: torch.Tensor) -> torch.Tensor:
    return affine_grid(chosen[:, 0], chosen[:, 1], chosen[:, 2], chosen[:, 3:], SEARCH_SIZE)


def _inside(grids: torch.Tensor) -> torch.Tensor:
    # of the centres of the border pixels: beyond, an edge of the frame itself would be seen
    return (grids.abs() <= 1 - 1 / SEARCH_SIZE + 1e-4).all(dim=3).float()  # [V, n, n]


def _small(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(gaussian_blur(to_unit(images)[:, None], SEARCH_BLUR), SIZE // SEARCH_SIZE)  # [N, 1, n, n]


def _edges(small: torch.Tensor) -> torch.Tensor:
    """`[..., n, n]` -> `[..., E]`: signed square roots of the differences of horizontal, then of vertical neighbours."""
    differences = torch.cat([small.diff(dim=-1).flatten(-2), small.diff(dim=-2).flatten(-2)], dim=-1)
    # the root would make much of what rounding leaves where there is no edge
    return differences.sign() * (differences.abs() - _NO_EDGE).clamp_min(0).sqrt()


def aligned_distance(
    queries: torch.Tensor, fixed: torch.Tensor, start: torch.Tensor, steps: int, level: tuple = FINE
) -> tuple[torch.Tensor, torch.Tensor]:
    """`1 - NCC` of each query with its partner after `steps` of gradient descent from an alignment.

    Args:
        queries, fixed: uint8 `[N, 64, 64]`.
        start: alignments `[N, 5]`, in the order of `alignments()`.
        level: `COARSE` or `FINE`.

    Returns:
        The smallest distance met `[N]` in [0, 2], 1 where an image has no detail, and its alignment `[N, 5]`.
    """
    size, blur, window, step_size = level
    moving, fixed = (gaussian_blur(to_unit(images)[:, None], blur) for images in (queries, fixed))  # [N, 1, S, S]
    fixed = F.avg_pool2d(fixed, SIZE // size)
    moving = F.avg_pool2d(moving, SIZE // size // 2)  # twice as fine as the grid on which it is read
    mirror = start[:, 0]
    parameters = start[:, 1:].clone().requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=step_size, betas=(0.8, 0.95))
    best, where = torch.full((len(queries),), math.inf), start[:, 1:].clone()
    with torch.enable_grad():
        for step in range(steps + 1):
            distance, overlap = _distance(moving, fixed, mirror, parameters, window)
            with torch.no_grad():
                # a little less than in the search, whose limit the descent may round
                better = (overlap >= MIN_OVERLAP - 0.05) & (distance < best)
                best = torch.where(better, distance, best)
                where = torch.where(better[:, None], parameters, where)
            if step == steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = step_size * (1 - step / steps)
            optimizer.zero_grad()
            (distance + F.relu(MIN_OVERLAP - overlap)).sum().backward()
            optimizer.step()
    best = best.nan_to_num(1.0, 1.0, 1.0).clamp_min(0)
    return best, torch.cat([mirror[:, None], where], dim=1)


def _distance(moving, fixed, mirror, parameters, window):
    size = fixed.shape[-1]
    grid = affine_grid(mirror, parameters[:, 0], parameters[:, 1], parameters[:, 2:], size)  # [N, n, n, 2]
    moved = F.grid_sample(moving, grid, padding_mode="border", align_corners=False)
    # 1 inside of the moved frame, 0 outside, falling over the border pixel so that the gradient sees it
    frame = ((1 - grid.abs()).amin(dim=3) * (size / 2) + 0.5).clamp(0, 1)[:, None]  # [N, 1, n, n]
    weight = gaussian_blur(frame, window).clamp_min(1e-3)
    a = (moved - gaussian_blur(moved * frame, window) / weight) * frame
    b = (fixed - gaussian_blur(fixed * frame, window) / weight) * frame
    total = lambda x: x.sum(dim=(1, 2, 3))  # noqa: E731
    ncc = total(a * b) / (total(a * a) * total(b * b) + _FLAT**2).sqrt()
    return 1 - ncc, total(frame) / size**2
