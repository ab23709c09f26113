"""Does it help: `macdm evaluate`.

OUT/settings.json                              what was asked for; the same OUT goes on with the same settings only
OUT/runs/DIVISION/TASK/ARM/seed-S.json         one trained and tested network, written when it is finished
OUT/reference/                                 the networks behind filters, realism and fit, trained on real cases alone
OUT/evaluation.json, OUT/index.html            the answer; without them the evaluation is unfinished
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.cases import Cases
from ..files import MADE_AGAIN, begin, locked, read_columns, write_json
from ..hub.loading import own_version
from ..progress import Progress
from .arms import Arm, stages_of, why_not
from .divisions import Division
from .downstream import DownstreamTraining
from .filters import filter_pairs
from .judge import Judge
from .plan import EVALUATION_FILE, Plan, resolve
from .predictions import COLUMNS, tested
from .settings import Settings
from .tables import Runs, compare_filters, generation_rows, summarise


RUNS, REFERENCE = "runs", "reference"
PACKAGES = ("torch", "transformers", "monai", "scikit-learn", "scipy", "numpy")


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Train and test the downstream networks in every arm, and say whether the synthetic pairs help.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `evaluation.json` says.

    Raises:
        FileNotFoundError, ValueError: when a set cannot be read, the sets leak into each other, or settings do not go
            together.
        FileExistsError: when `settings.out` is complete or holds something else, or another process is writing there.
    """
    with locked(Path(settings.out)):
        return _evaluate(settings, show_progress)


def _evaluate(settings: Settings, show_progress: bool) -> dict:
    plan, out = resolve(settings), Path(settings.out)
    record = plan.record()
    begin(out, record, may_change=("real", "synthetic", "model"))
    judge = Judge(
        plan.splits["train"],
        plan.training,
        seed=settings.seeds[0],
        folder=out / REFERENCE,
        extractor=plan.extractor,
        show_progress=show_progress,
    )
    pairs, kept = filter_pairs(plan.divisions, settings.filters, judge, plan.mask_sampler)
    jobs, left_out = plan_jobs(plan, pairs)
    runs = train_and_test(out / RUNS, jobs, settings.seeds, plan.training, show_progress)

    result, measurements = summarise(plan, runs)
    result["filters"] = compare_filters(kept, measurements, plan.settings.tasks)
    result["realism"] = result["fit"] = None
    if not settings.skip_realism:
        result |= judge.realism_and_fit(plan.held_out, plan.synthetic)
        result["results"] += generation_rows(result, str(settings.real))
    result["notes"] = [*plan.notes, *left_out, *result["notes"]]
    result["settings"] = record
    result["versions"] = {
        "diffusers_macdm": own_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    result["seconds"] = {
        "trainings": sum(record["seconds"] for record in runs.values()),
        "training_runs": len(runs),
    }
    return finish(out, plan, result)


def finish(out: Path, plan: Plan, result: dict) -> dict:
    """Write the page, and last the file whose presence says that the evaluation is finished."""
    from .page import write_page

    write_page(out, result, plan.splits["train"], plan.synthetic)
    write_json(out / EVALUATION_FILE, result)
    return result


# --- the trainings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One training, but for its seed.

    Attributes:
        division: who trains, who chooses, who is tested.
        task: task of the network.
        arm: way to train.
        synthetic: pairs that may be drawn, filtered where the arm says so.
    """

    division: Division
    task: str
    arm: Arm
    synthetic: Cases

    def path(self, folder: Path, seed: int) -> Path:
        """File of this training's record."""
        return folder / folder_name(self.division.name) / self.task / self.arm.name / f"seed-{seed}.json"


def plan_jobs(plan: Plan, pairs: Mapping[tuple[str, str], Cases]) -> tuple[list[Job], list[str]]:
    """Plan the trainings of all divisions.

    An arm is either in all divisions of the evaluation or in none of them.

    Args:
        plan: the evaluation.
        pairs: synthetic pairs by names of division and filter.

    Returns:
        The jobs, and a sentence for each arm that was left out.
    """
    jobs, left_out = [], []
    tasks = plan.settings.tasks
    for arm in plan.arms:
        drawn = [pairs[division.name, arm.filter] for division in plan.divisions]
        reasons = (why_not(arm, division.train, pool) for division, pool in zip(plan.divisions, drawn, strict=True))
        reason = next(filter(None, reasons), None)
        if reason is not None:
            left_out.append(reason)
            continue
        jobs += [Job(division, task, arm, pool) for division, pool in zip(plan.divisions, drawn, strict=True) for task in tasks]
        if arm.filter != "none":
            continue  # the filters' networks have seen every site
        for division in plan.site_divisions:
            reason = why_not(arm, division.train, division.synthetic)
            if reason is None:
                jobs += [Job(division, task, arm, division.synthetic) for task in tasks]
            else:
                left_out.append(f"Without {division.name}: {reason}")
    return jobs, left_out


def train_and_test(
    folder: Path, jobs: Sequence[Job], seeds: Sequence[int], training: DownstreamTraining, show_progress: bool = True
) -> Runs:
    """Train and test each job with each seed, as far as not done before.

    Returns:
        What was recorded about each, by names of division, task and arm, and seed.
    """
    runs = {}
    total = sum(training.budgets[job.task].steps for job in jobs) * len(seeds)
    with Progress(total, "trainings", show=show_progress) as progress:
        # Seed by seed, so that every arm has something early, and all arms of a comparison the same conditions.
        for seed in seeds:
            for job in jobs:
                progress.describe(f"{job.division.name}, {job.task}, {job.arm.name}, seed {seed}")
                path = job.path(folder, seed)
                if path.is_file():
                    progress.update(training.budgets[job.task].steps)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(path, train_and_test_one(job, seed, training, lambda step: progress.update()))
                runs[job.division.name, job.task, job.arm.name, seed] = _read(path, job)
    return runs


def train_and_test_one(job: Job, seed: int, training: DownstreamTraining, progress) -> dict:
    """Train and test one network; the record is JSON-ready."""
    stages = stages_of(job.arm, job.division.train, job.synthetic, seed)
    trained = training.train(job.task, stages, job.division.validation, seed, job.arm.augmented, progress)
    num_real = sum(pool.real_copies for pool in job.arm.pools) * len(job.division.train)
    return {
        **tested(job.task, trained, job.division.test),
        "threshold": trained.threshold,
        "num_real": num_real,
        "num_synthetic": sum(len(stage.cases) for stage in stages) - num_real,
        "names": list(job.division.test.names),
    }


def _read(path: Path, job: Job) -> dict:
    record, columns = read_columns(path, COLUMNS[job.task], len(job.division.test))
    if record.get("names") != list(job.division.test.names):
        raise ValueError(f"{path} was measured on other cases; {MADE_AGAIN}.")
    missing = {"steps", "validation_score", "seconds", "num_real", "num_synthetic"} - set(record)
    if missing:
        raise ValueError(f"{path} is damaged (without {', '.join(sorted(missing))}); {MADE_AGAIN}.")
    return record | {"columns": columns}


def folder_name(name: str) -> str:
    """Return a folder's name for a division: a site's name may hold anything, what a folder's may not hold is replaced, and a
    digest keeps two of them apart."""
    plain = re.sub(r"[^\w.-]+", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
