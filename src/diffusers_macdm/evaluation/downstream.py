"""Training and testing of the diagnosis classifier and the segmenter, alike in every arm of a comparison.

The arms differ in the cases alone: number of optimisation steps, schedule, class-balanced batches, initial weights (by seed)
and the choice of the state by the validation cases are the same. The schedule is never cut short.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..data.augmentation import PairAugmentation
from ..data.cases import Cases
from ..data.sampler import balanced_draws
from ..macdm.joint_sample import MASKS
from ..optimisation import Optimiser, warm_start_cosine
from ..statistics.measures import roc_auc
from .networks import DIAGNOSIS, SEGMENTATION, diagnosis_classifier, segmenter
from .predictions import Trained, predict_masks, predict_probabilities, score_of_masks, youden_threshold


WARMUP_SHARE = 0.05  # of the steps
LEARNING_RATES = {DIAGNOSIS: 3e-4, SEGMENTATION: 2e-3}
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Budget:
    """What every arm of a comparison is given.

    Attributes:
        steps: optimisation steps.
        batch_size: cases in each.
        learning_rate: at the end of the warm-up; a cosine takes it to 0.
        validate_every: steps between two looks at the validation cases.
        width: channels of the network's first stage; its own default when None.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 3e-4
    validate_every: int = 50
    width: int | None = None

    def __post_init__(self):
        for name, least in (("steps", 1), ("batch_size", 2), ("validate_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: at least {least} is needed.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not allowed: it must be greater than 0.")


@dataclass(frozen=True)
class Stage:
    """A part of a training: these cases for this share of the steps."""

    cases: Cases
    share: float = 1.0


@dataclass(frozen=True)
class DownstreamTraining:
    """How the downstream networks are trained, in all arms.

    Attributes:
        budgets: budget of each task.
        num_classes: number of labels of the real set.
        pretrained: ImageNet weights of the diagnosis classifier, or None.
        device: device to train on.
    """

    budgets: Mapping[str, Budget]
    num_classes: int
    pretrained: str | None
    device: torch.device

    def build(self, task: str, size: int) -> torch.nn.Module:
        """Return a new network for radiographs of `size` pixels a side, with random weights.

        Raises:
            ValueError: when the size or the width is not allowed.
        """
        width = {} if self.budgets[task].width is None else {"width": self.budgets[task].width}
        return segmenter(size, **width) if task == SEGMENTATION else diagnosis_classifier(self.num_classes, **width)

    def check(self, size: int) -> None:
        """Build the networks once for radiographs of this side, before any work is done.

        Raises:
            ValueError: when a size or width is not allowed, or the pretrained weights cannot be loaded.
        """
        self.build(SEGMENTATION, size)
        width = {} if self.budgets[DIAGNOSIS].width is None else {"width": self.budgets[DIAGNOSIS].width}
        diagnosis_classifier(self.num_classes, self.pretrained, **width)

    def train(
        self,
        task: str,
        stages: Sequence[Stage],
        validation: Cases | None,
        seed: int,
        augmented: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Trained:
        """Train the network of a task; arguments and errors are those of `train_classifier`."""
        common = {
            "seed": seed,
            "augmentation": PairAugmentation() if augmented else None,
            "device": self.device,
            "progress": progress,
        }
        if task == SEGMENTATION:
            return train_segmenter(stages, validation, self.budgets[task], **common)
        return train_classifier(
            stages, validation, self.budgets[task], num_classes=self.num_classes, pretrained=self.pretrained, **common
        )


def stage_steps(stages: Sequence[Stage], steps: int) -> list[int]:
    """Steps of each stage; together they are all of them.

    Raises:
        ValueError: when the shares do not add up to 1, or a stage would have no step.
    """
    shares = np.array([stage.share for stage in stages])
    if not len(shares) or not np.isclose(shares.sum(), 1):
        raise ValueError(f"Stages with shares {shares.tolist()} are not allowed: they must add up to 1.")
    ends = np.rint(np.cumsum(shares) * steps).astype(int)
    counts = np.diff(ends, prepend=0).tolist()
    if min(counts) < 1:
        raise ValueError(f"{steps} steps are too few for stages with shares {shares.tolist()}.")
    return counts


def train_classifier(
    stages: Sequence[Stage],
    validation: Cases | None,
    budget: Budget,
    *,
    num_classes: int,
    seed: int,
    augmentation: PairAugmentation | None = None,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Trained:
    """Train the diagnosis classifier (cross-entropy).

    Args:
        stages: training cases; only their radiographs and labels are used.
        validation: chooses the state and the threshold. None: the last state, 0.5.
        budget: steps and so on.
        num_classes: number of labels, 0 (normal) included.
        seed: of initial weights, draws and augmentation.
        augmentation: classical augmentation of the training cases.
        pretrained: see `networks.diagnosis_classifier`.
        device: to train on; the network stays there.
        progress: called after each step with its number.

    Raises:
        ValueError: when a label is not below `num_classes`, or a training set is empty.
    """
    for cases in (*(stage.cases for stage in stages), *([] if validation is None else [validation])):
        if len(cases) and int(cases.class_labels.max()) >= num_classes:
            raise ValueError(f"Label {int(cases.class_labels.max())} is not allowed: there are {num_classes} classes.")

    def loss_of(network, samples, labels):
        return torch.nn.functional.cross_entropy(network(samples[:, :1]).logits, labels)

    def score(network):
        probabilities, truth = (
            predict_probabilities(network, validation, budget.batch_size),
            validation.class_labels.numpy(),
        )
        log_loss = -np.log(probabilities[np.arange(len(truth)), truth].clip(1e-12)).mean()
        auc = roc_auc(1 - probabilities[:, 0], truth > 0)
        return auc, (auc, -log_loss)

    width = {} if budget.width is None else {"width": budget.width}
    build = lambda: diagnosis_classifier(num_classes, pretrained, **width)  # noqa: E731
    trained = _train(build, loss_of, score, stages, validation, budget, seed, augmentation, device, progress)
    threshold = 0.5
    if validation is not None and len(set(validation.has_lesion.tolist())) == 2:
        lesion = 1 - predict_probabilities(trained.network, validation, budget.batch_size)[:, 0]
        threshold = youden_threshold(validation.has_lesion.numpy(), lesion)
    return replace(trained, threshold=threshold)


def train_segmenter(
    stages: Sequence[Stage],
    validation: Cases | None,
    budget: Budget,
    *,
    seed: int,
    augmentation: PairAugmentation | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Trained:
    """Train the segmenter of anatomy and lesion (Dice over the batch + cross-entropy, each mask by itself); arguments as
    `train_classifier`'s. The validation cases choose as `score_of_masks` says.

    Of a set with one mask, what the segmenter puts out for the other one is not trained and means nothing.

    Raises:
        ValueError: when a training case has no masks, or other ones than another stage, or a training set is empty.
    """
    from monai.losses import DiceCELoss

    known = {stage.cases.known_masks for stage in stages}
    if len(known) > 1 or () in known:
        raise ValueError("A segmenter cannot be trained with cases that have no masks, or not all the same ones.")
    masks = [place for place, mask in enumerate(MASKS) if mask in next(iter(known), ())]
    # Over the batch: a normal case has no lesion, and its own Dice would tell nothing.
    dice_ce = DiceCELoss(sigmoid=True, batch=True)

    def loss_of(network, samples, labels):
        logits, truth = network(samples[:, :1]), (samples[:, 1:] > 0).float()  # [B, 2, H, W] each
        return sum(dice_ce(logits[:, place : place + 1], truth[:, place : place + 1]) for place in masks)

    def score(network):
        predicted = predict_masks(network, validation, budget.batch_size)
        for place in set(range(len(MASKS))).difference(masks):
            predicted[:, place] = False  # as the cases have none there: it has no say
        return score_of_masks(predicted, validation.masks.numpy())

    size = stages[0].cases.size
    width = {} if budget.width is None else {"width": budget.width}

    def build():
        network = segmenter(size, **width)
        start_from_base_rates(network, stages[0].cases.masks)
        return network

    return _train(build, loss_of, score, stages, validation, budget, seed, augmentation, device, progress)


@torch.no_grad()
def start_from_base_rates(segmenter: torch.nn.Module, masks: torch.Tensor) -> None:
    """Let a new segmenter give each pixel the share of the masks' area as its probability, by the bias of its last convolution.

    A lesion covers a few thousandths of a film; from one half on, hundreds of steps go into the bias alone (Lin et al., arXiv
    1708.02002, sec. 4.1).

    Args:
        masks: bool `[N, 2, H, W]`, of the training cases.
    """
    last = [module for module in segmenter.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    rates = masks.float().mean(dim=(0, 2, 3)).clamp(1e-4, 1 - 1e-4)  # [2]
    last.bias.copy_(torch.logit(rates))


def _train(build, loss_of, score, stages, validation, budget, seed, augmentation, device, progress) -> Trained:
    """The one loop. `score(network)` gives the state's score and what decides between states: a number and, where it is equal
    or nan, a second one."""
    for stage in stages:
        if not len(stage.cases):
            raise ValueError("A network cannot be trained without cases.")
    start = time.perf_counter()
    counts = stage_steps(stages, budget.steps)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build().to(device).train()
    schedule = warm_start_cosine(budget.steps, warmup=math.ceil(WARMUP_SHARE * budget.steps))
    optimiser = Optimiser(network.parameters(), budget.learning_rate, schedule, weight_decay=WEIGHT_DECAY)

    step, best = 0, None
    for number, (stage, count) in enumerate(zip(stages, counts, strict=True)):
        draws = balanced_draws(stage.cases.class_labels, count * budget.batch_size, [seed, number])
        seeds = np.random.default_rng([seed, number, 2**31]).integers(2**62, size=len(draws))
        for chosen, augmentation_seeds in zip(draws.reshape(count, -1), seeds.reshape(count, -1), strict=True):
            samples = stage.cases.joint_samples[chosen]  # [B, 3, H, W]
            if augmentation is not None:
                augmented = (augmentation(*pair)[0] for pair in zip(samples, augmentation_seeds.tolist(), strict=True))
                samples = torch.stack(list(augmented))
            optimiser.step(loss_of(network, samples.to(device), stage.cases.class_labels[chosen].to(device)))
            step += 1
            if progress is not None:
                progress(step)
            # A state from before the last stage would be that of another arm.
            is_last_stage = number == len(stages) - 1
            if validation is not None and is_last_stage and (step % budget.validate_every == 0 or step == budget.steps):
                network.eval()
                value, decides = score(network)
                network.train()
                rank = tuple(np.nan_to_num(decides).tolist())
                if best is None or rank > best[0]:
                    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
                    best = rank, (None if np.isnan(value) else float(value)), step, state
    if best is None:
        best_step, value = step, None
    else:
        _, value, best_step, state = best
        network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return Trained(network, step, best_step, value, None, time.perf_counter() - start)
