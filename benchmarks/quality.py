"""Quality for a budget: how good are the pairs of each candidate after the same minutes of training on this machine?

    python benchmarks/quality.py OUT --data phantom48 --budget-minutes 5          (`make quality`)

Every candidate of the table below is trained for the same time on the same cases, draws the same number of pairs of each label
with the same seeds, and is measured by `diffusers_macdm.quality` against real cases that it was not trained on, the masks as
sampled. A probe of 30 updates says how many updates fit the budget. What is finished is not done again.

    OUT/quality.md, OUT/results.json      the table, and all numbers
    OUT/NAME.png, OUT/real.png            the first 16 pairs of each candidate, and real ones
    OUT/NAME/                             its model, samples and settings
    OUT/data, OUT/fresh, OUT/referee      phantoms to train on and to measure against; the networks that measure
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "pipelines"))

from stages import mixed_precision, said_in_one_sentence, seconds_of, seconds_per_update  # noqa: E402

from diffusers_macdm.data.cases import Cases, load_cases  # noqa: E402
from diffusers_macdm.files import SETTINGS_FILE, begin, new_file, read_json, write_json, write_text  # noqa: E402
from diffusers_macdm.macdm import MaCDMPipeline  # noqa: E402
from diffusers_macdm.macdm.schedulers import set_scheduler  # noqa: E402
from diffusers_macdm.phantom import write_phantom  # noqa: E402
from diffusers_macdm.quality import measure  # noqa: E402
from diffusers_macdm.quality.referee import Referee  # noqa: E402
from diffusers_macdm.quality.sets import cases_of_arrays, films_of, masks_of  # noqa: E402
from diffusers_macdm.report.contact_sheet import contact_sheet, save  # noqa: E402
from diffusers_macdm.seeds import pair_seed  # noqa: E402
from diffusers_macdm.training.launching import launch_environment  # noqa: E402


@dataclass(frozen=True)
class Candidate:
    """A row of the comparison.

    Attributes:
        name: of its folder and picture.
        what: what it is, for the table.
        training: options of `accelerate launch -m diffusers_macdm.training.denoiser` after `NETWORK`, which they override. All
            that make the method are named, so that a row stays what it is when a default changes.
        same_training_as: name of the candidate whose model this one samples from, in place of `training`.
        scheduler: class in diffusers; None is the model's own.
        scheduler_config: what is changed in its configuration.
        sampling: arguments of `MaCDMPipeline.__call__`.
    """

    name: str
    what: str
    training: tuple[str, ...] = ()
    same_training_as: str | None = None
    scheduler: str | None = None
    scheduler_config: Mapping[str, object] = field(default_factory=dict)
    sampling: Mapping[str, object] = field(default_factory=lambda: {"num_inference_steps": 50})


DPM = {
    "scheduler": "DPMSolverMultistepScheduler",
    "scheduler_config": {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True, "timestep_spacing": "trailing"},
    "sampling": {"num_inference_steps": 25},
}
SDE = {**DPM, "scheduler_config": {**DPM["scheduler_config"], "algorithm_type": "sde-dpmsolver++"}}
DDIM = {"scheduler": "DDIMScheduler"}
GUIDED = {"num_inference_steps": 25, "classifier_free_guidance_scale": 1.5}


def options(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# What all have in common, unless they say otherwise: a network and an optimisation that fit 2 CPU cores.
NETWORK = options(
    "--block_out_channels 64 64 96 --layers_per_block 1 --patch_size 2 --no-augment --train_batch_size 8 --learning_rate 1.2e-3"
    " --task_probabilities 0.9 0.05 0.05 --lesion_region_weight 1 --radiograph_region_weight 1 --loss_channel_weights 1 1 1"
    " --film_noise 0 --sigma_floor 0.05"
)
LEARNED = "--learned_variance --noise_levels uniform"
CLEAN = "--prediction_type sample --loss_space v_prediction --no-learned_variance"
LOGNORMAL = f"{CLEAN} --noise_levels lognormal --noise_level_mean -0.4 --noise_level_std 1.4"
PATCH4 = f"{LOGNORMAL} --patch_size 4 --train_batch_size 32"
WIDE = "--block_out_channels 96 96 128"
NOISE = f"{PATCH4} --film_noise 0.04 --sigma_floor 0.01"
LESION = f"{NOISE} --loss_channel_weights 1 1 3"
FLOOR = f"{LESION} --film_noise 0.025 --sigma_floor 0.3"
LEVELS = f"{LESION} --noise_level_mean -0.3 --noise_level_std 1.8"
DEEP = f"{LEVELS} --layers_per_block 2 --attention_levels 2"
CANDIDATES = (
    Candidate(
        "paper",
        "as MaC-DM: noise predicted, learned variance; DDPM",
        options(f"--formulation paper --prediction_type epsilon {LEARNED}"),
    ),
    Candidate(
        "paper-fixed",
        "the same, by DDPM with the fixed posterior variance",
        same_training_as="paper",
        scheduler_config={"variance_type": "fixed_small"},
    ),
    Candidate("paper-ddim", "the same, by DDIM", same_training_as="paper", **DDIM),
    Candidate(
        "v-regions",
        "v predicted, the lesion's region weighted (default of 0.1); DDPM",
        options(
            f"--formulation paper --prediction_type v_prediction {LEARNED}"
            " --lesion_region_weight 10 --radiograph_region_weight 4"
        ),
    ),
    Candidate("v-regions-ddim", "the same, by DDIM", same_training_as="v-regions", **DDIM),
    Candidate("clean-uniform", "clean sample predicted, error of v; DDIM", options(f"{CLEAN} --noise_levels uniform"), **DDIM),
    Candidate("clean", "the same, log-normal noise levels", options(LOGNORMAL), **DDIM),
    Candidate("clean-dpm", "the same, by DPM-Solver++ in 25 steps", same_training_as="clean", **DPM),
    Candidate("patch4", "clean, patches of 4 px, 96 to 128 channels, batches of 32", options(f"{PATCH4} {WIDE}"), **DDIM),
    Candidate("patch4-dpm", "the same, by DPM-Solver++ in 25 steps", same_training_as="patch4", **DPM),
    Candidate("patch4-sde", "the same, by stochastic DPM-Solver++", same_training_as="patch4", **SDE),
    Candidate("patch4-head", "the same, a head at full resolution", options(f"{PATCH4} {WIDE} --detail_channels 16"), **SDE),
    Candidate("noise", "patch4-sde that models the film's noise", options(f"{NOISE} {WIDE}"), **SDE),
    Candidate("noise-narrow", "the same, 64 to 96 channels", options(NOISE), **SDE),
    Candidate("noise-lesion", "the same, the lesion mask's error weighted 3", options(LESION), **SDE),
    Candidate(
        "noise-floor",
        "the same, the error of levels below sigma = 0.3 weighted alike, film noise up to 0.025",
        options(FLOOR),
        **SDE,
    ),
    Candidate(
        "noise-floor-guided",
        "the same, classifier-free guidance 1.5",
        same_training_as="noise-floor",
        **{**SDE, "sampling": GUIDED},
    ),
    Candidate("noise-levels", "noise-lesion, noise levels of mean -0.3 and deviation 1.8", options(LEVELS), **SDE),
    Candidate(
        "noise-levels-guided",
        "the same, classifier-free guidance 1.5",
        same_training_as="noise-levels",
        **{**SDE, "sampling": GUIDED},
    ),
    Candidate("noise-deep", "noise-levels, two blocks and attention at two resolutions", options(DEEP), **SDE),
    Candidate(
        "noise-insertion",
        "noise-levels, a fifth of the training on insertion, augmentation with p = 0.12",
        options(f"{LEVELS} --task_probabilities 0.7 0.05 0.05 0.2 --augment"),
        **SDE,
    ),
)

# For a GPU, and left out unless they are named: a network of a size that minutes there are enough for.
GPU = f"{FLOOR} --patch_size 2 --block_out_channels 128 256 256 384 --layers_per_block 2 --attention_levels 2 --augment"
GPU_CANDIDATES = (
    Candidate(
        "gpu",
        "noise-floor with 128 to 384 channels, patches of 2 px, batches of 64",
        options(f"{GPU} --train_batch_size 64"),
        **SDE,
    ),
    Candidate(
        "gpu-insertion",
        "the same, a fifth of the training on insertion",
        options(f"{GPU} --train_batch_size 64 --task_probabilities 0.7 0.05 0.05 0.2"),
        **SDE,
    ),
)

DATA = {"phantom48": 48, "phantom64": 64, "phantom128": 128, "fracatlas64": 64, "fracatlas96": 96}  # -> side in pixels
NUM_NORMAL, NUM_LESION = 177, 73  # training cases of the phantom, as many as the paper has
FRESH = {"num_normal": 102, "num_lesion": 154}  # with those held out of the training set, 192 of each label
LOG_EVERY = 10
SHOWN = 16
TRAINING_CASES = "training_cases.json"  # measures of the real training cases, as if a model had made them


# --- the real cases ---------------------------------------------------------------------------------------------------


def prepare_data(args: argparse.Namespace) -> tuple[Path, Cases, Cases]:
    """Folder to train on, its training cases, and the real cases that are compared with.

    Raises:
        FileNotFoundError: when there is no such data set here.
    """
    size = DATA[args.data]
    if args.data.startswith("fracatlas"):
        if not (args.fracatlas / "train").is_dir():
            raise FileNotFoundError(f"{args.fracatlas} is not here: {args.data} is skipped (--fracatlas DIR says where it is).")
        data = args.fracatlas.resolve()
        return data, load_cases(data, "train", size), load_cases(data, "validation", size)
    data, fresh = args.out / "data", args.out / "fresh"
    if not data.exists():
        write_phantom(data, NUM_NORMAL, NUM_LESION, size, args.seed)
    if not fresh.exists():
        write_phantom(fresh, **FRESH, size=size, seed=args.seed + 1)
    parts = [load_cases(data, "validation", size), load_cases(data, "test", size), load_cases(fresh, "train", size)]
    return data, load_cases(data, "train", size), _of_other_patients(parts)


def _of_other_patients(parts: Sequence[Cases]) -> Cases:
    """All of them; the phantoms of two seeds number their patients alike and are other ones."""
    named = [
        Cases.of(
            part.joint_samples,
            part.class_labels,
            [f"{number}-{name}" for name in part.names],
            [f"{number}-{patient}" for patient in part.patient_ids],
        )
        for number, part in enumerate(parts)
    ]
    return Cases.concatenate(named)


# --- training ---------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace, data: Path, candidate: Candidate) -> Path:
    """Train what a candidate samples from, unless that was done; return its folder, with `model` and `training.json`."""
    folder = args.out / candidate.name
    begin(folder, json.loads(json.dumps(asdict(candidate))))
    facts_file, model = folder / "training.json", folder / "model"
    if (model / "model_index.json").is_file() and facts_file.is_file() and "seconds" in read_json(facts_file):
        return folder
    common = [*NETWORK, *candidate.training, "--train_data_dir", str(data), "--resolution", str(DATA[args.data])]
    common += ["--seed", str(args.seed), "--audit_steps", "0", "--validation_steps", "1000000", "--report_to", "none"]
    common += ["--logging_steps", str(LOG_EVERY)]
    if not facts_file.is_file():
        per_update = seconds_per_update(folder / "probe", lambda words: launch(args, [*common, *words]))
        write_json(facts_file, {"seconds_per_update": per_update, "steps": max(1, int(60 * args.budget_minutes / per_update))})
    facts = read_json(facts_file)
    steps = facts["steps"]
    # Few checkpoints: each takes time that is not training.
    saving = ["--checkpointing_steps", str(max(1, -(-steps // 4))), "--checkpoints_total_limit", "1"]
    saving += ["--resume_from_checkpoint", "latest"]
    launch(args, [*common, *saving, "--output_dir", str(model), "--max_train_steps", str(steps)])
    seconds, samples = seconds_of(model)
    write_json(facts_file, {**facts, "seconds": seconds, "samples_seen": samples, "options": [*NETWORK, *candidate.training]})
    for checkpoint in model.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return folder


def launch(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Train the denoiser with these options, in a process of its own."""
    command = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no"]
    command += ["--num_cpu_threads_per_process", str(args.threads), "--mixed_precision", mixed_precision()]
    command += ["-m", "diffusers_macdm.training.denoiser", *words]
    print("$ python " + " ".join(command), flush=True)
    environment = {**launch_environment(1), "OMP_NUM_THREADS": str(args.threads)}
    finished = subprocess.run([sys.executable, *command], env=environment)
    if finished.returncode:
        raise SystemExit(f"error: the training ended with status {finished.returncode}; its output above says why.")


