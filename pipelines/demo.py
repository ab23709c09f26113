"""The main job from end to end on the embedded phantom (`make demo`).

Phantom of the paper's size (177 normal, 73 with a lesion) -> both trainings -> 64 synthetic pairs, 24 normal films with a
lesion painted in, variations of real cases, new films for given masks -> copy audit -> one page with real beside synthetic
pairs. The denoiser is trained for a time, not for a number of updates, so that all of it takes less than 10 minutes on 2 CPU
cores, fast or slow; where there is a GPU, the same command uses it. Interrupted, it continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from run_report import KINDS, report
from stages import ROOT, Stages, launch, said_in_one_sentence, seconds_per_update

from diffusers_macdm.audit import audit
from diffusers_macdm.audit.run import AUDIT_FILE
from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.files import read_json, write_json, write_text
from diffusers_macdm.generate import generate
from diffusers_macdm.hub.card import model_card, model_card_files
from diffusers_macdm.phantom import write_phantom


# Classifier-free guidance: more of the pairs that should have a lesion get one, and none comes into the normal ones.
SAMPLING = {"classifier_free_guidance_scale": 1.5, "batch_size": 32}
VARIATION_STRENGTH = 0.6  # noised to timestep 600 of 1000
NUM_VARIED = 6  # of each label: variations of real cases, and films for given masks
REFERENCE = ROOT / "model_cards/phantom_64/pairs.png"  # picture of the model that comes with the project
NUM_INSERTED = 24  # normal films that a lesion is painted into
# Less than `macdm audit` does by default: half a minute.
AUDIT_SETTINGS = {"embedding_steps": 100, "planted": 20}
DENOISER = (
    "--patch_size 4 --block_out_channels 64 64 96 --train_batch_size 32 --learning_rate 1.2e-3"
    " --task_probabilities 0.7 0.05 0.05 0.2"
)
MOST_STEPS = 20000  # where a GPU would learn the set by heart
CARD_REPO_ID = "your-name/macdm-phantom-demo"  # nothing is pushed


def denoiser_steps(args: argparse.Namespace, out: Path, options: list[str]) -> int:
    """Updates that fit `--denoiser_minutes` on this machine, measured once, or `--denoiser_steps`."""
    if args.denoiser_steps is not None:
        return args.denoiser_steps
    measured = out / "denoiser_steps.json"
    if not measured.is_file():
        seconds = seconds_per_update(out / "probe", lambda words: launch("train_macdm.py", [*options, *words]))
        steps = min(MOST_STEPS, max(1, int(60 * args.denoiser_minutes / seconds)))
        write_json(measured, {"seconds_per_update": seconds, "denoiser_steps": steps})
    return read_json(measured)["denoiser_steps"]


def write_card(args: argparse.Namespace, model: Path, synthetic: Path, audit_dir: Path, folder: Path) -> None:
    """The model's card as the Hub would show it, README.md last."""
    phantom = f"--num-normal {args.num_normal} --num-lesion {args.num_lesion} --size {args.resolution} --seed {args.seed}"
    card = model_card(
        model,
        CARD_REPO_ID,
        audit_dir=audit_dir,
        synthetic_dir=synthetic,
        data_description="The embedded phantom: procedural distal tibias of infants with and without metaphyseal lesions "
        f"(macdm phantom {phantom}). No patient is involved; its patients are numbers.",
        license="apache-2.0",
    )
    for name, path in model_card_files(model, synthetic_dir=synthetic).items():
        shutil.copyfile(path, folder / name)
    write_text(folder / "README.md", card)


