"""The main job from end to end on the embedded phantom (`make demo`).

Phantom of the paper's size (177 normal, 73 with a lesion) -> both trainings -> 64 synthetic pairs and 24 normal films with a
lesion painted in -> copy audit -> one page with real beside synthetic pairs. The default sizes fit 2 CPU cores in less than 10
minutes; where there is a GPU, the same command uses it. Interrupted, it continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from run_report import report
from stages import Stages, launch

from diffusers_macdm.audit import audit
from diffusers_macdm.audit.run import AUDIT_FILE
from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.files import write_text
from diffusers_macdm.generate import generate
from diffusers_macdm.hub.card import model_card, model_card_files
from diffusers_macdm.phantom import write_phantom


# Classifier-free guidance takes lesions from half of the pairs that should have one to three quarters, and none comes into the
# normal ones (measured at this size of training).
SAMPLING = {"classifier_free_guidance_scale": 2.0, "num_inference_steps": 50, "batch_size": 32}
NUM_INSERTED = 24  # normal films that a lesion is painted into
# Less than `macdm audit` does by default: half a minute.
AUDIT_SETTINGS = {"embedding_steps": 100, "planted": 20}
CARD_REPO_ID = "your-name/macdm-phantom-demo"  # nothing is pushed


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
    inserted = out / "inserted"
    settings = {key: value for key, value in vars(args).items() if key != "output_dir"}
    stages = Stages(out, "demo", settings)
    network = ["--train_data_dir", str(data), "--output_dir", str(model), "--resolution", str(args.resolution)]
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
            + ["--train_batch_size", "16", "--learning_rate", "1e-3"],
        ),
    )
    stages.run(
        "denoiser",
        model / "model_index.json",
        lambda: launch(
            "train_macdm.py",
            [*network, "--patch_size", "4", "--block_out_channels", "64", "64", "96"]
            + ["--max_train_steps", str(args.denoiser_steps), "--train_batch_size", "16", "--learning_rate", "1.2e-3"]
            + ["--task_probabilities", "0.7", "0.05", "0.05", "0.2"]
            + ["--audit_steps", "0"],  # the samples are audited below; a watch over the training takes minutes more
        ),
    )
    stages.run(
        "generate",
        synthetic / "summary.json",
        lambda: generate(model, synthetic, args.num_pairs // 2, seed=args.seed, **SAMPLING),
    )
    stages.run(
        "insertion",
        inserted / "summary.json",
        lambda: generate(model, inserted, NUM_INSERTED, insert_into=data, seed=args.seed, num_inference_steps=50),
    )
    stages.run(
        "audit",
        audited / AUDIT_FILE,
        lambda: audit(data, synthetic, audited, seed=args.seed, progress=sys.stderr.isatty(), **AUDIT_SETTINGS),
    )
    verdict = json.loads((audited / AUDIT_FILE).read_text())["verdict"]
    if not page.exists():
        title = "MaC-DM on the embedded phantom"
        report(data, model, synthetic, page, title, min(48, args.num_pairs), stages.seconds, verdict, inserted)
    if not (page / "README.md").exists():
        write_card(args, model, synthetic, audited, page)
    facts = json.loads((page / "report.json").read_text())
    for row in facts["labels"]:
        share = f"{row['with_lesion_unrefined']:.0%} of {row['num_pairs']} pairs"
        print(f"label {row['label']}: {share} have a lesion as sampled (before refinement)")
    print(verdict)
    print(f"{sum(stages.seconds.values()) / 60:.1f} minutes in all; look at")
    print(f"  {page}/real_and_synthetic.png\n  {page}/inserted.png\n  {page}/index.html\n  {audited}/index.html")
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
    parser.add_argument("--denoiser_steps", type=int, default=1600)
    parser.add_argument("--num_pairs", type=int, default=64, help="Synthetic pairs, half of them with a lesion.")
    parser.add_argument("--seed", type=int, default=0)
    try:
        run_demo(parser.parse_args())
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command continues") from None


if __name__ == "__main__":
    main()