# --- sampling ---------------------------------------------------------------------------------------------------------


def draw(args: argparse.Namespace, candidate: Candidate, model: Path) -> tuple[Cases, float]:
    """Pairs of a candidate, labels in turn, masks as sampled, and the seconds that one took; kept in OUT/NAME/samples.npz."""
    kept = args.out / candidate.name / "samples.npz"
    if not kept.is_file():
        pipe = MaCDMPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        set_scheduler(pipe, candidate.scheduler)
        if candidate.scheduler_config:
            pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **candidate.scheduler_config)
            pipe.check_scheduler()
        num_classes = pipe.unet.num_classes
        labels = [index % num_classes for index in range(num_classes * args.pairs_per_label)]
        start, parts = time.monotonic(), []
        for first in range(0, len(labels), args.batch_size):
            numbers = range(first, min(first + args.batch_size, len(labels)))
            output = pipe(
                class_labels=[labels[number] for number in numbers],
                # On the CPU whatever the device: it draws the same numbers everywhere.
                generator=[torch.Generator().manual_seed(pair_seed(args.seed, number)) for number in numbers],
                refine_masks=False,
                output_type="np",
                **candidate.sampling,
            )
            parts.append([output.images[..., 0], output.anatomy_masks[..., 0], output.lesion_masks[..., 0]])
        seconds = (time.monotonic() - start) / len(labels)
        films, anatomy, lesion = (np.concatenate(channel) for channel in zip(*parts, strict=True))  # [N, S, S] each
        with new_file(kept) as temporary:
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    films=np.rint(films * 255).astype(np.uint8),
                    anatomy=anatomy > 0.5,
                    lesion=lesion > 0.5,
                    labels=labels,
                    seconds=seconds,
                )
    with np.load(kept) as file:
        return cases_of_arrays(*(file[name] for name in ("films", "anatomy", "lesion", "labels"))), float(file["seconds"])


