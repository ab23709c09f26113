"""The order in which cases are drawn: classes in turn, within a class each case once before any again.

Every draw of the package is made here: the training's, a function of (seed, step, rank) alone, that of the downstream
networks, that of the masks for films, that of the cases behind variations.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch


BALANCES = ("class", "sqrt", "none")


def shuffled(members: np.ndarray, *seeds: int) -> np.ndarray:
    """Return the case numbers `[n]` in the random order that follows from the seeds."""
    return np.random.default_rng(seeds).permutation(members)


def in_cycles(members: np.ndarray, count: int, seeds: Sequence[int]) -> np.ndarray:
    """Return `count` draws from case numbers `[n]`: shuffled cycles, so that none is drawn twice before all are drawn once."""
    generator = np.random.default_rng(seeds)
    cycles = [generator.permutation(members) for _ in range(-(-count // len(members)))]
    return np.concatenate([members[:0], *cycles])[:count]


def balanced_draws(class_labels: Sequence[int] | torch.Tensor, count: int, seed: int | Sequence[int]) -> np.ndarray:
    """Return the numbers of the cases that are drawn, int64 `[count]`: the classes in turn, each in shuffled cycles.

    A case of a class of n is drawn `count / (classes * n)` times, give or take one, and a set in which every case stands twice
    is drawn from like the set itself.
    """
    labels = np.asarray(class_labels)
    classes = np.unique(labels)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    draws = np.empty(count, dtype=np.int64)
    for place, label in enumerate(classes):
        needed = len(range(place, count, len(classes)))
        draws[place :: len(classes)] = in_cycles(np.flatnonzero(labels == label), needed, [*seeds, int(label)])
    return draws


class StepBatchSampler(torch.utils.data.Sampler):
    """Batches of `(index, augmentation_seed)` for the steps `start_step`, ..., `num_steps - 1`.

    What is drawn at a step is a function of `(seed, step, rank)` alone. A resumed training therefore sees exactly what
    an uninterrupted one sees, without any state to save: pass the step at which it goes on as `start_step`.

    All processes share one stream of positions, of which a step takes `batch_size * num_processes` and each process
    its own stretch. Position `p` belongs to class `p mod K` (of `K` classes), so the classes of a batch differ by one
    case at most and the remainder rotates; within a class, cases come in shuffled cycles, so all are visited equally
    often.
    Unlabeled cases are no class of their own: they get the share of the positions that they have of the cases, at even
    distances, and the classes share the others.
    `balance="sqrt"` gives each class a share that grows as the square root of its number of cases (Mahajan et al., arXiv
    1805.00932), at even distances: between equal shares, by which a few cases are seen so often that they are learned by
    heart, and natural ones. `balance="none"` treats the set as a single class: shuffled epochs.

    Args:
        labels: class label of each case.
        batch_size: cases per process and step.
        num_steps: step at which the stream ends; one step is one batch of one process (a micro-batch, not an update,
            under gradient accumulation).
        seed: of the shuffles and of the augmentation seeds.
        start_step: first step.
        rank, num_processes: this process and how many there are. Do not let `accelerate` shard the sampler again.
        balance: `"class"`, `"sqrt"` or `"none"`.
        unlabeled: the label that stands for none, larger than all others.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        num_steps: int,
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        num_processes: int = 1,
        balance: str = "class",
        unlabeled: int | None = None,
    ):
        if balance not in BALANCES:
            raise ValueError(f"balance={balance!r} is not known; allowed are {', '.join(BALANCES)}.")
        if not len(labels):
            raise ValueError("There is no case to draw from.")
        if batch_size < 1 or not 0 <= rank < num_processes or seed < 0 or start_step < 0:
            raise ValueError(
                f"batch_size={batch_size}, seed={seed}, start_step={start_step}, rank={rank} of {num_processes} is "
                "not possible: batch_size >= 1, seed >= 0, start_step >= 0 and 0 <= rank < num_processes are needed."
            )
        labels = np.asarray(labels)
        classes = [labels == label for label in np.unique(labels)] if balance != "none" else [labels == labels]
        self.members = [np.flatnonzero(members) for members in classes]
        apart = balance != "none" and len(classes) > 1 and unlabeled is not None
        self.num_unlabeled, self.num_cases = int((labels == unlabeled).sum()) if apart else 0, len(labels)
        weights = np.sqrt([len(members) for members in self.members[: len(self.members) - (self.num_unlabeled > 0)]])
        # Share of the positions that the classes up to each one have, which that class takes.
        self.shares = (weights / np.cumsum(weights)).tolist() if balance == "sqrt" else None
        self.batch_size, self.num_steps, self.start_step = batch_size, num_steps, start_step
        self.seed, self.rank, self.num_processes = seed, rank, num_processes
        self._cycle = functools.lru_cache(maxsize=4 * len(self.members))(self._shuffled)

    def __len__(self) -> int:
        return max(0, self.num_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start_step, self.num_steps):
            yield self.batch(step)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return the batch of this process at `step`."""
        first = (step * self.num_processes + self.rank) * self.batch_size
        return [self._draw(position) for position in range(first, first + self.batch_size)]

    def _draw(self, position: int) -> tuple[int, int]:
        before, after = (place * self.num_unlabeled // self.num_cases for place in (position, position + 1))
        if after > before:  # the unlabeled ones, whose label is the last
            visit, class_number = before, len(self.members) - 1
        elif self.shares is None:
            visit, class_number = divmod(position - before, len(self.members) - (self.num_unlabeled > 0))
        else:
            visit, class_number = self._by_shares(position - before)
        cycle, place = divmod(visit, len(self.members[class_number]))
        state = np.random.SeedSequence([self.seed, position]).generate_state(1, np.uint64)[0]
        return int(self._cycle(class_number, cycle)[place]), int(state >> np.uint64(1))

    def _by_shares(self, position: int) -> tuple[int, int]:
        """Return which visit of which class a position among the labeled ones is."""
        for class_number in range(len(self.shares) - 1, 0, -1):
            before, after = (int(place * self.shares[class_number]) for place in (position, position + 1))
            if after > before:
                return before, class_number
            position -= before
        return position, 0

    def _shuffled(self, class_number: int, cycle: int) -> np.ndarray:
        return shuffled(self.members[class_number], self.seed, class_number, cycle)
