"""Nearest training images, in three distances: pixels, embedding, and after alignment."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from ..progress import Progress
from .embedding import CopyEmbedding
from .images import SIZE, to_unit
from .registration import COARSE, FINE, Search, aligned_distance, alignments, unmoved_start


# Who is aligned finely: the training images that the search, the embedding or the pixels put nearest. Three finders, for
# none of them finds every copy.
EMBEDDING_CANDIDATES, PIXEL_CANDIDATES = 8, 1
FIRST_STEPS, FINAL_STEPS, FINALISTS = 8, 14, 6  # of the descent: few for all, more for the best of them
UNMOVED_CANDIDATES = 96  # of those that the search found, from no alignment but the mirror as well
_SEARCH_QUERIES = 8
_PIXEL_SIDE = 32
_QUERY_BLOCK, _GALLERY_BLOCK = 512, 4096


def search_candidates(num_training: int) -> int:
    """How many views (training images, mirrored or not) of the search are aligned finely: a fourth of the training images,
    for among more images more strangers come before the original; at least 128, and at most 512, which bounds the time."""
    return min(max(128, num_training // 4), 512)


@dataclass
class Comparison:
    """For each of `N` images what lies nearest to it among the training images; arrays `[N]`.

    Attributes:
        pixel_distance, pixel_nearest: root mean square difference of standardised gray values at 32 px, in [0, 2], which is
            sqrt(2 - 2 r) with r the correlation of the two images as they lie; and the index of the training image.
        embedding_distance, embedding_nearest: 1 - cosine, in [0, 2].
        aligned_distance, nearest: `registration.aligned_distance`, in [0, 2].
        nearest_ratio: aligned distance of the nearest over that of the nearest one of *another patient*, in [0, 1]; 1 where the
            training images are of a single patient.
    """

    pixel_distance: np.ndarray
    pixel_nearest: np.ndarray
    embedding_distance: np.ndarray
    embedding_nearest: np.ndarray
    aligned_distance: np.ndarray
    nearest: np.ndarray
    nearest_ratio: np.ndarray

    def __len__(self) -> int:
        return len(self.nearest)

    def __getitem__(self, chosen) -> Comparison:
        return Comparison(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Gallery:
    """The training images, ready to be compared with.

    Args:
        images: uint8 `[M, 64, 64]`.
        patients: of each; None is a patient of its own.
        embedding: `CopyEmbedding` trained on them.
    """

    def __init__(self, images: torch.Tensor, patients: Sequence[Hashable | None], embedding: CopyEmbedding):
        self.images, self.embedding = images, embedding
        names = [("case", i) if patient is None else ("patient", patient) for i, patient in enumerate(patients)]
        codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
        self.patients = torch.tensor([codes[name] for name in names])  # [M]
        self.embeddings = embedding.embed(images)  # [M, D]
        self.search = Search(images)
        self.own_distance = self._own_distance()

    def __len__(self) -> int:
        return len(self.images)

    def compare(self, images: torch.Tensor, *, progress: str | None = None) -> Comparison:
        """Compare uint8 `[N, 64, 64]` with the training images, block by block.

        Args:
            progress: what to call the progress bar; none when None.
        """
        embeddings = self.embedding.embed(images)
        blocks = []
        with Progress(len(images), progress or "", "image", show=progress is not None) as bar:
            for start in range(0, len(images), _QUERY_BLOCK):
                queries = images[start : start + _QUERY_BLOCK]
                pixel, pixel_index = self._nearest(_pixels(queries), _pixels, PIXEL_CANDIDATES)
                near = min(EMBEDDING_CANDIDATES, len(self))
                similarity, similar = torch.topk(embeddings[start : start + _QUERY_BLOCK] @ self.embeddings.T, near)
                aligned, nearest, ratio = self._align(queries, similar, pixel_index, bar)
                pixel, embedded = pixel[:, 0], 1 - similarity[:, 0].clamp(max=1)
                blocks.append((pixel, pixel_index[:, 0], embedded, similar[:, 0], aligned, nearest, ratio))
        if not blocks:
            return Comparison(*([np.zeros(0)] * len(fields(Comparison))))
        return Comparison(*(torch.cat(column).numpy() for column in zip(*blocks, strict=True)))

    def _nearest(self, queries: torch.Tensor, vectors_of, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Root mean square distances and indices of the `count` nearest training images, `[N, count]`, nearest first."""
        count = min(count, len(self))
        best = torch.full((len(queries), count), torch.inf)
        index = torch.zeros(len(queries), count, dtype=torch.long)
        for start in range(0, len(self), _GALLERY_BLOCK):
            gallery = vectors_of(self.images[start : start + _GALLERY_BLOCK])  # [G, P]
            distance = torch.cdist(queries, gallery) / queries.shape[1] ** 0.5  # [N, G]
            places = torch.arange(start, start + len(gallery)).expand(len(queries), -1)
            best, order = torch.cat([best, distance], dim=1).topk(count, largest=False)
            index = torch.cat([index, places], dim=1).gather(1, order)
        # cdist goes by way of squares, which leaves 1e-4 where two images are the same
        exact = torch.stack([(queries - vectors_of(self.images[column])).square().mean(1).sqrt() for column in index.T], dim=1)
        order = exact.argsort(dim=1, stable=True)
        return exact.gather(1, order), index.gather(1, order)

    def _align(self, queries: torch.Tensor, similar: torch.Tensor, near_pixels: torch.Tensor, bar) -> tuple[torch.Tensor, ...]:
        """Aligned distance, index of the nearest, and ratio to the nearest of another patient: `[N]` each."""
        columns = []
        for start in range(0, len(queries), _SEARCH_QUERIES):
            part = slice(start, start + _SEARCH_QUERIES)
            likeness, number = self.search(queries[part])  # [n, 2, M]
            likeness, number = likeness.flatten(1), number.flatten(1)  # [n, 2 M], the mirrored half last
            best = likeness.topk(min(search_candidates(len(self)), 2 * len(self)), dim=1).indices
            # the ratio needs another patient than that of the first
            of_first = self.patients.repeat(2) == self.patients[best[:, :1] % len(self)]  # [n, 2 M]
            other = likeness.masked_fill(of_first, -torch.inf).argmax(dim=1, keepdim=True)
            near = torch.cat([similar[part, :EMBEDDING_CANDIDATES], near_pixels[part, :PIXEL_CANDIDATES]], dim=1)
            views = torch.cat([best, other, near, near + len(self)], dim=1)  # [n, K]
            begin = alignments()[number.gather(1, views)]  # [n, K, 5]
            # the search tries few rotations and scales: from a wrong pair of them the descent may not find back
            unmoved = best[:, :UNMOVED_CANDIDATES]
            begin = torch.cat([begin, unmoved_start(unmoved >= len(self))], dim=1)
            views = torch.cat([views, unmoved + 2 * len(self)], dim=1)
            chosen = views % len(self)
            distance, begin = self._descend(queries[part], chosen, begin, FIRST_STEPS, COARSE)
            # one image may have been found in several ways
            distance = distance.masked_fill((views[:, :, None] == views[:, None]).tril(-1).any(dim=2), torch.inf)
            # the best, and the best of another patient
            place = distance.argmin(dim=1, keepdim=True)
            patients = self.patients[chosen]
            foreign = distance.masked_fill(patients == patients.gather(1, place), torch.inf).argmin(dim=1, keepdim=True)
            finalists = torch.cat([distance.topk(FINALISTS, largest=False).indices, foreign], dim=1)
            begin = begin.gather(1, finalists[:, :, None].expand(-1, -1, 5))
            final, _ = self._descend(queries[part], chosen.gather(1, finalists), begin, FINAL_STEPS, FINE)
            nearest, place = final.min(dim=1)
            of_finalists = patients.gather(1, finalists)
            same = of_finalists == of_finalists.gather(1, place[:, None])
            second = final.masked_fill(same, torch.inf).amin(dim=1)
            ratio = torch.where(second.isfinite(), (nearest + 1e-6) / (second + 1e-6), 1.0).clamp(max=1.0)
            columns.append((nearest, chosen.gather(1, finalists).gather(1, place[:, None])[:, 0], ratio))
            bar.update(len(chosen))
        return tuple(torch.cat(column) for column in zip(*columns, strict=True))

    def _descend(self, queries, chosen, begin, steps, level):
        """`aligned_distance` of each query with each of its candidates: `[N, K]` and the alignments `[N, K, 5]`."""
        count, per_query = chosen.shape
        distance, alignment = aligned_distance(
            queries.repeat_interleave(per_query, dim=0), self.images[chosen.flatten()], begin.flatten(0, 1), steps, level
        )
        return distance.view(count, per_query), alignment.view(count, per_query, 5)

    def _own_distance(self) -> np.ndarray:
        """Embedding distance of each training image to the nearest other one: what authenticity is judged by."""
        distances = []
        for start in range(0, len(self), _QUERY_BLOCK):
            similarity = self.embeddings[start : start + _QUERY_BLOCK] @ self.embeddings.T
            rows = torch.arange(len(similarity))
            similarity[rows, rows + start] = -torch.inf
            distances.append(1 - similarity.amax(dim=1).clamp(max=1))
        return torch.cat(distances).numpy()


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Gray values of mean 0 and standard deviation 1: exposure tells nothing about a patient."""
    values = F.avg_pool2d(to_unit(images)[:, None], SIZE // _PIXEL_SIDE).flatten(1)  # [N, 1024]
    values = values - values.mean(dim=1, keepdim=True)
    return values / values.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-3)