def show(cases: Cases, path: Path, title: str) -> None:
    """The first pairs, uncurated: film beside film with outlines."""
    shown = cases.select(range(min(SHOWN, len(cases))))
    captions = [f"label {label}" for label in shown.class_labels.tolist()]
    save(contact_sheet(films_of(shown), *masks_of(shown), captions, columns=4, title=title, side_by_side=True), path)


def in_turn(cases: Cases) -> Cases:
    """The first cases of each label, the labels in turn as the pairs have them."""
    by_label = [np.flatnonzero(cases.class_labels.numpy() == label) for label in sorted(set(cases.class_labels.tolist()))]
    return cases.select([numbers[place] for place in range(min(map(len, by_label))) for numbers in by_label])


def drawn_from(cases: Cases, args: argparse.Namespace) -> Cases:
    """As many cases of each label as a candidate draws pairs, fewer where there are fewer; by the seed."""
    order = np.random.default_rng(args.seed).permutation(len(cases))
    labels = cases.class_labels.numpy()[order]
    kept = [order[labels == label][: args.pairs_per_label] for label in np.unique(labels)]
    return cases.select(np.sort(np.concatenate(kept)))


# --- the table --------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def share(entry: Mapping | None) -> str:
    return "–" if entry is None or entry["value"] is None else f"{entry['value']:.0%}"


