"""A synthetic data set from a trained model: `macdm generate`.

Pair `i` has a seed of its own, mixed from `seed` and `i`, so it depends on no other pair and no two sets share one. The pairs
of a batch are fixed by their numbers: a run that is killed and started again ends with the same bytes as one that was not. The
files are those of `synthetic_set`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import diffusers
import torch

from ..devices import available_device
from ..files import locked
from ..hub.loading import load_pipeline, own_version
from ..macdm import MaCDMPipeline
from ..macdm.schedulers import set_scheduler
from ..progress import Progress
from ..provenance.records import TrainedOn, provenance_record
from .copies import copy_test, replace_copies, strength_warning
from .pairs import Sampling, make_pairs
from .plan import Plan, plan_pairs, recorded_settings
from .settings import Settings
from .synthetic_set import SyntheticSet


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Write a synthetic data set into the folder `out`, or go on with one that was interrupted.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `summary.json` says: `num_pairs`, and for each label the number of pairs, the shares of them with a lesion
        before and after refinement, and the share of lesion pixels inside the anatomy before it. Then, not in the file,
        `num_new` (pairs made by this call) and `seconds_per_pair` (None when there was nothing to do).

    Raises:
        FileNotFoundError: when there is no such model or data set.
        FileExistsError: when `out` holds something else than a set that this function has begun, or another process is writing
            there.
        ValueError: when `out` was begun with other settings, and for settings that do not go together; nothing is written
            then. And when a pair is a copy again and again; what was written until then stays.
    """
    with locked(Path(settings.out)):
        return _generate(settings, show_progress)


def _generate(settings: Settings, show_progress: bool) -> dict:
    synthetic = SyntheticSet(settings.out)
    if settings.strength is not None and settings.reject_copies is None and show_progress:
        warning = strength_warning(settings.model, settings.strength)
        if warning is not None:
            print(f"warning: {warning}", file=sys.stderr)
    begun = synthetic.begun()
    pipe, device = _pipeline(settings)
    record = {
        "settings": recorded_settings(settings, pipe, device),
        "versions": {"diffusers_macdm": own_version(), "diffusers": diffusers.__version__, "torch": torch.__version__},
    }
    if settings.dtype != "float32":  # what it was loaded as; casting to the same warns all the same
        pipe.to(dtype=getattr(torch, settings.dtype))
    if begun is not None:
        synthetic.refuse_other("settings", begun["settings"], record["settings"])
    data = next((x for x in (settings.from_data, settings.masks_from, settings.insert_into) if x is not None), None)
    plan = plan_pairs(record["settings"], data, settings.split, pipe.unet.config.sample_size)
    sources = plan.sources()
    done = []
    if begun is not None:
        if begun["provenance"] is not None:  # None: begun by a version that did not record it
            synthetic.refuse_other("real cases", begun["provenance"]["sources"], sources)
        done = synthetic.checked_rows(plan.rows, settings.batch_size, settings.seed)
        if len(done) < len(plan.rows):
            synthetic.refuse_other("versions", begun["versions"], record["versions"])  # they may round otherwise
            synthetic.remove_temporaries()
    record["provenance"] = provenance_record(TrainedOn.read(settings.model), sources)

    num_new, is_copy = len(plan.rows) - len(done), None
    if settings.reject_copies is not None and num_new:
        size = pipe.unet.config.sample_size
        is_copy = copy_test(settings.reject_copies, settings.model, size, settings.seed, device, show_progress)
    started = time.perf_counter()
    if num_new:
        _write_pairs(settings, pipe, plan, synthetic, done, record, is_copy, show_progress)
    seconds = time.perf_counter() - started
    return {**synthetic.finish(done), "num_new": num_new, "seconds_per_pair": seconds / num_new if num_new else None}


def _pipeline(settings: Settings) -> tuple[MaCDMPipeline, torch.device]:
    pipe = load_pipeline(settings.model)
    set_scheduler(pipe, settings.scheduler)
    device = available_device(settings.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device), device


def _write_pairs(settings: Settings, pipe, plan: Plan, synthetic: SyntheticSet, done: list, record, is_copy, show_progress):
    """Sample and write the batches that are not in `done` yet, and add their rows to it."""
    sampling, total = Sampling.from_row(plan.rows[0]), len(plan.rows)
    with (
        Progress(total, "generate", "pair", initial=len(done), show=show_progress) as progress,
        # Some of cuDNN's gradients, which guidance takes, add up in an order that changes from run to run.
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        for first in range(len(done), total, settings.batch_size):
            rows, requests = plan.rows[first : first + settings.batch_size], plan.requests(first, settings.batch_size)
            pairs = make_pairs(pipe, requests, sampling)
            if is_copy is not None:
                results = replace_copies(pipe, requests, pairs, sampling, is_copy, seed=settings.seed, first=first)
                rows = [row | {"seed": seed, "rejected_copies": n} for row, (seed, n) in zip(rows, results, strict=True)]
            if first == 0:
                # Only now: what the pipeline refuses, or what does not fit into memory, leaves nothing behind.
                synthetic.begin(record)
            done += synthetic.write_batch(rows, pairs)
            progress.update(len(rows))