def run_demo(args: argparse.Namespace) -> dict:
    """Run the stages that are not done yet, return the facts of the report."""
    out = Path(args.output_dir).resolve()
    data, model, synthetic, audited, page = (out / name for name in ("data", "model", "synthetic", "audit", "report"))
    others = {kind: out / kind for kind in KINDS}
    settings = {key: value for key, value in vars(args).items() if key != "output_dir"}
    stages = Stages(out, "demo", settings)
    network = ["--train_data_dir", str(data), "--resolution", str(args.resolution)]
    network += ["--layers_per_block", "1", "--no-augment", "--resume_from_checkpoint", "latest"]
    network += ["--checkpoints_total_limit", "1", "--seed", str(args.seed)]

    stages.run("phantom", data, lambda: write_phantom(data, args.num_normal, args.num_lesion, args.resolution, args.seed))
    if faults := check_dataset(data):
        raise ValueError(f"{data}: {len(faults)} faults, the first: {faults[0].file}: {faults[0].reason}")
    stages.run(
        "guidance classifier",
        model / "guidance_classifier",
        lambda: launch(
            "train_guidance_classifier.py",
            [*network, "--patch_size", "2", "--block_out_channels", "32", "64", "96"]
            + ["--max_train_steps", str(args.classifier_steps)]
            + ["--train_batch_size", "16", "--learning_rate", "1e-3", "--output_dir", str(model)],
        ),
    )
    # The samples are audited below; a watch over the training takes minutes more.
    denoiser = [*network, *DENOISER.split(), "--audit_steps", "0"]
    stages.run(
        "denoiser",
        model / "model_index.json",
        lambda: launch(
            "train_macdm.py",
            [*denoiser, "--output_dir", str(model), "--max_train_steps", str(denoiser_steps(args, out, denoiser))],
        ),
    )
    stages.run(
        "generate",
        synthetic / "summary.json",
        lambda: generate(model, synthetic, args.num_pairs // 2, seed=args.seed, **SAMPLING),
    )
    sources = {
        "inserted": (NUM_INSERTED, {"insert_into": data}),
        "variations": (NUM_VARIED, {"from_data": data, "strength": VARIATION_STRENGTH}),
        "given_masks": (NUM_VARIED, {"masks_from": data}),
    }
    for kind, (number, source) in sources.items():
        stages.run(
            kind.replace("_", " "),
            others[kind] / "summary.json",
            lambda kind=kind, number=number, source=source: generate(
                model, others[kind], number, seed=args.seed, **source, **SAMPLING
            ),
        )
    stages.run(
        "audit",
        audited / AUDIT_FILE,
        lambda: audit(data, synthetic, audited, seed=args.seed, progress=sys.stderr.isatty(), **AUDIT_SETTINGS),
    )
    verdict = json.loads((audited / AUDIT_FILE).read_text())["verdict"]
    if not page.exists():
        title = "MaC-DM on the embedded phantom"
        reference = REFERENCE if REFERENCE.is_file() else None
        report(data, model, synthetic, page, title, min(48, args.num_pairs), stages.seconds, verdict, others, reference)
    if not (page / "README.md").exists():
        write_card(args, model, synthetic, audited, page)
    facts = json.loads((page / "report.json").read_text())
    for row in facts["labels"]:
        share = f"{row['with_lesion_unrefined']:.0%} of {row['num_pairs']} pairs"
        print(f"label {row['label']}: {share} have a lesion as sampled (before refinement)")
    print(verdict)
    print(f"{sum(stages.seconds.values()) / 60:.1f} minutes in all; look at")
    for picture in ("real_and_synthetic", *KINDS):
        print(f"  {page}/{picture}.png")
    print(f"  {page}/index.html\n  {audited}/index.html")
    print(f"  {page}/README.md (the model's card)")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output_dir", default="runs/demo")
    parser.add_argument("--resolution", type=int, default=48, help="In pixels.")
    parser.add_argument("--num_normal", type=int, default=177, help="Training cases.")
    parser.add_argument("--num_lesion", type=int, default=73, help="Training cases.")
    parser.add_argument("--classifier_steps", type=int, default=300)
    parser.add_argument("--denoiser_minutes", type=float, default=5.5, help="Of training, measured by a short probe.")
    parser.add_argument("--denoiser_steps", type=int, help="Updates, instead of the minutes.")
    parser.add_argument("--num_pairs", type=int, default=64, help="Synthetic pairs, half of them with a lesion.")
    parser.add_argument("--seed", type=int, default=0)
    with said_in_one_sentence():
        run_demo(parser.parse_args())


if __name__ == "__main__":
    main()