def fit_of(measures: Mapping, mask: str, key: str) -> str:
    return number(next((m[key] for m in measures.get("fit", ()) if m["mask"] == mask and m["label"] is None), None))


def columns(measures: Mapping, real: bool) -> dict[str, str]:
    """The measures of a row: of the pairs, or what the real cases give."""
    key, side, fit = ("real_versus_real", "real", "real") if real else ("value", "synthetic", "value")
    ratio = "real_versus_real" if real else "ratio"
    auc, distance, grain = measures["real_or_synthetic_auc"], measures["sliced_wasserstein"], measures["grain"]
    interval = None if real else auc["interval"]
    lesions = measures["lesions"][side]
    normal, lesion = lesions["0"], lesions["1"]
    area = lesion["median_area"]
    copies = measures.get("copies")
    return {
        "AUC": number(auc[key]) + (f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else ""),
        "KID": number(measures["kid"][key], 3),
        "SWD film 5x5": number(distance["film"]["patches"][key]),
        "SWD detail": number(distance["film"]["detail"][key]),
        "SWD film 12x12": number(distance["film"]["global"][key]),
        "SWD anatomy 12x12": number(distance["anatomy"]["global"][key], 3),
        "SWD lesion 12x12": number(distance["lesion"]["global"][key], 4),
        "grain outside": number(grain["background"][ratio]),
        "grain inside": number(grain["anatomy"][ratio]),
        "top octave": number(measures["top_octave"][ratio]),
        "edge RMS": number(measures["edge_profile"]["real_versus_real" if real else "rms_difference"], 1),
        "lesion, label 0": share(normal["with_lesion"]),
        "lesion, label 1": share(lesion["with_lesion"]),
        "one piece": share(lesion["in_one_piece"]),
        "specks": share(lesion["with_specks"]),
        "area, px": "–" if area is None else f"{area:g}",
        "inside bone": number(lesion["pixels_inside_anatomy"]),
        "Dice anatomy": fit_of(measures, "anatomy_mask", fit),
        "Dice lesion": fit_of(measures, "lesion_mask", fit),
        "lesion seen": share(measures.get("lesion_seen", {}).get(side, {}).get("1")),
        "copies": share(copies) if not real else ("–" if copies is None else f"{copies['nominal_rate']:.0%}"),
    }


