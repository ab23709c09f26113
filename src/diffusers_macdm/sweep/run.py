"""What the settings of MaC-DM do to its pairs: `macdm sweep`, the paper's ablations of `w2, w3, g, Z`.

    OUT/settings.json      what was asked for; a run that was interrupted goes on, one with other settings is refused
    OUT/networks/          what measures: diagnosis classifier and segmenter, trained on the real training cases, and the copy
                           audit's embedding
    OUT/models/NAME/       the models that were trained for `w2` and `w3`, one for each pair of weights and seed
    OUT/points/NAME.json   one for each point of the grid (and each of its trainings), written when it is measured
    OUT/sweep.json, sweep.csv, index.html      written last

All points are measured by the same networks, and their pairs are drawn from the same seeds: what differs is the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..audit.copies import CopyDetector
from ..audit.detector import build_detector
from ..audit.radiographs import load_radiographs
from ..comparison.models.macdm import MaCDM
from ..evaluation.judge import Judge
from ..files import MADE_AGAIN, begin, locked, new_folder, read_json, write_bytes, write_json
from ..hub.loading import load_pipeline, own_version
from ..macdm import MaCDMPipeline
from ..progress import Progress
from .findings import finding, lowest_kid, notes_of, over_trainings, references_of, table
from .grid import RETRAINING, grid_points, run_name, runs_of
from .measures import PairMeasures
from .page import sweep_page
from .pairs import sample_pairs
from .plan import RESULT_FILE, Plan, resolve
from .settings import Settings


TABLE_FILE = "sweep.csv"


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Measure the pairs of a model at each point of a grid, or go on with a run that was interrupted.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `sweep.json` says.

    Raises:
        FileNotFoundError, ValueError: when the model or the data cannot be read, settings do not go together, `out` was begun
            with others, held-out cases have trained the model, or no training case has.
        FileExistsError: when `out` holds something else, or another process is writing there.
    """
    with locked(Path(settings.out)):
        return _sweep(settings, show_progress)


def _sweep(settings: Settings, show_progress: bool) -> dict:
    plan, out = resolve(settings), Path(settings.out)
    record = plan.record()
    begin(out, record, may_change=("model", "real"))
    judge = Judge(
        plan.splits["train"],
        plan.training,
        seed=settings.seed,
        folder=out / "networks",
        extractor=plan.extractor,
        show_progress=show_progress,
    )
    detector, left_out = copy_detector(plan, judge)
    points = measure_points(plan, PairMeasures(judge, plan.held_out, detector), out, show_progress)
    findings = {name: finding(name, points) for name in plan.retrained}
    result = {
        "conclusion": [*lowest_kid(points), *(found["sentence"] for found in findings.values())],
        "feature_extractor": judge.extractor.name,
        "points": points,
        "references": references_of(points),
        "findings": findings,
        "notes": [*plan.notes, *left_out, *notes_of(len(plan.held_out), plan.retrained, settings.train_seeds, points)],
        "settings": record,
        "versions": _versions(),
    }
    write_bytes(out / TABLE_FILE, table(points))
    sweep_page(out, result)
    write_json(out / RESULT_FILE, result)  # last: its presence says that the sweep is finished
    return result


# --- the points -------------------------------------------------------------------------------------------------------


def copy_detector(plan: Plan, judge: Judge) -> tuple[CopyDetector, list[str]]:
    """Return a detector of copies of the training cases, and notes on validation images that were left out of it."""
    settings = plan.settings
    return build_detector(
        plan.films,
        load_radiographs(settings.real, "validation", plan.splits["train"].size),
        embedding=judge.copy_embedding(plan.films.images, settings.embedding_steps),
        seed=settings.seed,
        device=plan.training.device,
        progress=judge.show_progress,
    )


def measure_points(plan: Plan, measure: PairMeasures, out: Path, show_progress: bool = True) -> list[dict]:
    """Measure each point of the grid, as far as not done before: its `parameter`, `value`, `measures` and single `runs`."""
    (out / "points").mkdir(exist_ok=True)
    grid = grid_points(plan.grid, plan.settings.full_grid)
    points = []
    with Progress(len(grid), "sweep", unit="point", show=show_progress) as progress:
        for parameter, value in grid:
            contents = []
            for run in runs_of(parameter, value, plan.defaults, plan.settings.train_seeds):
                path = out / "points" / f"{run_name(run, plan.defaults)}.json"
                if not path.is_file():
                    write_json(path, {"settings": run, "measures": _measure_run(plan, run, measure, out, show_progress)})
                content = read_json(path)
                if not {"settings", "measures"} <= set(content):
                    raise ValueError(f"{path} is damaged (without settings or measures); {MADE_AGAIN}.")
                if all(entry["name"] != "far_rate" for entry in content["measures"]):
                    raise ValueError(f"{path} is of an earlier version (without far_rate); {MADE_AGAIN}.")
                contents.append(content)
            measures = over_trainings([content["measures"] for content in contents])
            points.append({"parameter": parameter, "value": value, "measures": measures, "runs": contents})
            progress.update()
    return points


def _measure_run(plan: Plan, run: Mapping, measure: PairMeasures, out: Path, show_progress: bool) -> list[dict]:
    settings = plan.settings
    pipe = _retrained(plan, run, out, show_progress) if "train_seed" in run else plan.pipe
    labels = list(range(plan.pipe.unet.num_classes))
    pairs, unrefined = sample_pairs(
        pipe, run, plan.splits["train"], labels, settings.num_per_class, settings.seed, settings.batch_size
    )
    return measure(pairs, unrefined)


def _retrained(plan: Plan, run: Mapping, out: Path, show_progress: bool) -> MaCDMPipeline:
    """The model with other weights of its channels, trained where it was not before."""
    device = plan.training.device
    folder = out / "models" / run_name({name: run[name] for name in (*RETRAINING, "train_seed")}, {})
    if not folder.is_dir():
        guidance_scale = max([plan.defaults["guidance_scale"], *plan.grid.get("guidance_scale", ())])
        model = MaCDM((1.0, run["w2"], run["w3"]), guidance_scale, plan.mask_weighting)
        model.fit(plan.splits["train"], plan.budget, seed=run["train_seed"], device=device, progress=show_progress)
        with new_folder(folder) as temporary:
            model.pipeline.save_pretrained(temporary)
    pipe = load_pipeline(folder).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _versions() -> dict[str, str]:
    import diffusers

    return {"diffusers_macdm": own_version(), "diffusers": diffusers.__version__, "torch": torch.__version__}
