"""Denoising error by case: does the model know the films it was trained on better than others?

A model that has learned its training images by heart predicts their noise better than that of unseen ones (Carlini et al.,
arXiv 2301.13188, sec. 5.1; Matsumoto et al., arXiv 2302.03262), most clearly at middle noise levels: near pure noise nothing is
left to know, near the clean image nothing is left to guess.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set
from pathlib import Path

import numpy as np
import torch

from ..data.dataset import UNLABELED, PairDataset
from ..data.loading import load_pairs
from ..macdm import MaCDMPipeline
from ..macdm.forward_process import ForwardProcess, noise_of
from ..macdm.joint_sample import known_channels, to_signal
from ..statistics.bootstrap import two_sample_bootstrap
from ..statistics.measures import roc_auc


NOISE_LEVELS = (0.2, 0.35, 0.5)  # t / T
MAX_MEMBERS = 200  # cases on either side
NUM_NOISES = 4  # for each level, the same for every case


@torch.no_grad()
def denoising_errors(
    unet,
    scheduler,
    joint_samples: torch.Tensor,
    class_labels: Sequence[int],
    noise_levels: Sequence[float] = NOISE_LEVELS,
    num_noises: int = NUM_NOISES,
    seed: int = 0,
    batch_size: int = 32,
) -> np.ndarray:
    """Mean squared error of the noise prediction (L_simple, DDPM eq. 14) of each case at each noise level.

    Args:
        unet: `MaCDMUNet2DModel`; its mode (training or not) is restored afterwards.
        scheduler: of the same pipeline, for the process and the kind of prediction.
        joint_samples: `[N, 3, H, W]` in [-1, 1].
        class_labels: `[N]`; a label that the network does not know is shown as its null label.
        noise_levels: `t / T` in [0, 1).
        num_noises: draws of the noise, the same for all cases, so that two cases differ by themselves alone.

    Returns:
        `[N, L]`, the mean over the channels that the network knows, pixels and draws.
    """
    process = ForwardProcess.from_scheduler(scheduler).to(unet.device)
    kind, channels = scheduler.config.prediction_type, joint_samples.shape[1]
    shape = (len(noise_levels), num_noises, *joint_samples.shape[1:])
    noises = torch.randn(shape, generator=torch.Generator().manual_seed(seed))  # [L, K, 3, H, W]
    known = list(known_channels(unet.config))
    null = unet.null_class_label
    labels = None
    if null is not None:
        labels = torch.tensor([label if 0 <= label < unet.num_classes else null for label in class_labels])
    training = unet.training
    unet.eval()
    errors = torch.zeros(len(joint_samples), len(noise_levels))
    for start in range(0, len(joint_samples), batch_size):
        rows = slice(start, start + batch_size)
        clean = to_signal(joint_samples[rows].to(unet.device), unet.config)
        for level, noise_level in enumerate(noise_levels):
            timesteps = torch.full((len(clean),), int(noise_level * process.num_timesteps), device=unet.device)
            for noise in noises[level].to(unet.device):
                sample = process.sample(clean, timesteps, noise=noise.expand(len(clean), -1, -1, -1))
                given = None if labels is None else labels[rows].to(unet.device)
                prediction = unet(sample.noisy, timesteps, class_labels=given).sample[:, :channels]
                predicted = noise_of(prediction.float(), sample.noisy, sample.alphas_cumprod, kind)
                error = (predicted - sample.noise)[:, known].square().mean(dim=(1, 2, 3))
                errors[rows, level] += error.cpu() / num_noises
    unet.train(training)
    return errors.numpy()


def membership_auc(
    member_errors: np.ndarray,
    other_errors: np.ndarray,
    member_labels: Sequence[Hashable],
    other_labels: Sequence[Hashable],
    member_patients: Sequence[Hashable | None],
    other_patients: Sequence[Hashable | None],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict:
    """Measure how well the denoising error tells training cases from others: AUC with a 95 % interval.

    The AUC is the probability that a training case has the smaller error, over the pairs *of the same label* (a case with a
    lesion is harder than one without, and the two groups may have other shares of them). Interval: percentile bootstrap over
    patients, those of either group drawn apart.

    Args:
        member_errors, other_errors: errors of the training cases `[N]` and of the others `[M]`.
        member_labels, other_labels: label of each; None is a label as well.
        member_patients, other_patients: patient of each; None is a patient of its own.
        seed: seed of the bootstrap.
        resamples: number of its draws.

    Returns:
        `auc`, `interval`, `members`, `others`; auc and interval are None where no label is in both groups, and for errors that
        are not finite.
    """
    result = {"auc": None, "interval": None, "members": len(member_errors), "others": len(other_errors)}
    scores = -np.concatenate([member_errors, other_errors]).astype(float)  # [N + M]
    is_member = np.arange(len(scores)) < len(member_errors)
    labels = [*member_labels, *other_labels]
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    strata = np.array([codes[label] for label in labels])

    def auc(cases):
        return roc_auc(scores[cases], is_member[cases], strata[cases])

    if not np.isfinite(scores).all() or np.isnan(value := auc(slice(None))):
        return result
    interval = two_sample_bootstrap(auc, [member_patients, other_patients], resamples, seed=seed)
    return {**result, "auc": value, "interval": None if interval is None else list(interval)}


def membership_inference(pipe: MaCDMPipeline, real: str | Path, trained: Set[str], seed: int) -> dict:
    """Compare the denoising errors of training cases with those of validation cases.

    Args:
        pipe: the model.
        real: data set with the splits train and validation.
        trained: names of the training cases that trained the model.
        seed: seed of the noise, of the choice of at most `MAX_MEMBERS` cases on either side, and of the bootstrap.

    Returns:
        What `membership_auc` returns, and `noise_levels`.
    """
    generator = np.random.default_rng(seed)
    groups = []
    for split in ("train", "validation"):
        dataset = PairDataset(load_pairs(real, split), pipe.unet.config.sample_size, null_label=UNLABELED)
        chosen = [i for i, name in enumerate(dataset.names) if split != "train" or name in trained]
        chosen = np.sort(generator.permutation(chosen)[:MAX_MEMBERS])
        labels = [dataset.labels[i] for i in chosen]
        samples = torch.stack([dataset[int(i)]["joint_sample"] for i in chosen])
        errors = denoising_errors(pipe.unet, pipe.scheduler, samples, labels, seed=seed).mean(axis=1)
        groups.append((errors, labels, [dataset.patient_ids[i] for i in chosen]))
    (members, labels, patients), (others, other_labels, other_patients) = groups
    result = membership_auc(members, others, labels, other_labels, patients, other_patients, seed=seed)
    return {**result, "noise_levels": list(NOISE_LEVELS)}