NOTE = """\
Every candidate was trained for the same time on the same {train} cases and measured on {pairs} pairs, masks as sampled (before
refinement), against real cases that it was not trained on. The column "real" says what real cases give: half against half, or
their own value; "training cases" what a model that copies them would get. AUC: real or synthetic by texture and gray levels,
0.50 cannot be told (95 % interval). KID: {features}. SWD:
sliced Wasserstein distance of 5 x 5 patches, of these less their mean ("detail") and of pictures reduced to 12 x 12; films in
gray levels of 255. Grain, top octave: ratio to real. Edge RMS: difference from the real gray levels across the border of the
bone. Lesions: a piece has 2 pixels or more; one piece, specks, area, inside bone: of label 1. Dice: with a segmenter trained on
the real training cases. Lesion seen: by it, in films of label 1. Copies: nearer to a training film than 95 % of held-out films.
"""


def write_table(args: argparse.Namespace, num_train: int) -> None:
    """Write OUT/results.json and OUT/quality.md of all candidates that are finished."""
    done = [args.out / candidate.name / "result.json" for candidate in (*CANDIDATES, *GPU_CANDIDATES)]
    results = {path.parent.name: read_json(path) for path in done if path.is_file()}
    write_json(args.out / "results.json", {"settings": read_json(args.out / SETTINGS_FILE), "candidates": results})
    if not results:
        return
    rows = []
    for name, result in results.items():
        cost = {
            "updates": f"{result['steps']}",
            "samples": f"{result['samples_seen']}",
            "training, s": f"{result['seconds']:.0f}",
        }
        pair = {"s per pair": number(result["seconds_per_pair"])}
        rows.append({"candidate": name, **cost, **pair, **columns(result["measures"], real=False)})
    measures = next(iter(results.values()))["measures"]
    empty = dict.fromkeys(("updates", "samples", "training, s", "s per pair"), "")
    copied = read_json(args.out / TRAINING_CASES)
    rows.insert(0, {"candidate": "training cases", **empty, **columns(copied, real=False)})
    rows.insert(0, {"candidate": "real", **empty, **columns(measures, real=True)})
    lines = [f"# Quality for a budget: {args.data}, {args.budget_minutes:g} minutes", ""]
    # Turned: the measures are the rows, for there are more of them than candidates.
    lines += ["| | " + " | ".join(row["candidate"] for row in rows) + " |", "|---|" + "---:|" * len(rows)]
    lines += [f"| {name} | " + " | ".join(row[name] for row in rows) + " |" for name in rows[0] if name != "candidate"]
    lines += ["", *(f"- **{name}**: {result['what']} ([pairs]({name}.png))" for name, result in results.items())]
    lines += ["- **real**: [cases](real.png)", ""]
    size = measures["num_synthetic"]
    lines.append(NOTE.format(train=num_train, pairs=size, features=measures["kid"]["features"]))
    write_text(args.out / "quality.md", "\n".join(lines))


# --- all of it --------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    by_name = {candidate.name: candidate for candidate in (*CANDIDATES, *GPU_CANDIDATES)}
    torch.set_num_threads(args.threads)
    fixed = ("data", "budget_minutes", "pairs_per_label", "seed", "threads", "skip_copies", "segmenter_steps")
    if args.out.exists() and any(args.out.iterdir()) and not (args.out / SETTINGS_FILE).is_file():
        raise FileExistsError(f"{args.out} is not empty and no benchmark of quality: choose another OUT.")
    begin(args.out, {name: getattr(args, name) for name in fixed})
    data, train_cases, real = prepare_data(args)
    judges = {"copies": not args.skip_copies, "segmenter_steps": args.segmenter_steps}
    referee = Referee(train_cases, real, **judges, seed=args.seed, folder=args.out / "referee")
    show(in_turn(real), args.out / "real.png", f"Real cases, {args.data}")
    if not (args.out / TRAINING_CASES).is_file():
        write_json(args.out / TRAINING_CASES, measure(real, drawn_from(train_cases, args), seed=args.seed))
    for name in args.candidates or [candidate.name for candidate in CANDIDATES]:
        candidate = by_name[name]
        begin(args.out / name, json.loads(json.dumps(asdict(candidate))))
        if (args.out / name / "result.json").is_file():
            print(f"== {name}: done already", flush=True)
            continue
        print(f"== {name}: {candidate.what}", flush=True)
        trained = train(args, data, by_name[candidate.same_training_as or name])
        pairs, seconds_per_pair = draw(args, candidate, trained / "model")
        show(pairs, args.out / f"{name}.png", f"{name}: the first pairs, uncurated, masks as sampled")
        facts = {"what": candidate.what, **read_json(trained / "training.json"), "seconds_per_pair": seconds_per_pair}
        print(f"== {name}: measuring {len(pairs)} pairs", flush=True)
        measures = measure(real, pairs, judge=referee, seed=args.seed)
        write_json(args.out / name / "result.json", {**facts, "measures": measures})
        write_table(args, len(train_cases))
    write_table(args, len(train_cases))
    print((args.out / "quality.md").read_text(), end="")


def main() -> None:
    names = [candidate.name for candidate in (*CANDIDATES, *GPU_CANDIDATES)]
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder, or one begun with the same settings")
    parser.add_argument("--data", choices=DATA, default="phantom48", help="what is trained on")
    parser.add_argument("--budget-minutes", type=float, default=5.0, help="time of each training")
    parser.add_argument(
        "--candidates",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"all but those for a GPU when not given: {', '.join(names)}",
    )
    parser.add_argument("--pairs-per-label", type=int, default=64, help="sampled of each candidate")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs sampled at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training and the sampling")
    parser.add_argument("--fracatlas", type=Path, default=ROOT.parent / "shared/data/fracatlas_leg_roi", help="of fracatlas64")
    parser.add_argument("--segmenter-steps", type=int, default=1500, help="of the U-Net that says whether the masks fit")
    parser.add_argument("--skip-copies", action="store_true", help="no search for copies, which takes minutes")
    parser.add_argument("--seed", type=int, default=0, help="of everything random, the same for all candidates")
    args = parser.parse_args()
    args.out = args.out.resolve()
    if not args.budget_minutes > 0 or args.pairs_per_label < 8 or args.threads < 1:
        parser.error("--budget-minutes must be above 0, --pairs-per-label at least 8, --threads at least 1.")
    if args.data.startswith("fracatlas") and not (args.fracatlas / "train").is_dir():
        print(f"{args.data} is skipped: {args.fracatlas} is not here (--fracatlas DIR says where it is).")
        return
    with said_in_one_sentence():
        run(args)


if __name__ == "__main__":
    main()
